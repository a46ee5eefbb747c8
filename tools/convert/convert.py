#!/usr/bin/python3
"""Turns pickled PyTorch weights into a model folder that engram-server loads."""

import argparse
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time

from errors import ConvertError, shown
from families import (EMBEDDINGS, FAMILIES, H3, HEAD, Tensors, check_config, config_family, detect,
                      says_tied)
from pickle_reader import Foreign, Tensor
from safetensors_writer import TensorReader, check_size, write_safetensors
from source import find_weights, open_weights, read_small_file

NAME_CHARACTERS_MAX = 512
TENSORS_MAX = 100_000
JSON_BYTES_MAX = 256 << 20
PROGRESS_SECONDS = 1

# Where training checkpoints have the weights, and what wraps a model while it is trained.
PARTS = ("state_dict", "model", "model_state_dict", "module")
WRAPPERS = ("module.", "_orig_mod.", "model.")

EXAMPLES = """\
examples:
  A folder of Hugging Face with pytorch_model.bin, or with shards and their index:
    tools/convert/convert.py downloads/mamba-2.8b-hf models/mamba-2.8b
  A state-spaces checkout, config.json beside the weights; its tokenizer is GPT-NeoX's:
    tools/convert/convert.py mamba-130m/pytorch_model.bin models/mamba-130m --tokenizer gpt-neox-20b
  Mamba-2:
    tools/convert/convert.py mamba2-370m/pytorch_model.bin models/mamba2-370m --tokenizer gpt-neox-20b
  H3, which comes without config.json (its tokenizer is GPT-2's):
    tools/convert/convert.py H3-125M/model.pt models/h3-125m --tokenizer gpt2/tokenizer.json
  A Lightning file that pickles more than tensors; the rest is skipped, never run:
    tools/convert/convert.py H3-355M/model.pt models/h3-355m --allow-foreign-objects
  Then:
    scripts/serve --model mamba-130m=models/mamba-130m

TARGET_FOLDER gets model.safetensors, config.json (a copy of the one beside SOURCE, checked; or made from the shapes
of the tensors) and tokenizer.json (from --tokenizer, or the one beside SOURCE; without one the model is served for
token ids). SOURCE is read as data: nothing in it is ever run. Exit status: 0 converted, 1 refused, 2 wrong usage.
"""


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="convert.py", description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", type=pathlib.Path, help="a .bin, .pt or .ckpt file of torch.save, an index of shards, or the folder that they are in")
    parser.add_argument("target", metavar="TARGET_FOLDER", type=pathlib.Path, help="a new folder")
    parser.add_argument("--tokenizer", metavar="FOLDER_OR_FILE", type=pathlib.Path,
                        help="tokenizer.json, or the folder it is in")
    parser.add_argument("--family", choices=("auto", *FAMILIES), default="auto",
                        help="the kind of model; auto (the default) tells it by the names of the tensors")
    parser.add_argument("--attention-heads", metavar="N", type=int,
                        help="for H3 models that were never released: heads of their attention layers")
    parser.add_argument("--drop", metavar="TENSOR", action="append", default=[],
                        help="leave out this tensor, or those of a pattern such as '*.mask'; may be given many times")
    parser.add_argument("--allow-foreign-objects", action="store_true",
                        help="skip pickled objects that are no tensors instead of refusing the file")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    args = parser.parse_args(arguments)
    if args.attention_heads is not None and not 1 <= args.attention_heads <= 1024:
        parser.error(f"--attention-heads is {args.attention_heads}, expected 1 to 1024")
    return args


class Report:
    """Lines for the person who waits, on stderr."""

    def __init__(self, quiet):
        self.quiet = quiet
        self.total = self.done = 0
        self.next = time.monotonic() + PROGRESS_SECONDS

    def note(self, text):
        if not self.quiet:
            print(f"convert: {text}", file=sys.stderr, flush=True)

    def progress(self, name, count):
        self.done += count
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + PROGRESS_SECONDS
            self.note(f"{self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB ({100 * self.done // self.total} %), {name}")


