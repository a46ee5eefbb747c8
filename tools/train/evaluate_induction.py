"""Measures the induction model on fresh prompts and prints the table of its card.

Two parts: prompts of growing length read from a zero state, and prompts that go
on from a state which has already read a million symbols without the trigger.
"""

import argparse
import pathlib

import torch

from export import load_folder
from induction import make_prompts, random_symbols

PIECE = 4096  # tokens read at once; the state carries over


def wilson(hits, count, z=1.96):
    """The 95 % score interval of a proportion, in percent."""
    share, half = hits / count, z * z / count / 2
    width = z * (share * (1 - share) / count + z * z / count**2 / 4) ** 0.5
    return [100 * (share + half + sign * width) / (1 + 2 * half) for sign in (-1, 1)]


def copy_rows(state, rows):
    """One row of state, repeated."""
    return [(window.expand(rows, -1, -1), h.expand(rows, -1, -1)) for window, h in state]


@torch.no_grad()
def answer(model, ids, state=None):
    for piece in ids.split(PIECE, dim=1):
        logits, state = model(piece, state, last_only=True)
    return logits[:, 0].argmax(-1)


def count_right(model, count, length, generator, state=None):
    """Right answers to `count` prompts, each continuing from `state` (one row) if given."""
    rows_max, right = max(1, min(64, 65536 // length)), 0
    for first in range(0, count, rows_max):
        rows = min(rows_max, count - first)
        ids, answers = make_prompts(rows, length, generator)
        start = copy_rows(state, rows) if state else None
        right += (answer(model, ids, start) == answers).sum().item()
    return right


@torch.no_grad()
def read_symbols(model, tokens, generator):
    """The state after so many random symbols without the trigger, one row."""
    state = None
    for first in range(0, tokens, PIECE):
        ids = random_symbols(1, min(PIECE, tokens - first), generator)
        _, state = model(ids, state, last_only=True)
    return state


@torch.no_grad()
def count_second(model, count, length, generator):
    """Asks twice in one sequence: (same binding, right), (other binding: new answer, old answer)."""
    ids, first = make_prompts(count, length, generator)
    _, state = model(ids, last_only=True)
    trigger = ids[:, -1:]
    again = torch.cat([first[:, None], random_symbols(count, length, generator), trigger], dim=1)
    other, second = make_prompts(count, length, generator)
    other = torch.cat([first[:, None], other], dim=1)
    kept = (answer(model, again, state) == first).sum().item()
    said = answer(model, other, state)
    return kept, (said == second).sum().item(), (said == first).sum().item()


def report(label, right, count):
    low, high = wilson(right, count)
    share = 100 * right / count
    print(f"| {label} | {right} / {count} | {share:.2f} | {low:.2f} to {high:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path, help="folder with config.json, or a checkpoint")
    parser.add_argument("--lengths", type=int, nargs="*", default=[64, 128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--prompts", type=int, default=1000, help="prompts per length")
    parser.add_argument("--read", type=int, nargs="*", default=[1_000_000],
                        help="symbols read before a prompt")
    parser.add_argument("--read-prompts", type=int, default=200)
    parser.add_argument("--read-length", type=int, default=256, help="length of those prompts")
    parser.add_argument("--second", type=int, default=0, help="sequences that are asked a second time")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_folder(args.model)
    print("| random part | right | % | 95 % interval |\n| --- | --- | --- | --- |")
    for length in args.lengths:
        generator = torch.Generator().manual_seed(args.seed + length)
        report(f"{length:,}", count_right(model, args.prompts, length, generator), args.prompts)
    for tokens in args.read:
        generator = torch.Generator().manual_seed(args.seed + tokens)
        state = read_symbols(model, tokens, generator)
        largest = max(h.abs().max().item() for _, h in state)
        right = count_right(model, args.read_prompts, args.read_length, generator, state)
        report(f"{args.read_length:,} after {tokens:,} symbols", right, args.read_prompts)
        print(f"\nLargest absolute state value after {tokens:,} symbols: {largest:.1f}\n")
    if args.second:
        generator = torch.Generator().manual_seed(args.seed)
        kept, new, old = count_second(model, args.second, args.read_length, generator)
        print(f"Asked twice in one sequence ({args.second} sequences, {args.read_length} symbols each time): "
              f"same binding {kept} right; rebound, {new} give the new answer and {old} the old one")


if __name__ == "__main__":
    main()
