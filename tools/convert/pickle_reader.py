"""Reads the pickle inside a torch file without running it.

A pickle is a program: it may import and call anything. This interpreter knows the opcodes that torch.save writes
(pickle protocol 2) and the few globals that a dictionary of tensors needs, and it has no way to import or call
anything else. What it builds are plain dicts, lists, tuples and numbers, `Ordered`, `Storage` and `Tensor`; no bytes
of a tensor are read here. Everything that a file can make large is limited.

With foreign objects allowed, an unknown global becomes a `Foreign`: an empty mark that is never imported, called or
given state. A Lightning file can then be read for its weights although it also pickles callbacks and the like.
"""

import struct
from dataclasses import dataclass

from errors import ConvertError, shown

PICKLE_BYTES_MAX = 32 << 20
OPCODES_MAX = 4_000_000
STACK_MAX = 1_000_000
MEMO_MAX = 1_000_000
MARKS_MAX = 1_000
TEXT_BYTES_MAX = 1 << 20
GLOBAL_BYTES_MAX = 1_024
DIMENSIONS_MAX = 16
ELEMENTS_MAX = 1 << 48

# torch's name of a storage class: safetensors' name of its dtype, bytes of an element
STORAGES = {
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2), "LongStorage": ("I64", 8), "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1), "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
}


class Ordered(dict):
    """What collections.OrderedDict is read as."""


class Foreign:
    """Stands for an object of an unknown class, or for the class; holds its name and nothing else."""

    def __init__(self, name):
        self.name = name


@dataclass(frozen=True)
class StorageClass:
    dtype: str
    element_bytes: int


@dataclass(frozen=True)
class Storage:
    key: str
    dtype: str
    element_bytes: int
    elements: int

    @property
    def bytes(self):
        return self.elements * self.element_bytes


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple
    stride: tuple

    @property
    def dtype(self):
        return self.storage.dtype

    @property
    def elements(self):
        return product(self.shape)

    @property
    def bytes(self):
        return self.elements * self.storage.element_bytes

    @property
    def is_contiguous(self):
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride)):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True)
class Function:
    name: str


ORDERED_DICT = Function("collections.OrderedDict")
REBUILD_TENSOR = Function("torch._utils._rebuild_tensor_v2")
REBUILD_PARAMETER = Function("torch._utils._rebuild_parameter")
GLOBALS = {(f.name.rpartition(".")[0], f.name.rpartition(".")[2]): f
           for f in (ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER)}
GLOBALS.update({("torch", name): StorageClass(*kind) for name, kind in STORAGES.items()})


def product(numbers):
    result = 1
    for number in numbers:
        result *= number
    return result


def is_natural(value, limit=ELEMENTS_MAX):
    return type(value) is int and 0 <= value <= limit


def is_key(value):
    """Keys are scalars or flat tuples of scalars: hashing a deep tuple would overflow the stack."""
    scalar = (str, int, float, bool, type(None), Foreign)
    return isinstance(value, scalar) or (
        isinstance(value, tuple) and all(isinstance(item, scalar) for item in value))