# --- from what the file holds to the tensors of a model ---


def take_state_dict(path, content, note):
    """The dictionary of tensors: the whole file, or a part of a training checkpoint."""
    if not isinstance(content, dict):
        raise ConvertError(f"{path}: holds {describe(content)}, expected a dictionary of tensors (a state_dict)")
    if "pytorch-lightning_version" in content:
        tensors = take_part(path, content, "state_dict")
        kept = {name[len("model."):]: value for name, value in tensors.items() if name.startswith("model.")}
        note(f"a Lightning checkpoint: took the {len(kept)} tensors of state_dict that begin with 'model.', "
             f"left {len(tensors) - len(kept)} others")
        return kept
    for part in PARTS:
        if isinstance(content.get(part), dict):
            tensors = take_part(path, content, part)
            note(f"took the part {part!r} of a training checkpoint")
            return dict(tensors)
    check_names(path, content)
    return dict(content)


def take_usual_names(path, tensors, note):
    """Without the prefixes of training's wrappers, and with "backbone." where a model was saved without its head."""
    prefix = ""
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(prefix + w) for name in tensors)), None):
        prefix += wrapper
    if prefix:
        note(f"took the prefix {prefix!r} off every name: it is of a wrapper that the model was trained in")
        tensors = {name[len(prefix):]: value for name, value in tensors.items()}
    if any(re.fullmatch(r"layers\.0\.norm1?\.weight", name) for name in tensors):
        note("put 'backbone.' before every name: the model was saved without its head")
        tensors = {name if name == HEAD else f"backbone.{name}": value for name, value in tensors.items()}
    return tensors


def take_part(path, content, part):
    tensors = content.get(part)
    if not isinstance(tensors, dict):
        raise ConvertError(f"{path}: {part!r} is {describe(tensors)}, expected a dictionary of tensors")
    check_names(path, tensors)
    return tensors


def describe(value):
    return f"an object of {shown(value.name)}" if isinstance(value, Foreign) else shown(value)


def check_names(path, tensors):
    if len(tensors) > TENSORS_MAX:
        raise ConvertError(f"{path}: {len(tensors)} tensors, limit {TENSORS_MAX}")
    for name in tensors:
        if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX:
            raise ConvertError(f"{path}: the name of a tensor is {describe(name)}, expected text of 1 to "
                               f"{NAME_CHARACTERS_MAX} characters")


def drop_named(path, tensors, names):
    for pattern in names:
        matching = fnmatch.filter(tensors, pattern)
        if not matching:
            raise ConvertError(f"{path}: there is no tensor {shown(pattern)} to drop")
        for name in matching:
            del tensors[name]


def check_values(path, tensors):
    if not tensors:
        raise ConvertError(f"{path}: holds no tensors")
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ConvertError(f"{path}: {shown(name)} is {describe(value)}, expected a tensor; save the state_dict() "
                               "of the model, or leave it out with --drop")


def choose_family(path, tensors, wanted):
    name = detect(tensors) if wanted == "auto" else wanted
    if name is None:
        first = ", ".join(shown(name) for name in list(tensors)[:3])
        raise ConvertError(f"{path}: no model that is known here, expected names of {', '.join(FAMILIES)}; found "
                           f"{len(tensors)} tensors: {first}, ...")
    return FAMILIES[name]


# --- config.json, the head, the tokenizer ---


def read_json(path):
    text = read_small_file(path, JSON_BYTES_MAX)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: is not JSON: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: is not a JSON object")
    return text, value


def beside(source, name):
    path = source.parent / name
    return path if path.is_file() else None


def check_same_family(path, config, family):
    found = config_family(config)
    if found is None:
        raise ConvertError(f"{path}: neither model_type nor d_model and n_layer; put the model's own config.json "
                           "beside the source, or move it away and one is made from the shapes")
    if found != family.name:
        raise ConvertError(f"{path}: is of a {shown(found)} model, but the tensors are of a {family.name} model; put "
                           "the right config.json beside the source, or move it away and one is made from the shapes")


