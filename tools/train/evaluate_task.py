"""Measures a model on fresh prompts of its task and prints the table of its card."""

import argparse
import pathlib

import torch

from export import load_folder
from tasks import TASKS

PIECE = 4096  # tokens read at once by a model that carries its state
TOKENS_MAX = 65536  # of a batch
LONG_ROWS = 16  # of a batch of longer prompts, which are read in pieces


def wilson(hits, count, z=1.96):
    """The 95 % score interval of a proportion, in percent."""
    share, half = hits / count, z * z / count / 2
    width = z * (share * (1 - share) / count + z * z / count**2 / 4) ** 0.5
    return [100 * (share + half + sign * width) / (1 + 2 * half) for sign in (-1, 1)]


def copy_rows(state, rows):
    """One row of state, repeated."""
    return [tuple(part.expand(rows, *part.shape[1:]) for part in layer) for layer in state]


@torch.no_grad()
def answer(model, ids, state=None):
    for piece in ids.split(PIECE, dim=1) if model.carries_state else [ids]:
        logits, state = model(piece, state, last_only=True)
    return logits[:, 0].argmax(-1)


def count_right(model, task, count, generator, state=None):
    """Right answers to `count` prompts, each continuing from `state` (one row) if given."""
    rows_max, right = max(1, min(64, TOKENS_MAX // task.length)), 0
    if task.length > TOKENS_MAX and model.carries_state:
        rows_max = LONG_ROWS
    for first in range(0, count, rows_max):
        rows = min(rows_max, count - first)
        ids, answers = task.draw(rows, generator)
        start = copy_rows(state, rows) if state else None
        right += (answer(model, ids, start) == answers).sum().item()
    return right


def report(label, right, count):
    low, high = wilson(right, count)
    share = 100 * right / count
    print(f"| {label} | {right} / {count} | {share:.2f} | {low:.2f} to {high:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path, help="folder with config.json, or a checkpoint")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--lengths", type=int, nargs="+", required=True)
    parser.add_argument("--prompts", type=int, default=5000, help="prompts per length")
    parser.add_argument("--seed", type=int, default=12345)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_folder(args.model)
    print("| length | right | % | 95 % interval |\n| --- | --- | --- | --- |")
    for length in args.lengths:
        task = TASKS[args.task](model.config.vocab, length)
        generator = torch.Generator().manual_seed(args.seed + length)
        report(f"{length:,}", count_right(model, task, args.prompts, generator), args.prompts)
    print(f"\nOne symbol for every prompt is right in {100 * task.chance:.1f} %.")


if __name__ == "__main__":
    main()
