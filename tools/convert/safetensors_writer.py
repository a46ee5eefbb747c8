"""Writes tensors of a torch file as safetensors, one after another, without holding the model in memory."""

import json
import os
import struct

from errors import ConvertError, shown

ELEMENT_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
VIEW_GROWTH_MAX = 2


def ordered(tensors):
    """Wide elements first, so that every tensor is aligned without gaps; then views of one storage together."""
    place = {}
    for tensor in tensors.values():
        place.setdefault(tensor.storage.key, len(place))
    return sorted(tensors.items(), key=lambda item: (
        -item[1].storage.element_bytes, place[item[1].storage.key], item[1].offset))


def make_header(items):
    header = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in items:
        begin, end = end, end + tensor.bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def check_size(tensors, path):
    """Views may repeat a storage, as tied weights do, but a small file may not become a large one."""
    storages = {tensor.storage.key: tensor.storage.bytes for tensor in tensors.values()}
    total = sum(tensor.bytes for tensor in tensors.values())
    limit = VIEW_GROWTH_MAX * sum(storages.values())
    if total > limit:
        raise ConvertError(f"{path}: the tensors have {total} bytes, more than {VIEW_GROWTH_MAX} times the "
                           f"{sum(storages.values())} bytes of their storages")
    return total


def offsets(dimensions, begin):
    """Places of a view in row-major order; dimensions are (size, stride) pairs."""
    if not dimensions:
        yield begin
        return
    (size, stride), *rest = dimensions
    for index in range(size):
        yield from offsets(rest, begin + index * stride)


class TensorReader:
    """Row-major bytes of tensors. Keeps the last storage of which only a part, or another order, was wanted."""

    def __init__(self, file):
        self.file = file
        self.kept = None
        self.kept_bytes = None

    def pieces(self, tensor):
        if tensor.elements == 0:
            return iter(())
        if tensor.is_contiguous and tensor.bytes == tensor.storage.bytes:
            return self.file.storage_pieces(tensor.storage)
        return self._gathered(tensor)

    def _gathered(self, tensor):
        if self.kept != tensor.storage:
            self.kept = self.kept_bytes = None
            content = bytearray()
            for piece in self.file.storage_pieces(tensor.storage):
                content += piece
            self.kept, self.kept_bytes = tensor.storage, content
        elements = memoryview(self.kept_bytes).cast(ELEMENT_FORMATS[tensor.storage.element_bytes])
        if tensor.is_contiguous:
            yield elements[tensor.offset:tensor.offset + tensor.elements]
            return
        # Of a view that is not contiguous, two dimensions or one with a wide stride are left.
        *outer, (size, stride) = [pair for pair in zip(tensor.shape, tensor.stride) if pair[0] != 1]
        for begin in offsets(outer, tensor.offset):
            if stride == 0:
                yield elements[begin:begin + 1].tobytes() * size
            else:
                yield elements[begin:begin + (size - 1) * stride + 1:stride].tobytes()


def write_safetensors(path, tensors, reader, on_progress=lambda name, count: None):
    items = ordered(tensors)
    header = make_header(items)
    with open(path, "wb") as output:
        output.write(struct.pack("<Q", len(header)) + header)
        for name, tensor in items:
            written = 0
            for piece in reader.pieces(tensor):
                count = memoryview(piece).nbytes
                output.write(piece)
                written += count
                on_progress(name, count)
            if written != tensor.bytes:
                raise ConvertError(f"{path}: tensor {shown(name)} came out as {written} bytes, expected {tensor.bytes}")
        output.flush()
        os.fsync(output.fileno())
