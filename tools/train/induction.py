"""Trains the two-layer induction model on fresh random prompts.

A prompt is T random symbols, of which one is replaced by the trigger "=>", and
then the trigger once more; the answer is the symbol that followed the first
trigger. The loss is on the answer only, and T doubles whenever the running
accuracy at the present T passes a bar.
"""

import argparse
import math
import pathlib
import random
import time

import torch
from torch.nn import functional as F

from mamba import Mamba, MambaConfig, save

SYMBOLS = sorted([".", "=>", *map(str, range(14))])
NORMAL = torch.tensor([i for i, s in enumerate(SYMBOLS) if s not in (".", "=>")])
TRIGGER = SYMBOLS.index("=>")


def random_symbols(rows, length, generator=None):
    return NORMAL[torch.randint(len(NORMAL), (rows, length), generator=generator)]


def make_prompts(rows, length, generator=None):
    """Returns ids [rows, length + 1], which end in the trigger, and the answers [rows]."""
    ids = random_symbols(rows, length, generator)
    positions = torch.randint(length - 2, (rows, 1), generator=generator)
    answers = ids.gather(1, positions + 1)[:, 0]
    ids.scatter_(1, positions, TRIGGER)
    return torch.cat([ids, torch.full((rows, 1), TRIGGER)], dim=1), answers


def draw_length(longest):
    """The longest in half the steps; shorter ones stay in the mix so that nothing is lost."""
    if random.random() < 0.5:
        return longest
    return int(math.exp(random.uniform(math.log(12), math.log(longest + 1))))


def rows_for(length):
    if length <= 64:
        return 64
    return 16 if length <= 1024 else max(1, 16384 // length)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="checkpoint to write")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam, constant")
    parser.add_argument("--length-max", type=int, default=8192, help="end of the curriculum")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")  # oneDNN's matrix product, the faster one here
    model = Mamba(MambaConfig(vocab=len(SYMBOLS), d_model=64, n_layer=2, tied=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.rate)
    longest, accuracy, begin = 16, 0.0, time.time()
    for step in range(1, args.steps + 1):
        length = draw_length(longest)
        ids, answers = make_prompts(rows_for(length), length)
        logits, _ = model(ids, last_only=True)
        loss = F.cross_entropy(logits[:, 0], answers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        if length == longest:
            right = (logits[:, 0].argmax(-1) == answers).float().mean().item()
            accuracy = 0.97 * accuracy + 0.03 * right
        if accuracy > 0.97 and longest < args.length_max:
            longest, accuracy = 2 * longest, 0.9
        if step % 100 == 0 or step == args.steps:
            print(f"step {step} longest {longest} loss {loss.item():.5f} "
                  f"accuracy {accuracy:.4f} seconds {time.time() - begin:.0f}", flush=True)
            save(model, args.out, step=step)


if __name__ == "__main__":
    main()
