"""Trains an induction-head model on fresh random prompts, the loss on the answer only.

The random part doubles whenever the running accuracy at the present length
passes a bar. With --validate, the checkpoint kept is the one with the highest
mean accuracy on fixed prompts of those lengths, the later of equals.
"""

import argparse
import math
import pathlib
import random
import time

import torch
from torch.nn import functional as F

from checkpoint import FAMILIES, load, make_model, save
from evaluate_task import count_right
from selective_scan import softplus
from skeleton import MIXERS, SkeletonConfig
from tasks import InductionHead

VALIDATE_TOKENS = 2**18  # per length
VALIDATE_PROMPTS_MAX = 256


def make_config(args):
    if args.family in MIXERS:
        config = SkeletonConfig(args.family, vocab=args.vocab, d_model=args.d_model, n_layer=2,
                                n_inner=args.n_inner, tied=args.tied)
        if args.family == "attention":
            config.heads, config.positions = args.heads, args.positions
            config.rotary_dim = 0 if args.positions else args.d_model // args.heads
        return config
    return FAMILIES[args.family][0](vocab=args.vocab, d_model=args.d_model, n_layer=2, tied=args.tied)


STEP_MIN = 1e-30  # below, a step is as good as none and the penalty on logarithms ends


def record_steps(model, logarithms=False):
    """A list that every forward pass of a Mamba appends each layer's mean step size (or its logarithm's) to."""
    means = []

    def record(module, inputs, dt):
        step = softplus(dt)
        means.append((step.clamp(min=STEP_MIN).log() if logarithms else step).mean())

    for layer in model.backbone.layers:
        layer.mixer.dt_proj.register_forward_hook(record)
    return means


def draw_length(shortest, longest, longest_share):
    """The longest in that share of the steps; shorter ones stay in the mix so that nothing is lost."""
    if random.random() < longest_share:
        return longest
    return int(math.exp(random.uniform(math.log(shortest), math.log(longest + 1))))


def rows_for(length, rows_max):
    if length <= 64:
        return min(64, 4 * rows_max)
    return rows_max if length <= 1024 else max(1, 16384 // length)


@torch.no_grad()
def validate(model, lengths):
    """The share right on fixed prompts of each length."""
    model.eval()
    shares = []
    for length in lengths:
        count = max(1, min(VALIDATE_PROMPTS_MAX, VALIDATE_TOKENS // length))
        task, generator = InductionHead(model.config.vocab, length), torch.Generator().manual_seed(length)
        shares.append(count_right(model, task, count, generator) / count)
    model.train()
    return shares


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="checkpoint to write")
    parser.add_argument("--resume", type=pathlib.Path, help="checkpoint whose weights to start from")
    parser.add_argument("--family", choices=FAMILIES, default="mamba")
    parser.add_argument("--vocab", type=int, default=16)
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--tied", action="store_true", help="one matrix for embedding and head")
    parser.add_argument("--n-inner", type=int, default=0, help="width of the MLP of H3, S4D and attention")
    parser.add_argument("--heads", type=int, default=8, help="of attention")
    parser.add_argument("--positions", type=int, default=0, help="learned positions of attention; 0 = rotary")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of Adam, constant")
    parser.add_argument("--step-penalty", type=float, default=0.0,
                        help="weight of Mamba's mean step size in the loss: reads, writes and forgets no more than it must")
    parser.add_argument("--step-logarithms", action="store_true",
                        help="take the penalty on the mean logarithm of the step, which small steps feel as much as large ones")
    parser.add_argument("--cool-down", type=int, default=0, help="last steps, in which the rate falls to zero")
    parser.add_argument("--rows", type=int, default=16,
                        help="prompts a step at lengths over 64; up to there four times as many, at most 64")
    parser.add_argument("--length-min", type=int, default=12, help="shortest random part of the mix")
    parser.add_argument("--longest-share", type=float, default=0.5, help="share of the steps at the present longest length")
    parser.add_argument("--length-first", type=int, default=16, help="start of the curriculum")
    parser.add_argument("--length-max", type=int, default=8192, help="end of the curriculum")
    parser.add_argument("--validate", type=int, nargs="*", default=[], help="lengths that choose the checkpoint")
    parser.add_argument("--validate-every", type=int, default=500)
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")  # oneDNN's matrix product, the faster one here
    model = load(args.resume)[0].train() if args.resume else make_model(make_config(args))
    optimizer = torch.optim.Adam(model.parameters(), lr=args.rate)
    steps_taken = record_steps(model, args.step_logarithms) if args.step_penalty else []
    longest, accuracy, best, begin = args.length_first, 0.0, -1.0, time.time()
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (args.steps + 1 - step) / (args.cool_down + 1))
        length = draw_length(args.length_min, longest, args.longest_share)
        ids, answers = InductionHead(args.vocab, length).draw(rows_for(length, args.rows))
        logits, _ = model(ids, last_only=True)
        loss = F.cross_entropy(logits[:, 0], answers)
        optimizer.zero_grad()
        (loss + args.step_penalty * sum(steps_taken)).backward()
        steps_taken.clear()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        if length == longest:
            right = (logits[:, 0].argmax(-1) == answers).float().mean().item()
            accuracy = 0.97 * accuracy + 0.03 * right
        if accuracy > 0.97 and longest < args.length_max:
            longest, accuracy = min(2 * longest, args.length_max), 0.9
        last = step == args.steps
        if step % 100 == 0 or last:
            print(f"step {step} longest {longest} loss {loss.item():.5f} "
                  f"accuracy {accuracy:.4f} seconds {time.time() - begin:.0f}", flush=True)
            if not args.validate:
                save(model, args.out, step=step)
        if args.validate and (step % args.validate_every == 0 or last):
            shares = validate(model, args.validate)
            steps_taken.clear()
            mean = sum(shares) / len(shares)
            kept = mean >= best
            print(f"step {step} validation {' '.join(f'{share:.3f}' for share in shares)} "
                  f"mean {mean:.4f}{' kept' if kept else ''}", flush=True)
            if kept:
                best = mean
                save(model, args.out, step=step, validation=dict(zip(args.validate, shares)))


if __name__ == "__main__":
    main()
