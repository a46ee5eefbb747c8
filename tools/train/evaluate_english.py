"""Measures the English model on the held-out chapters and prints samples for its card."""

import argparse
import math
import pathlib
import random

import torch
from tokenizers import Tokenizer

from english import bits_per_byte, read_chapters, read_text, split_chapters
from export import load_folder


def bootstrap(chapters, draws=2000):
    """95 % interval of the pooled bits per byte, drawing whole chapters with replacement."""
    draw, means = random.Random(0), []
    for _ in range(draws):
        bits, size = map(sum, zip(*draw.choices(chapters, k=len(chapters))))
        means.append(bits / size)
    means.sort()
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


@torch.no_grad()
def sample(model, tokenizer, prompt, tokens, temperature, generator):
    ids = tokenizer.encode(prompt).ids
    logits, state = model(torch.tensor([ids]), last_only=True)
    while len(ids) < tokens:
        shares = torch.softmax(logits[0, 0] / temperature, dim=-1)
        ids.append(torch.multinomial(shares, 1, generator=generator).item())
        logits, state = model(torch.tensor([ids[-1:]]), state)
    return tokenizer.decode(ids, skip_special_tokens=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="folder with config.json and tokenizer.json")
    parser.add_argument("--tokens", type=int, default=100, help="length of a sample, prompt included")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("prompts", nargs="*", default=[
        "And it came to pass, that", "The LORD is my", "In the beginning", "Then Jesus said unto them,"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_folder(args.folder)
    tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    _, held = split_chapters(read_chapters(read_text()))
    result = bits_per_byte(model, held, tokenizer)
    bits, size = map(sum, zip(*result))
    tokens = sum(len(tokenizer.encode(text).ids) for _, text in held)
    low, high = bootstrap(result)
    print(f"{len(held)} chapters, {size} bytes, {tokens} tokens: {bits / size:.4f} bits per byte "
          f"(95 % interval over chapters {low:.4f} to {high:.4f}), "
          f"perplexity {math.exp(bits * math.log(2) / tokens):.2f} per token\n")
    generator = torch.Generator().manual_seed(args.seed)
    for prompt in args.prompts:
        text = sample(model, tokenizer, prompt, args.tokens, args.temperature, generator)
        print(f"> {text}\n")


if __name__ == "__main__":
    main()
