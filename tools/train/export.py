"""Writes a trained checkpoint as a model folder; those of Mamba and Mamba-2 `transformers` opens unchanged."""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from checkpoint import FAMILIES, load, make_model
from tasks import sorted_symbols

END = "<|endoftext|>"


def symbol_tokenizer(vocab):
    """One token a symbol, split at blanks. There is no unknown token: another word is an error."""
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(sorted_symbols(vocab))}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n")


def load_folder(path):
    """The model of an exported folder (or of a checkpoint file), for our own code."""
    path = pathlib.Path(path)
    if path.is_file():
        return load(path)[0]
    fields = json.loads((path / "config.json").read_text())
    config_class, _ = FAMILIES[fields["model_type"]]
    model = make_model(config_class.from_json(fields))
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path,
                        help="tokenizer.json to copy; without it the symbols of the tasks")
    parser.add_argument("--trained-tokens", type=int,
                        help="the longest text that it was trained on, for who looks into sessions (engram look)")
    args = parser.parse_args()
    model, _ = load(args.checkpoint)
    tokenizer = Tokenizer.from_file(str(args.tokenizer)) if args.tokenizer else symbol_tokenizer(model.config.vocab)
    if tokenizer.get_vocab_size() != model.config.vocab:
        raise SystemExit(f"tokenizer has {tokenizer.get_vocab_size()} ids, model {model.config.vocab}")
    end_id = tokenizer.token_to_id(END)
    end = END if end_id is not None else None

    args.folder.mkdir(parents=True, exist_ok=True)
    ends = {"bos_token_id": end_id, "eos_token_id": end_id, "pad_token_id": end_id}
    trained = {"trained_tokens": args.trained_tokens} if args.trained_tokens else {}
    weights = {name: value.to(torch.float32).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, args.folder / "model.safetensors", metadata={"format": "pt"})
    (args.folder / "model.safetensors").chmod(0o644)
    write_json(args.folder / "config.json", model.config.to_json() | ends | trained | {"torch_dtype": "float32"})
    write_json(args.folder / "generation_config.json", ends)
    tokenizer.save(str(args.folder / "tokenizer.json"))
    write_json(args.folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end, "eos_token": end, "pad_token": end, "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**9,
    })


if __name__ == "__main__":
    main()