class PickleReader:
    """Reads one pickle. `find_storage(key)` tells the bytes that the file holds for a storage, or None."""

    def __init__(self, data, file, find_storage, allow_foreign=False):
        self.data = data
        self.file = file
        self.find_storage = find_storage
        self.allow_foreign = allow_foreign
        self.place = 0
        self.stack = []
        self.marked = []
        self.memo = {}
        self.storages = {}
        self.foreign = {}  # name: how often it was met

    def read(self):
        if len(self.data) > PICKLE_BYTES_MAX:
            self.fail(f"the pickle has {len(self.data)} bytes, limit {PICKLE_BYTES_MAX}")
        if self.take(2) != b"\x80\x02":
            self.fail("the pickle does not begin with protocol 2, which torch.save writes; save it again with "
                      "torch.save(..., pickle_protocol=2)")
        for _ in range(OPCODES_MAX):
            opcode = self.take(1)
            if opcode == b".":
                return self.finish()
            operation = OPERATIONS.get(opcode)
            if operation is None:
                self.fail(f"opcode {opcode!r} is not one that torch.save writes; the file is damaged or hostile")
            operation(self)
            if len(self.stack) > STACK_MAX:
                self.fail(f"over {STACK_MAX} values on the stack")
        self.fail(f"over {OPCODES_MAX} opcodes")

    def fail(self, problem):
        raise ConvertError(f"{self.file}: {problem} (byte {self.place} of the pickle)")

    def finish(self):
        value = self.pop()
        if self.stack or self.marked:
            self.fail("values are left over at the end of the pickle")
        if self.place != len(self.data):
            self.fail(f"{len(self.data) - self.place} bytes follow the end of the pickle")
        return value

    # --- bytes, stack, marks, memo ---

    def take(self, count):
        piece = self.data[self.place:self.place + count]
        if len(piece) != count:
            self.fail("the pickle is truncated")
        self.place += count
        return piece

    def number(self, layout):
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self):
        end = self.data.find(b"\n", self.place, self.place + GLOBAL_BYTES_MAX)
        if end < 0:
            self.fail(f"the name of a global has no end within {GLOBAL_BYTES_MAX} bytes")
        line = self.data[self.place:end]
        self.place = end + 1
        return self.text(line)

    def text(self, piece):
        try:
            return bytes(piece).decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"text is not UTF-8: {shown(bytes(piece))}")

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        if not self.stack:
            self.fail("a value is missing on the stack")
        return self.stack.pop()

    def top(self):
        if not self.stack:
            self.fail("a value is missing on the stack")
        return self.stack[-1]

    def mark(self):
        if len(self.marked) >= MARKS_MAX:
            self.fail(f"nested more than {MARKS_MAX} deep")
        self.marked.append(self.stack)
        self.stack = []

    def pop_marked(self):
        if not self.marked:
            self.fail("a mark is missing")
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def put(self, index):
        if len(self.memo) >= MEMO_MAX:
            self.fail(f"over {MEMO_MAX} values in the memo")
        self.memo[index] = self.top()

    def get(self, index):
        if index not in self.memo:
            self.fail(f"value {index} of the memo was never set")
        self.push(self.memo[index])

    def binary_text(self):
        length = self.number("<I")
        if length > TEXT_BYTES_MAX:
            self.fail(f"a text of {length} bytes, limit {TEXT_BYTES_MAX}")
        self.push(self.text(self.take(length)))

    def long(self):
        self.push(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def make_tuple(self, count):
        if len(self.stack) < count:
            self.fail("a value is missing on the stack")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.push(items)

    # --- containers ---

    def set_items(self, items):
        target = self.top()
        if len(items) % 2 != 0:
            self.fail("a key has no value")
        if isinstance(target, Foreign):
            return
        if not isinstance(target, dict):
            self.fail(f"items are set in {shown(target)}, expected a dict")
        for key, value in zip(items[::2], items[1::2]):
            if not is_key(key):
                self.fail(f"a key of a dict is {shown(key)}, expected text or a number")
            target[key] = value

    def append(self, items):
        target = self.top()
        if isinstance(target, Foreign):
            return
        if not isinstance(target, list):
            self.fail(f"items are appended to {shown(target)}, expected a list")
        target.extend(items)

    # --- globals, and the only three that are "called" ---

    def find_global(self):
        module, name = self.line(), self.line()
        known = GLOBALS.get((module, name))
        if known is None:
            known = self.make_foreign(f"{module}.{name}")
        self.push(known)

    def make_foreign(self, name):
        if not self.allow_foreign:
            self.fail(
                f"refused to load {shown(name)}: the converter reads tensors and runs no code. If you trust where "
                "this training checkpoint comes from, --allow-foreign-objects skips such objects (they are still "
                "never imported or run)")
        self.foreign[name] = self.foreign.get(name, 0) + 1
        return Foreign(name)

    def reduce(self):
        arguments = self.pop()
        function = self.pop()
        if not isinstance(arguments, tuple):
            self.fail(f"arguments are {shown(arguments)}, expected a tuple")
        if isinstance(function, Foreign):
            self.push(Foreign(function.name))
        elif function is ORDERED_DICT:
            if arguments:
                self.fail("collections.OrderedDict has arguments, expected none")
            self.push(Ordered())
        elif function is REBUILD_TENSOR:
            self.push(self.rebuild_tensor(arguments))
        elif function is REBUILD_PARAMETER:
            self.push(self.rebuild_parameter(arguments))
        else:
            self.fail(f"refused to call {shown(function)}")

    def new_object(self):
        arguments = self.pop()
        kind = self.pop()
        if not isinstance(kind, Foreign) or not isinstance(arguments, tuple):
            self.fail(f"refused to make an object of {shown(kind)}")
        self.push(Foreign(kind.name))

    def build(self):
        """The state of an OrderedDict is its attribute _metadata (versions of modules): not needed."""
        state = self.pop()
        target = self.top()
        if isinstance(target, Foreign):
            return
        if not isinstance(target, Ordered) or not isinstance(state, dict):
            self.fail(f"refused to give state to {shown(target)}")

    def persistent_id(self):
        value = self.pop()
        if not isinstance(value, tuple) or len(value) != 5 or value[0] != "storage":
            self.fail("a persistent id is not ('storage', class, key, location, elements)")
        _, kind, key, location, elements = value
        if not isinstance(kind, StorageClass):
            name = kind.name if isinstance(kind, (Foreign, Function)) else kind
            self.fail(f"a storage is of class {shown(name)}, expected one of torch.{', torch.'.join(STORAGES)}")
        if not isinstance(key, str) or not isinstance(location, str):
            self.fail(f"a storage has key {shown(key)} and location {shown(location)}, expected text")
        if not is_natural(elements):
            self.fail(f"storage {shown(key)} has {shown(elements)} elements, expected 0 to {ELEMENTS_MAX}")
        storage = Storage(key, kind.dtype, kind.element_bytes, elements)
        known = self.storages.setdefault(key, storage)
        if known != storage:
            self.fail(f"storage {shown(key)} is {storage.dtype} with {elements} elements here and {known.dtype} with "
                      f"{known.elements} elsewhere; expected one description")
        found = self.find_storage(key)
        if found is None:
            self.fail(f"storage {shown(key)} is missing in the file; it is damaged: download it again")
        if found != storage.bytes:
            self.fail(f"storage {shown(key)} has {found} bytes in the file, expected {storage.bytes} for {elements} "
                      f"elements of {storage.dtype}; the file is damaged: download it again")
        self.push(storage)

    def rebuild_parameter(self, arguments):
        """_rebuild_parameter(tensor, requires_grad, backward_hooks): a tensor that is trained, here just the tensor."""
        if len(arguments) != 3:
            self.fail(f"a parameter is made from {len(arguments)} arguments, expected 3")
        if not isinstance(arguments[0], Tensor):
            self.fail(f"a parameter is made from {shown(arguments[0])}, expected a tensor")
        return arguments[0]

    def rebuild_tensor(self, arguments):
        """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks[, metadata])"""
        if len(arguments) not in (6, 7):
            self.fail(f"a tensor is made from {len(arguments)} arguments, expected 6 or 7")
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, Storage):
            self.fail(f"a tensor is made from {shown(storage)}, expected a storage")
        if not isinstance(shape, tuple) or len(shape) > DIMENSIONS_MAX or not all(map(is_natural, shape)):
            self.fail(f"a tensor of storage {shown(storage.key)} has shape {shown(shape)}, expected at most "
                      f"{DIMENSIONS_MAX} numbers from 0 to {ELEMENTS_MAX}")
        if not isinstance(stride, tuple) or len(stride) != len(shape) or not all(map(is_natural, stride)):
            self.fail(f"a tensor of storage {shown(storage.key)} has stride {shown(stride)}, expected "
                      f"{len(shape)} numbers from 0 to {ELEMENTS_MAX}")
        if not is_natural(offset):
            self.fail(f"a tensor of storage {shown(storage.key)} has offset {shown(offset)}, expected a number from 0")
        if len(arguments) == 7 and arguments[6]:
            self.fail(f"a tensor of storage {shown(storage.key)} has metadata (a conjugate or negative view); "
                      "save it again as a plain tensor")
        tensor = Tensor(storage, offset, shape, stride)
        elements = tensor.elements
        if elements > storage.elements:
            self.fail(f"a tensor of storage {shown(storage.key)} has shape {shown(shape)}: more elements than the "
                      f"{storage.elements} of its storage (an expanded tensor: save it again after .contiguous())")
        end = offset + sum((size - 1) * step for size, step in zip(shape, stride)) + 1 if elements else offset
        if end > storage.elements:
            self.fail(f"a tensor of storage {shown(storage.key)}, shape {shown(shape)}, stride {shown(stride)}, "
                      f"offset {offset} ends at element {end}, but the storage has {storage.elements}")
        return tensor


