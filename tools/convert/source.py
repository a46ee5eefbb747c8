"""Finds the pickled weights that a path means, and opens them as one: a file, the shards of an index, or a folder."""

import json
import re
from dataclasses import replace

from errors import ConvertError, shown
from pickle_reader import Tensor
from torch_file import TorchFile

INDEX_BYTES_MAX = 64 << 20
SHARDS_MAX = 1_000
ENDINGS = (".bin", ".pt", ".pth", ".ckpt")
# What lies beside weights and ends as they do.
OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|rng_state|scaler)", re.IGNORECASE)


def find_weights(source):
    """The file or index that `source` means: itself, or what is in the folder."""
    if source.exists() and not source.is_dir() and not source.is_file():
        raise ConvertError(f"{source}: is not a regular file")  # opening a named pipe would wait for a writer
    if not source.is_dir():
        return source
    for name in ("pytorch_model.bin.index.json", "pytorch_model.bin"):
        if (source / name).is_file():
            return source / name
    found = sorted(path for path in source.iterdir()
                   if path.is_file() and path.suffix in ENDINGS and not OF_TRAINING.match(path.name))
    if len(found) == 1:
        return found[0]
    if found:
        raise ConvertError(f"{source}: has {len(found)} files of weights ({', '.join(p.name for p in found[:4])}); name "
                           "the one to convert")
    if (source / "model.safetensors").is_file() or (source / "model.safetensors.index.json").is_file():
        raise ConvertError(f"{source}: has safetensors already; engram-server --model NAME={source} serves it as it is")
    raise ConvertError(f"{source}: has no pytorch_model.bin, nor another file of {', '.join(ENDINGS)}")


def open_weights(path, allow_foreign):
    """A TorchFile, or what behaves like one for the shards of an index."""
    if path.name.endswith(".index.json"):
        return ShardedFile(path, allow_foreign)
    return TorchFile(path, allow_foreign)


def read_small_file(path, bytes_max):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > bytes_max:
        raise ConvertError(f"{path}: {len(content)} bytes, limit {bytes_max}")
    return content


def read_weight_map(path):
    text = read_small_file(path, INDEX_BYTES_MAX)
    try:
        places = json.loads(text)["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ConvertError(f"{path}: is no index with a weight_map") from None
    if not isinstance(places, dict) or not places:
        raise ConvertError(f"{path}: is no index with a weight_map")
    for name, shard in places.items():
        if not isinstance(shard, str) or shard in ("", ".", "..") or "/" in shard or "\0" in shard:
            raise ConvertError(f"{path}: tensor {shown(name)} is in {shown(shard)}, expected a file of the same folder")
    if len(set(places.values())) > SHARDS_MAX:
        raise ConvertError(f"{path}: over {SHARDS_MAX} shards")
    return places


class ShardedFile:
    """The shards that an index names, as one file. The keys of their storages are told apart by "SHARD/"."""

    def __init__(self, path, allow_foreign):
        self.shards, self.content, self.foreign = [], {}, {}
        places = read_weight_map(path)
        try:
            for shard in sorted(set(places.values())):
                self._add(path.parent / shard, allow_foreign, path)
            for name, shard in places.items():
                if name not in self.content:
                    raise ConvertError(f"{path}: tensor {shown(name)} is not in its shard {shown(shard)}")
        except BaseException:
            self.close()
            raise

    def _add(self, path, allow_foreign, index):
        if not path.is_file():
            raise ConvertError(f"{index}: the shard {shown(path.name)} is not there; download it too")
        number = len(self.shards)
        self.shards.append(TorchFile(path, allow_foreign))
        content = self.shards[-1].content
        if not isinstance(content, dict):
            raise ConvertError(f"{path}: holds {shown(content)}, expected a dictionary of tensors")
        for name, value in content.items():
            if name in self.content:
                raise ConvertError(f"{path}: tensor {shown(name)} is in another shard too")
            if isinstance(value, Tensor):
                value = replace(value, storage=replace(value.storage, key=f"{number}/{value.storage.key}"))
            self.content[name] = value
        for name, count in self.shards[-1].foreign.items():
            self.foreign[name] = self.foreign.get(name, 0) + count

    def storage_pieces(self, storage):
        number, _, key = storage.key.partition("/")
        return self.shards[int(number)].storage_pieces(replace(storage, key=key))

    def close(self):
        for shard in self.shards:
            shard.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
