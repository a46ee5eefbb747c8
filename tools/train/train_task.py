"""Trains one model on one task under the protocol of the H3 paper.

5,000 training and 500 test prompts, batches of 32, AdamW, cross-entropy over
all positions. The schedule depends on the task: induction head 400 epochs with
a cosine, associative recall 200 with a straight line down to zero.

Source: HazyResearch/safari 02220c69, configs of the H3 paper's synthetic tasks.
"""

import argparse
import math
import pathlib
import time

import torch
from torch.nn import functional as F

from checkpoint import FAMILIES, make_model, save
from skeleton import MIXERS, SkeletonConfig
from tasks import TASKS, draw_distinct

RATE, RATE_WARM_UP, RATE_SSM_MAX = 5e-4, 1e-6, 1e-3
BATCH = 32
TRAIN_PROMPTS, TEST_PROMPTS = 5000, 500
SETTINGS = {"induction": dict(vocab=20, length=30, epochs=400), "recall": dict(vocab=10, length=20, epochs=200)}


def make_config(family, task):
    """Two layers of width 32, as in the paper's table."""
    if family in ("mamba", "mamba2"):
        return FAMILIES[family][0](vocab=task.vocab, d_model=32, n_layer=2)
    config = SkeletonConfig(family, vocab=task.vocab, d_model=32, n_layer=2, n_inner=128, dropout=0.1)
    if family == "attention":
        config.heads, config.attention_dropout, config.positions = 1, 0.1, task.length + 2
    return config


def make_optimizer(model, rate):
    mixer = MIXERS.get(model.config.family)
    undecayed = mixer.undecayed if mixer else ("A_log", "dt_proj.bias", "dt_bias")
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[".mixer." in name and name.endswith(undecayed)].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[False], "rate": rate, "weight_decay": 0.1},
         {"params": groups[True], "rate": min(RATE_SSM_MAX, rate), "weight_decay": 0.0}],
        betas=(0.9, 0.999), fused=True)


def rate_at(step, steps, rate, task_name):
    """Learning rate of step 0, 1, ...: linear warm-up over a tenth to `rate`, then down."""
    warm_up = steps // 10
    if step < warm_up:
        return RATE_WARM_UP + (rate - RATE_WARM_UP) * step / warm_up
    if task_name == "induction":  # the angle counts from step 0
        return rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    return rate * (steps - step) / (steps - warm_up)


@torch.no_grad()
def count_right(model, ids, answers):
    model.eval()
    right = (model(ids, last_only=True)[0][:, 0].argmax(-1) == answers).sum().item()
    model.train()
    return right


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="checkpoint to write")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights, order and dropout")
    parser.add_argument("--data-seed", type=int, default=0, help="of the training and test prompts")
    parser.add_argument("--rate", type=float, default=RATE, help="highest learning rate, if not the protocol's")
    parser.add_argument("--epochs", type=int, help="length of the schedule, if not the protocol's")
    parser.add_argument("--stop", type=int, help="end at this epoch of the schedule already")
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    settings = SETTINGS[args.task]
    task = TASKS[args.task](settings["vocab"], settings["length"])
    generator = torch.Generator().manual_seed(args.data_seed)
    ids, answers = draw_distinct(task, TRAIN_PROMPTS, generator)
    test_ids, test_answers = draw_distinct(task, TEST_PROMPTS, generator)
    rows = torch.cat([ids, answers[:, None]], dim=1)

    model = make_model(make_config(args.family, task))
    optimizer = make_optimizer(model, args.rate)
    epochs = args.epochs or settings["epochs"]
    steps, step, begin = epochs * math.ceil(len(rows) / BATCH), 0, time.time()
    for epoch in range(1, (args.stop or epochs) + 1):
        total = 0.0
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, steps, group["rate"], args.task)
            logits, _ = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
            step += 1
        right = count_right(model, test_ids, test_answers)
        print(f"epoch {epoch} step {step} loss {total / len(rows):.4f} test {right}/{len(test_ids)} "
              f"seconds {time.time() - begin:.0f}", flush=True)
        save(model, args.out, task=args.task, vocab=task.vocab, length=task.length, seed=args.seed,
             epoch=epoch, step=step)
    fresh_ids, fresh_answers = task.draw(5000, torch.Generator().manual_seed(12345))
    print(f"fresh {count_right(model, fresh_ids, fresh_answers)}/5000", flush=True)


if __name__ == "__main__":
    main()