OPERATIONS = {
    b"(": PickleReader.mark,
    b"N": lambda reader: reader.push(None),
    b"\x88": lambda reader: reader.push(True),
    b"\x89": lambda reader: reader.push(False),
    b"J": lambda reader: reader.push(reader.number("<i")),
    b"K": lambda reader: reader.push(reader.number("<B")),
    b"M": lambda reader: reader.push(reader.number("<H")),
    b"\x8a": PickleReader.long,
    b"G": lambda reader: reader.push(reader.number(">d")),
    b"X": PickleReader.binary_text,
    b"}": lambda reader: reader.push({}),
    b"]": lambda reader: reader.push([]),
    b")": lambda reader: reader.push(()),
    b"t": lambda reader: reader.push(tuple(reader.pop_marked())),
    b"\x85": lambda reader: reader.make_tuple(1),
    b"\x86": lambda reader: reader.make_tuple(2),
    b"\x87": lambda reader: reader.make_tuple(3),
    b"s": lambda reader: reader.set_items([reader.pop(), reader.pop()][::-1]),
    b"u": lambda reader: reader.set_items(reader.pop_marked()),
    b"a": lambda reader: reader.append([reader.pop()]),
    b"e": lambda reader: reader.append(reader.pop_marked()),
    b"q": lambda reader: reader.put(reader.number("<B")),
    b"r": lambda reader: reader.put(reader.number("<I")),
    b"h": lambda reader: reader.get(reader.number("<B")),
    b"j": lambda reader: reader.get(reader.number("<I")),
    b"c": PickleReader.find_global,
    b"R": PickleReader.reduce,
    b"\x81": PickleReader.new_object,
    b"b": PickleReader.build,
    b"Q": PickleReader.persistent_id,
}
