"""Opens a model folder with `transformers`, unchanged, and compares it with our training model.

Writes nothing. Ends with an error if a logit differs by more than the tolerance.
"""

import argparse
import pathlib

import torch
from transformers import AutoTokenizer, MambaForCausalLM
from transformers.utils import logging

from export import load_folder

TEXTS = {
    "mamba-induction": "3 1 => 7 0 12 13 5 =>",
    "mamba-english": "And it came to pass, that the king said unto him,",
}


def check_tokenizer(folder, tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
        raise SystemExit(f"text does not survive the tokenizer: {text!r}")
    print(f"tokenizer: {type(tokenizer).__name__}, {len(tokenizer)} ids, {text!r} -> {ids}")


@torch.no_grad()
def largest_difference(ours, theirs, ids):
    return (ours(ids)[0] - theirs(ids).logits).abs().max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=300, help="length of the random input")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    text = TEXTS.get(args.folder.resolve().name, TEXTS["mamba-english"])
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    check_tokenizer(args.folder, tokenizer, text)

    theirs, loading = MambaForCausalLM.from_pretrained(
        args.folder, dtype=torch.float32, output_loading_info=True)
    problems = {name: keys for name, keys in loading.items() if keys}
    if problems:
        raise SystemExit(f"transformers did not take the weights as they are: {problems}")
    ours = load_folder(args.folder)
    prompt = tokenizer(text, return_tensors="pt").input_ids
    noise = torch.randint(len(tokenizer), (2, args.tokens))
    for name, ids in (("text", prompt), ("random ids", noise)):
        difference = largest_difference(ours, theirs, ids)
        print(f"logits on {name} {list(ids.shape)}: largest difference {difference:.2e}")
        if not difference <= args.tolerance:
            raise SystemExit(f"more than {args.tolerance}")
    if theirs.config.eos_token_id is None:
        answer = tokenizer.decode(theirs(prompt).logits[0, -1].argmax())
        print(f"next token: {answer!r}")
    else:
        output = theirs.generate(prompt, max_new_tokens=24, do_sample=False)
        print(f"greedy: {tokenizer.decode(output[0])!r}")


if __name__ == "__main__":
    main()
