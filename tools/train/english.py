"""Trains a small English model on the King James text, one paragraph a chapter.

The text comes from the `bible` program (Debian package bible-kjv). The training
rows read the books as running text and carry their state from one piece to the
next, as a server does; now and then a row jumps and starts again from zero.
"""

import argparse
import ctypes
import math
import pathlib
import random
import re
import subprocess
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F

from checkpoint import load, save
from mamba import Mamba, MambaConfig

END = "<|endoftext|>"
VERSE = re.compile(r"(\d?[A-Za-z]+)(\d+):(\d+) (.*)")


def read_text():
    command = ["bible", "-f", "Genesis1:1-Revelation22:21"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def read_chapters(text):
    """Returns [(book, "verse verse ... \\n")], the verse numbers left out."""
    chapters, last = [], None
    for line in text.splitlines():
        match = VERSE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a verse: {line!r}")
        book, chapter, _, verse = match.groups()
        if (book, chapter) != last:
            chapters.append((book, []))
            last = (book, chapter)
        chapters[-1][1].append(verse.strip())
    return [(book, " ".join(verses) + "\n") for book, verses in chapters]


def split_chapters(chapters, share=0.02):
    """Takes whole chapters for the held-out part, by a fixed draw."""
    order = list(range(len(chapters)))
    random.Random(0).shuffle(order)
    total, taken, held = sum(len(text) for _, text in chapters), 0, set()
    for i in order:
        if taken >= share * total:
            break
        held.add(i)
        taken += len(chapters[i][1])
    return [c for i, c in enumerate(chapters) if i not in held], [chapters[i] for i in sorted(held)]


def train_tokenizer(chapters, vocab=2048):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator([text for _, text in chapters], trainer)
    return tokenizer


def join_books(chapters, tokenizer):
    """All ids in one row; END before every book."""
    ids, last = [], None
    for book, text in chapters:
        if book != last:
            ids.append(tokenizer.token_to_id(END))
            last = book
        ids.extend(tokenizer.encode(text).ids)
    ids.append(tokenizer.token_to_id(END))
    return torch.tensor(ids)


@torch.no_grad()
def bits_per_byte(model, chapters, tokenizer):
    """Bits per byte of each held-out chapter, read from zero state after a newline."""
    newline = tokenizer.encode("\n").ids
    model.eval()
    result = []
    for _, text in chapters:
        ids = torch.tensor([newline + tokenizer.encode(text).ids])
        logits, _ = model(ids[:, :-1])
        nats = F.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        result.append((nats / math.log(2), len(text.encode())))
    model.train()
    return result


class Rows:
    """Pieces of running text with the state each row has reached."""

    def __init__(self, ids, rows, tokens, restart=1 / 16):
        self.ids, self.tokens, self.restart = ids, tokens, restart
        self.at = [self._draw() for _ in range(rows)]
        self.state = None

    def _draw(self):
        return random.randrange(len(self.ids) - self.tokens - 1)

    def next(self):
        """Returns input and target [rows, tokens]; self.state fits the input."""
        for row, at in enumerate(self.at):
            if at + self.tokens + 1 > len(self.ids) or random.random() < self.restart:
                self.at[row] = self._draw()
                for window, h in self.state or []:
                    window[row], h[row] = 0, 0
        pieces = torch.stack([self.ids[at : at + self.tokens + 1] for at in self.at])
        self.at = [at + self.tokens for at in self.at]
        return pieces[:, :-1], pieces[:, 1:]


def sum_loss(model, hidden, targets):
    """Cross-entropy summed over all tokens, a few rows at a time to bound the memory of logits."""
    parts = zip(hidden.split(4), targets.split(4))
    return sum(F.cross_entropy(model.head(h).flatten(0, 1), t.flatten(), reduction="sum") for h, t in parts)


def keep_freed_memory():
    """Asks glibc to reuse large blocks: fresh pages for every tensor cost a fifth of the time."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(mmap_threshold, 1 << 25)


def make_optimizer(model, rate):
    def decays(name, p):
        return p.dim() == 2 and "A_log" not in name

    named = list(model.named_parameters())
    return torch.optim.AdamW([
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": 0.1},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ], lr=rate, betas=(0.9, 0.95))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="checkpoint to write")
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True, help="tokenizer.json to write")
    parser.add_argument("--resume", type=pathlib.Path, help="checkpoint whose weights to start from")
    parser.add_argument("--steps", type=int, default=2000, help="length of the schedule")
    parser.add_argument("--stop", type=int, help="end at this step of the schedule already")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a row per step")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")  # oneDNN's matrix product, the faster one here
    keep_freed_memory()
    train, held = split_chapters(read_chapters(read_text()))
    tokenizer = train_tokenizer(train)
    tokenizer.save(str(args.tokenizer))
    ids = join_books(train, tokenizer)
    model = Mamba(MambaConfig(vocab=tokenizer.get_vocab_size(), d_model=192, n_layer=4,
                              dropout=args.dropout))
    if args.resume:
        model.load_state_dict(load(args.resume)[0].state_dict())
    optimizer = make_optimizer(model, args.rate)
    rows = Rows(ids, args.rows, args.tokens)
    size = sum(p.numel() for p in model.parameters())
    print(f"{size} parameters, {len(ids)} tokens, {len(held)} chapters held out", flush=True)
    begin, warm_up = time.time(), 100
    last = args.stop or args.steps
    for step in range(1, last + 1):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 1) / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, step / warm_up) * cosine
        inputs, targets = rows.next()
        hidden, rows.state = model.read(inputs, rows.state)
        loss = sum_loss(model, hidden, targets) / targets.numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.4f} seconds {time.time() - begin:.0f}", flush=True)
        if step % 250 == 0 or step == last:
            bits, size = map(sum, zip(*bits_per_byte(model, held, tokenizer)))
            print(f"step {step} held-out bits per byte {bits / size:.4f}", flush=True)
            save(model, args.out, step=step)


if __name__ == "__main__":
    main()
