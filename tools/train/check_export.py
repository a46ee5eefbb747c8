"""Opens a model folder with other code than the training's and compares the logits.

Mamba and Mamba-2 folders are opened by `transformers`, unchanged; the others,
which it does not know, are computed one token at a time in float64. Writes
nothing. Ends with an error if a logit differs by more than the tolerance.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from export import load_folder
from reference import reference_logits

PLAIN_TEXT = "And it came to pass, that the king said unto him,"


def example_text(name):
    if "recall" in name:
        return "2 7 0 4 2 7 1 5 => 0"
    return "3 1 => 7 0 12 13 5 =>" if "induction" in name else PLAIN_TEXT


def check_tokenizer(folder, tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
        raise SystemExit(f"text does not survive the tokenizer: {text!r}")
    print(f"tokenizer: {type(tokenizer).__name__}, {len(tokenizer)} ids, {text!r} -> {ids}")


def open_with_transformers(folder):
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True)
    problems = {name: keys for name, keys in loading.items() if keys}
    if problems:
        raise SystemExit(f"transformers did not take the weights as they are: {problems}")
    return model.eval()


@torch.no_grad()
def largest_difference(ours, theirs, ids):
    return (ours(ids)[0] - theirs(ids)).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=300, help="length of the random input")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    text = example_text(args.folder.resolve().name)
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    check_tokenizer(args.folder, tokenizer, text)

    ours, tokens = load_folder(args.folder), args.tokens
    config = json.loads((args.folder / "config.json").read_text())
    model = None
    if config["model_type"].startswith("mamba"):
        model = open_with_transformers(args.folder)

        def theirs(ids):
            return model(ids).logits
    else:
        tensors = load_file(args.folder / "model.safetensors")
        tokens = min(tokens, config.get("max_position_embeddings") or tokens)

        def theirs(ids):
            return torch.stack([reference_logits(config, tensors, row) for row in ids])

    prompt = tokenizer(text, return_tensors="pt").input_ids
    noise = torch.randint(len(tokenizer), (2, tokens))
    for name, ids in (("text", prompt), ("random ids", noise)):
        difference = largest_difference(ours, theirs, ids)
        print(f"logits on {name} {list(ids.shape)}: largest difference {difference:.2e}")
        if not difference <= args.tolerance:
            raise SystemExit(f"more than {args.tolerance}")
    if config["eos_token_id"] is None:
        with torch.no_grad():
            print(f"next token: {tokenizer.decode(theirs(prompt)[0, -1].argmax())!r}")
    else:
        output = model.generate(prompt, max_new_tokens=24, do_sample=False)
        print(f"greedy: {tokenizer.decode(output[0])!r}")


if __name__ == "__main__":
    main()