def heads_of(path, config):
    heads = config.get("num_attention_heads")
    if heads is not None and (type(heads) is not int or not 1 <= heads <= 1024):
        raise ConvertError(f"{path}: num_attention_heads is {shown(heads)}, expected 1 to 1024")
    return heads


def settle_head(path, tensors, family, told, reader, note):
    """Whether the head is the embedding matrix; then only that is kept. `told` is what a config says, if there is."""
    embedding = next((tensors[name] for name in EMBEDDINGS if name in tensors), None)
    head = tensors.get(HEAD)
    if embedding is None or head is None:
        if told is False:
            raise ConvertError(f"{path}: config.json says that the head is not the embedding matrix, but only one of "
                               "the two is there; correct tie_word_embeddings (or tie_embeddings) in it")
        if embedding is None:
            note(f"{HEAD} is written as {family.embedding}: it is both, and the file has it under one name")
            tensors[family.embedding] = tensors.pop(HEAD)
        return True
    same = embedding == head or same_bytes(embedding, head, reader)
    if told is True and not same:
        note(f"warning: config.json says that the head is the embedding matrix, but {HEAD} has other values; both are "
             "written, and the server uses both")
        return False
    tied = same if told is None else told
    if tied:
        note(f"{HEAD} is the embedding matrix (tied): written once")
        del tensors[HEAD]
    return tied


def name_embedding(tensors, family):
    """Beside a config of Hugging Face's layout the matrix must have its name there, or `transformers` misses it."""
    return {family.embedding if name in EMBEDDINGS else name: tensor for name, tensor in tensors.items()}


def same_bytes(one, other, reader):
    return (one.dtype, one.shape) == (other.dtype, other.shape) and digest(one, reader) == digest(other, reader)


def digest(tensor, reader):
    total = hashlib.sha256()
    for piece in reader.pieces(tensor):
        total.update(piece)
    return total.digest()


def note_shared(tensors, note):
    first = {}
    for name, tensor in tensors.items():
        same = first.setdefault(tensor, name)
        if same != name:
            note(f"{shown(name)} is the same tensor as {shown(same)}: written twice, since the server wants both names")


def make_config(path, config_path, family, tensors, args, note):
    """The checked model, and what config.json tells (None: it is made from the shapes)."""
    text, config = read_json(config_path) if config_path else (None, None)
    if config is not None:
        check_same_family(config_path, config, family)
    checked = Tensors(path, tensors)
    if family is H3:
        model = H3(checked, args.attention_heads or (heads_of(config_path, config) if config else None))
    else:
        model = family(checked)
    if config is not None:
        check_config(config_path, config, model)
        note(f"{config_path} agrees with the tensors")
    return model, text, config


def config_text(model, text, config, tied, note):
    """The config that came with the source, as it is; without one it is made from the shapes."""
    if config is None:
        if getattr(model, "needs_config", False):
            raise ConvertError("the model has attention layers or MLPs, whose shapes do not tell all: put its "
                               "config.json beside the source (d_model, n_layer, attn_layer_idx, attn_cfg, ...)")
        note("no config.json beside the source: made one from the shapes of the tensors")
        for assumption in model.assumptions():
            note(assumption)
        return json.dumps(model.config(tied), indent=2).encode() + b"\n"
    if not isinstance(model, H3):
        return text
    # H3 never came with a config.json: what others wrote for it may lack fields that the server reads.
    made = model.config(tied)
    for name in H3.fields_of_shapes:
        if config.get(name, made[name]) != made[name]:
            raise ConvertError(f"config.json: {name} is {shown(config[name])}, but the tensors have "
                               f"{json.dumps(made[name])}; correct it, or move the file away and one is made")
    return json.dumps({**made, **config}, indent=2).encode() + b"\n"


def find_tokenizer(source, wanted):
    if wanted is None:
        return beside(source, "tokenizer.json")
    path = wanted / "tokenizer.json" if wanted.is_dir() else wanted
    if not path.is_file():
        raise ConvertError(f"{path}: there is no such file; --tokenizer wants a tokenizer.json or the folder it is in")
    return path


