"""Measures the induction model on fresh prompts and prints the table of its card.

Two parts: prompts of growing length read from a zero state, and prompts that go
on from a state which has already read a million symbols without the trigger.
"""

import argparse
import pathlib

import torch

from evaluate_task import PIECE, answer, count_right, report
from export import load_folder
from tasks import InductionHead


@torch.no_grad()
def read_symbols(model, tokens, generator):
    """The state after so many random symbols without the trigger, one row."""
    task, state = InductionHead(model.config.vocab, tokens), None
    for first in range(0, tokens, PIECE):
        ids = task.random_symbols(1, min(PIECE, tokens - first), generator)
        _, state = model(ids, state, last_only=True)
    return state


@torch.no_grad()
def count_second(model, count, length, generator):
    """Asks twice in one sequence: (same binding, right), (other binding: new answer, old answer)."""
    task = InductionHead(model.config.vocab, length)
    ids, first = task.draw(count, generator)
    _, state = model(ids, last_only=True)
    trigger = ids[:, -1:]
    again = torch.cat([first[:, None], task.random_symbols(count, length, generator), trigger], dim=1)
    other, second = task.draw(count, generator)
    other = torch.cat([first[:, None], other], dim=1)
    kept = (answer(model, again, state) == first).sum().item()
    said = answer(model, other, state)
    return kept, (said == second).sum().item(), (said == first).sum().item()


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
        task = InductionHead(model.config.vocab, length)
        report(f"{length:,}", count_right(model, task, args.prompts, generator), args.prompts)
    for tokens in args.read:
        generator = torch.Generator().manual_seed(args.seed + tokens)
        state = read_symbols(model, tokens, generator)
        largest = max(h.abs().max().item() for _, h in state)
        task = InductionHead(model.config.vocab, args.read_length)
        right = count_right(model, task, args.read_prompts, generator, state)
        report(f"{args.read_length:,} after {tokens:,} symbols", right, args.read_prompts)
        print(f"\nLargest absolute state value after {tokens:,} symbols: {largest:.1f}\n")
    if args.second:
        generator = torch.Generator().manual_seed(args.seed)
        kept, new, old = count_second(model, args.second, args.read_length, generator)
        print(f"Asked twice in one sequence ({args.second} sequences, {args.read_length} symbols each time): "
              f"same binding {kept} right; rebound, {new} give the new answer and {old} the old one")


if __name__ == "__main__":
    main()