def check_tokenizer(path, vocab):
    text, tokenizer = read_json(path)
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise ConvertError(f"{path}: has no model; expected a tokenizer.json of Hugging Face tokenizers")
    entries = model.get("vocab")
    ids = list(entries.values()) if isinstance(entries, dict) else []
    added = tokenizer.get("added_tokens")
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    largest = max((i for i in ids if type(i) is int), default=-1)
    if largest >= vocab:
        raise ConvertError(f"{path}: has token {largest}, but the model has {vocab} rows; it is another model's "
                           "tokenizer")
    return text


# --- the folder ---


def check_target(target):
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ConvertError(f"{target}: is not a folder; name a new one")
    if target.is_dir() and any(target.iterdir()):
        raise ConvertError(f"{target}: is not empty; name a new folder, or remove this one first")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise ConvertError(f"{parent}: there is no such folder; make it first: mkdir -p {parent}")
    return parent


def write_folder(target, small_files, tensors, reader, report):
    """Everything is written into a hidden folder beside the target, which takes its name when it is whole."""
    parent = check_target(target)
    free = shutil.disk_usage(parent).free
    if report.total > free:
        raise ConvertError(f"{target}: needs {report.total} bytes, but {free} are free there")
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=parent))
    try:
        write_safetensors(partial / "model.safetensors", tensors, reader, report.progress)
        for name, text in small_files.items():
            (partial / name).write_bytes(text)
        partial.chmod(0o777 & ~current_umask())
        os.rename(partial, target)
    except OSError as error:
        raise ConvertError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def current_umask():
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def convert(args, report):
    check_target(args.target)
    source = find_weights(args.source)
    path = str(source)
    with open_weights(source, args.allow_foreign_objects) as file:
        tensors = take_state_dict(path, file.content, report.note)
        if file.foreign:
            names = ", ".join(shown(name) for name in sorted(file.foreign)[:8])
            report.note(f"skipped objects of {len(file.foreign)} unknown names, never run: {names}")
        drop_named(path, tensors, args.drop)
        check_values(path, tensors)
        tensors = take_usual_names(path, tensors, report.note)
        family = choose_family(path, tensors, args.family)
        tensors = family.rename(path, tensors, report.note)
        model, text, config = make_config(path, beside(source, "config.json"), family, tensors, args, report.note)
        reader = TensorReader(file)
        tied = settle_head(path, tensors, family, None if config is None else says_tied(config), reader, report.note)
        if config is None or "model_type" in config:
            tensors = name_embedding(tensors, family)
        note_shared(tensors, report.note)
        files = {"config.json": config_text(model, text, config, tied, report.note)}
        generation = beside(source, "generation_config.json")
        if generation:
            files["generation_config.json"] = read_json(generation)[0]
        tokenizer = find_tokenizer(source, args.tokenizer)
        if tokenizer:
            files["tokenizer.json"] = check_tokenizer(tokenizer, model.vocab)
        report.total = check_size(tensors, path)
        write_folder(args.target, files, tensors, reader, report)
    report.note(f"{args.target}: {family.name}, {model.layers} layers, d_model {model.d_model}, "
                f"{len(tensors)} tensors, {report.total} bytes")
    if not tokenizer:
        report.note("no tokenizer: the model is served for token ids only; --tokenizer adds one")


def end_on_signal(*_):
    raise SystemExit("convert: ended by a signal; nothing was written")


def main(arguments=None):
    args = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, end_on_signal)
    try:
        convert(args, Report(args.quiet))
    except ConvertError as error:
        raise SystemExit(f"convert: {error}") from None
    except OSError as error:
        raise SystemExit(f"convert: {shown(str(error.filename))}: {error.strerror}") from None
    except KeyboardInterrupt:
        raise SystemExit("convert: interrupted; nothing was written") from None


if __name__ == "__main__":
    main()
