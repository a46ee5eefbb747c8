"""The converter on files made to harm: it refuses with one clear line, writes nothing and never runs anything."""

import os
import pickle
import random
import struct
import sys
import unittest
import zipfile
from unittest import mock

from convert_support import DATA, ConvertCase, ConvertError, read_entries, read_safetensors, write_archive
from pickle_reader import PickleReader
from safetensors_writer import check_size
from torch_file import TorchFile

SEED = 20240602

# What Python itself reports of attempts to run something while a hostile file is read. Hooks cannot be removed.
EXECUTIONS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class",
              "ctypes.dlopen")
executed = []
sys.addaudithook(lambda event, _: executed.append(event) if event in EXECUTIONS else None)

PROTO = b"\x80\x02"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(values):
    return tuple_of(*map(number, values))


def storage(key="0", elements=8, kind=b"ctorch\nFloatStorage\n", label="storage", location="cpu"):
    return tuple_of(text(label), kind, text(key), text(location), number(elements)) + b"Q"


def tensor(shape=(8,), stride=(1,), offset=0, source=None, extra=b""):
    return (b"ctorch._utils\n_rebuild_tensor_v2\n" + tuple_of(
        source or storage(), number(offset), numbers(shape), numbers(stride), b"\x89",
        b"ccollections\nOrderedDict\n)R" + extra) + b"R")


def state_dict(value):
    """A pickle of {"a": value}."""
    return PROTO + b"}" + text("a") + value + b"s."


class Bomb:
    """What a real pickle of an attacker holds: os.system on a marker file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class HostileCase(ConvertCase):
    def setUp(self):
        super().setUp()
        # Thousands of small files need not reach the disk.
        patch = mock.patch("os.fsync")
        patch.start()
        self.addCleanup(patch.stop)
        executed.clear()
        self.addCleanup(lambda: self.assertEqual(executed, []))

    def archive(self, pickled):
        return write_archive(self.folder / "hostile.bin", {"data.pkl": pickled, "data/0": bytes(32)})

    def refuse(self, pattern, pickled, *options):
        return self.assert_refused(pattern, self.archive(pickled), *options)


class PickleTest(HostileCase):
    def test_what_the_hostile_files_are_varied_from_is_read(self):
        with TorchFile(self.archive(state_dict(tensor()))) as file:
            self.assertEqual(file.content["a"].shape, (8,))

    def test_an_execution_would_be_seen(self):
        marker = self.folder / "marker"
        pickle.loads(pickle.dumps(Bomb(marker)))
        self.assertTrue(marker.exists())
        self.assertIn("os.system", executed)
        executed.clear()

    def test_a_parameter_is_made_from_a_tensor_only(self):
        parameter = b"ctorch._utils\n_rebuild_parameter\n"
        for arguments in (tuple_of(tensor()), tuple_of(b"N", b"\x88", b"N"), tuple_of(b"}", b"\x88", b"N", b"N")):
            self.refuse("a parameter is made from", state_dict(parameter + arguments + b"R"))
        with TorchFile(self.archive(state_dict(parameter + tuple_of(tensor(), b"\x88", b"N") + b"R"))) as file:
            self.assertEqual(file.content["a"].shape, (8,))

    def test_globals_are_never_imported(self):
        marker = self.folder / "marker"
        pickled = pickle.dumps({"a": Bomb(marker)}, protocol=2)
        self.refuse("refused to load '(posix|os).system'", pickled)
        message = self.refuse("'a' is an object of '(posix|os).system'", pickled, "--allow-foreign-objects")
        self.assertIn("expected a tensor", message)
        for module, name in (("builtins", "eval"), ("torch", "load"), ("torch.storage", "_load_from_bytes"),
                             ("collections", "OrderedDict.clear"), ("torch._utils", "_rebuild_tensor_v2.__globals__"),
                             ("torch", "FloatStorage "), ("TORCH", "FloatStorage"), ("errors", "ConvertError")):
            self.refuse("refused to load", PROTO + f"c{module}\n{name}\n.".encode())
        self.assertFalse(marker.exists())

    def test_only_two_functions_are_known_to_reduce(self):
        for function in (b"ctorch\nFloatStorage\n", b"}", b"]", number(3), text("x"), b"N", b")", storage(), tensor()):
            for options in ((), ("--allow-foreign-objects",)):
                self.refuse("refused to call", PROTO + function + b")R.", *options)
        self.refuse("has arguments", PROTO + b"ccollections\nOrderedDict\n" + tuple_of(b"]") + b"R.")
        self.refuse("expected a tuple", PROTO + b"ccollections\nOrderedDict\n]R.")

    def test_objects_are_not_made_or_given_state(self):
        for kind in (b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
            self.refuse("refused to make an object", PROTO + kind + b")\x81.")
        state = b"}" + text("__setstate__") + number(1) + b"s"
        for target in (b"}", b"]", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", storage(),
                       tensor()):
            self.refuse("refused to give state", PROTO + target + state + b"b.")
        self.refuse("refused to give state", PROTO + b"ccollections\nOrderedDict\n)R" + b"]b.")

    def test_the_state_of_an_ordered_dict_changes_nothing(self):
        state = b"}(" + text("keys") + number(1) + text("__class__") + number(2) + b"u"
        with TorchFile(self.archive(PROTO + b"ccollections\nOrderedDict\n)R" + state + b"b.")) as file:
            self.assertEqual((dict(file.content), vars(file.content)), ({}, {}))

    def test_foreign_objects_are_marks_without_content(self):
        foreign = b"cos\nsystem\n" + tuple_of(text("true")) + b"R" + b"}b" + b"(" + text("k") + number(1) + b"u"
        with TorchFile(self.archive(state_dict(foreign)), allow_foreign=True) as file:
            self.assertEqual(vars(file.content["a"]), {"name": "os.system"})
        self.refuse("a tensor is made from a Foreign", state_dict(tensor(source=b"cos\nx\n)R")),
                    "--allow-foreign-objects")

    def test_other_opcodes_are_refused(self):
        for opcode in set(range(256)) - set(b"(N\x88\x89JKM\x8aGX}])t\x85\x86\x87suaeqrhjcR\x81bQ."):
            self.refuse("is not one that torch.save writes", PROTO + bytes([opcode]) + b"\0" * 16)
        for protocol in (0, 1, 3, 4, 5, 255):
            self.refuse("protocol 2", b"\x80" + bytes([protocol]) + b"}.")

    def test_other_persistent_ids_are_refused(self):
        for value in (text("0"), b")", tuple_of(text("module"), b"}"), number(1),
                      tuple_of(text("module"), b"ctorch\nFloatStorage\n", text("0"), text("cpu"), number(8))):
            self.refuse("a persistent id is not", state_dict(value + b"Q"))
        self.refuse("of class 'cuda', expected", state_dict(storage(kind=text("cuda"))))
        self.refuse("of class 'os.system'", state_dict(storage(kind=b"cos\nsystem\n")), "--allow-foreign-objects")
        self.refuse("expected text", state_dict(tuple_of(
            text("storage"), b"ctorch\nFloatStorage\n", number(0), text("cpu"), number(8)) + b"Q"))

    def test_storages_must_be_there_and_as_large_as_told(self):
        for key in ("1", "../../etc/passwd", "0/../0", "", "\0", "data.pkl"):
            self.refuse("is missing in the file", state_dict(tensor(source=storage(key=key))))
        for elements in (0, 7, 9, 1 << 40):
            self.refuse("has 32 bytes in the file, expected", state_dict(tensor(source=storage(elements=elements))))
        for elements in (-1, -8, 1 << 49, 1 << 2000):
            self.refuse("elements, expected 0 to", state_dict(storage(elements=elements)))
        self.refuse("one description", PROTO + storage() + storage(elements=16, kind=b"ctorch\nHalfStorage\n") + b".")

    def test_tensors_must_lie_in_their_storage(self):
        for shape, stride, offset in (((8,), (2,), 0), ((8,), (1,), 1), ((2, 2), (7, 1), 1), ((2,), (1 << 47,), 0),
                                      ((1,), (1,), 1 << 47), ((0,), (1,), 9)):
            self.refuse("ends at element|more elements than", state_dict(tensor(shape, stride, offset)))
        for shape in ((-1,), (-8,), (1 << 60,), (1 << 2000,), (1,) * 17):
            self.refuse("has shape", state_dict(tensor(shape, (1,) * len(shape))))
        for shape in ((9,), (1 << 48,), (1 << 48,) * 16, (3, 3)):
            self.refuse("more elements than", state_dict(tensor(shape, (0,) * len(shape))))
        for stride in ((-1,), (), (1, 1), (1 << 60,)):
            self.refuse("has stride", state_dict(tensor((8,), stride)))
        self.refuse("has offset -1", state_dict(tensor(offset=-1)))
        self.refuse("has offset", state_dict(tensor(offset=1 << 60)))
        self.refuse("metadata", state_dict(tensor(extra=b"}" + text("conj") + b"\x88s")))
        wrong = b"ctorch._utils\n_rebuild_tensor_v2\n"
        self.refuse("from 0 arguments", state_dict(wrong + b")R"))
        self.refuse("has shape a list", state_dict(
            wrong + tuple_of(storage(), number(0), b"]", b")", b"N", b"N") + b"R"))
        self.refuse("has shape", state_dict(
            wrong + tuple_of(storage(), number(0), b"\x88\x85", number(1) + b"\x85", b"N", b"N") + b"R"))

    def test_a_small_file_cannot_write_a_large_one(self):
        with TorchFile(self.archive(state_dict(tensor()))) as file:
            view = file.content["a"]
        self.assertEqual(check_size({"a": view, "b": view}, "file"), 64)
        with self.assertRaisesRegex(ConvertError, "96 bytes, more than 2 times the 32"):
            check_size({"a": view, "b": view, "c": view}, "file")

    def test_deep_and_wide_pickles(self):
        self.refuse("nested more than", PROTO + b"(" * 100_000)
        self.refuse("on the stack", PROTO + b"N" * 1_100_000)
        self.refuse("expected text or a number", PROTO + b"}" + b")" + b"\x85" * 300_000 + b"Ns.")
        self.refuse("expected a dictionary", PROTO + b")" + b"\x85" * 300_000 + b".")
        self.refuse("expected a dictionary", PROTO + b"]q\0" + b"h\0a" * 100_000 + b".")
        self.refuse("'a' is a list", PROTO + b"}q\0" + text("a") + b"]q\1h\0ah\1as.")
        self.refuse("bytes, limit", PROTO + b"X\xff\xff\xff\xff")
        self.refuse("no end within", PROTO + b"c" + b"a" * 5000)
        self.refuse("over 4000000 opcodes", PROTO + b"]" + b"NK\0\x86a" * 1_000_000)
        self.refuse("limit 33554432", PROTO + bytes(33 << 20))

    def test_broken_stacks(self):
        for pickled in (b"", b"\x80", PROTO, PROTO + b".", PROTO + b"t.", PROTO + b"u.", PROTO + b"NR.", PROTO + b"Q.",
                        PROTO + b"NNs.", PROTO + b"Nb.", PROTO + b"q\0.", PROTO + b"h\0.", PROTO + b"Na.",
                        PROTO + b"\x86.", PROTO + b"}(Nu.", PROTO + b"}}s.", PROTO + b"NN.", PROTO + b"(N.",
                        PROTO + b"}.x", PROTO + b"}(]Nu.", PROTO + b"NNa.", PROTO + b"X\1\0\0\0\xff."):
            self.assertTrue(self.refuse(r"hostile.bin: .*", pickled))

    def test_names_cannot_reach_the_terminal(self):
        message = self.refuse("no model that is known",
                              PROTO + b"}" + text("\x1b[31mred\nline\x07") + tensor() + b"s.")
        self.assertNotRegex(message, r"[\x00-\x1f]")

    def test_names_of_tensors(self):
        for key in (number(1), b"N", text(""), text("a" * 513), b")"):
            self.refuse("the name of a tensor", PROTO + b"}" + key + tensor() + b"s.")
        self.refuse("holds no tensors", PROTO + b"}.")
        self.refuse("'state_dict' is a list", PROTO + b"}(" + text("pytorch-lightning_version") + text("1") +
                    text("state_dict") + b"]u.")
        self.refuse("100000 layers, expected 1 to 1024", PROTO + b"}(" +
                    text("backbone.layers.99999.mixer.dt_proj.weight") + tensor() +
                    text("backbone.embedding.weight") + tensor((4, 2), (2, 1)) +
                    text("backbone.norm_f.weight") + tensor((2,), (1,)) + b"u.")

    def test_every_truncation(self):
        pickled = read_entries(DATA / "mamba.bin")["data.pkl"]
        for length in range(0, len(pickled), 7):
            with self.assertRaises(ConvertError):
                PickleReader(pickled[:length], "file", lambda key: None).read()


class ArchiveTest(HostileCase):
    def setUp(self):
        super().setUp()
        self.entries = read_entries(DATA / "mamba.bin")
        self.path = self.folder / "hostile.bin"

    def refuse_entries(self, pattern, entries, **options):
        self.assert_refused(pattern, write_archive(self.path, entries, **options))

    def test_paths(self):
        for name in ("../escape", "/absolute", "a/../../b", "..", "a\\b", "./x", "a//b"):
            pairs = [(f"archive/{key}", value) for key, value in self.entries.items()] + [(name, b"x")]
            self.refuse_entries("a path that torch.save does not write", pairs, root="")
        self.assertFalse((self.folder.parent / "escape").exists())

    def test_entries_twice(self):
        with self.assertWarns(UserWarning):
            self.refuse_entries("is there twice", [*self.entries.items(), ("data/0", b"x")])

    def test_roots(self):
        pairs = [(f"{root}/{key}", value) for root in "ab" for key, value in self.entries.items()]
        self.refuse_entries("has 2 entries NAME/data.pkl", pairs, root="")
        self.refuse_entries("has 0 entries NAME/data.pkl", list(self.entries.items()), root="")
        self.refuse_entries("TorchScript", {**self.entries, "constants.pkl": b""})

    def test_methods_of_compression(self):
        self.refuse_entries("compression method 14", self.entries, compression=zipfile.ZIP_LZMA)
        self.refuse_entries("compression method 12", self.entries, compression=zipfile.ZIP_BZIP2)

    def test_bombs(self):
        self.refuse_entries("unpacks to", {**self.entries, "data/99": bytes(80 << 20)},
                            compression=zipfile.ZIP_DEFLATED)
        self.refuse_entries("limit 33554432", {**self.entries, "data.pkl": bytes(33 << 20)},
                            compression=zipfile.ZIP_DEFLATED)

    def test_overlapping_entries(self):
        """Two names for the same bytes: the second central entry points at the first local header."""
        write_archive(self.path, self.entries)
        with zipfile.ZipFile(self.path, "a") as archive:
            first = archive.infolist()[0]
            copy = zipfile.ZipInfo("archive/data/copy")
            for field in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(copy, field, getattr(first, field))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
            archive._didModify = True
        self.assert_refused("overlaps another", self.path)

    def test_sizes_that_lie(self):
        write_archive(self.path, self.entries)
        content = bytearray(self.path.read_bytes())
        place = content.rindex(b"archive/data/3")
        for field, value in ((-22, 1 << 30), (-26, 1 << 30), (-22, 0), (-4, 1 << 30)):
            lying = bytearray(content)
            struct.pack_into("<I", lying, place + field, value)
            self.path.write_bytes(lying)
            with self.assertRaises(ConvertError):
                self.convert(self.path)
            self.assert_nothing_written()
        both = bytearray(content)
        struct.pack_into("<II", both, place - 26, 1 << 30, 1 << 30)
        self.path.write_bytes(both)
        self.assert_refused("overlaps|truncated|limit|cannot be read", self.path)

    def test_wrong_checksums(self):
        content = (DATA / "mamba.bin").read_bytes()
        raw = self.entries["data/2"]
        self.assertEqual(content.count(raw), 1)
        self.path.write_bytes(content.replace(raw, bytes([raw[0] ^ 1]) + raw[1:]))
        self.assert_refused("entry .*data/2' cannot be read.*damaged", self.path)

    def test_truncated_archives(self):
        content = (DATA / "mamba.bin").read_bytes()
        for length in range(0, len(content), 97):
            self.path.write_bytes(content[:length])
            self.assert_refused("hostile.bin", self.path)


class MutationTest(HostileCase):
    """Random damage, always the same: each run ends in a refusal or in a folder that is whole."""

    def mutate(self, data, generator):
        data = bytearray(data)
        for _ in range(generator.choice((1, 1, 2, 4, 16))):
            place = generator.randrange(len(data))
            kind = generator.randrange(5)
            if kind == 0:
                data[place] = generator.randrange(256)
            elif kind == 1:
                data[place] ^= 1 << generator.randrange(8)
            elif kind == 2:
                del data[place:place + generator.randrange(1, 9)]
            elif kind == 3:
                data[place:place] = generator.randbytes(generator.randrange(1, 9))
            else:
                other = generator.randrange(len(data))
                data[place:place + 8] = data[other:other + 8]
            if not data:
                return b"\0"
        return bytes(data)

    def try_to_convert(self, path, *options):
        try:
            self.convert(path, "--attention-heads", "1", *options)
        except ConvertError:
            self.assert_nothing_written()
            return 0
        read_safetensors(self.target / "model.safetensors")
        for file in self.target.iterdir():
            file.unlink()
        self.target.rmdir()
        return 1

    def test_mutated_pickles(self):
        generator = random.Random(SEED)
        sizes = {name: {} for name in ("mamba.bin", "h3_lightning_foreign.pt", "mamba2.bin")}
        for name in sizes:
            entries = read_entries(DATA / name)
            stored = {key[5:]: len(value) for key, value in entries.items() if key.startswith("data/")}
            for i in range(1500):
                pickled = self.mutate(entries["data.pkl"], generator)
                try:
                    PickleReader(pickled, name, stored.get, allow_foreign=i % 2 == 0).read()
                except ConvertError as error:
                    self.assertNotIn("\n", str(error))

    def test_mutated_pickles_in_whole_archives(self):
        generator = random.Random(SEED + 1)
        converted = 0
        for name in ("mamba.bin", "h3_old.pt", "mamba_views.bin"):
            entries = read_entries(DATA / name)
            for _ in range(200):
                mutated = {**entries, "data.pkl": self.mutate(entries["data.pkl"], generator)}
                converted += self.try_to_convert(write_archive(self.folder / "m.bin", mutated))
        self.assertGreater(converted, 0)

    def test_mutated_files(self):
        generator = random.Random(SEED + 2)
        path = self.folder / "m.bin"
        for name in ("mamba_bf16.bin", "h3_lightning_foreign.pt"):
            content = (DATA / name).read_bytes()
            tail = len(content) - 64 * content.count(b"PK\x01\x02") - 512
            for i in range(1500):
                # Every second one is damaged in the directory at the end only, which says where everything lies.
                keep = tail if i % 2 else 0
                path.write_bytes(content[:keep] + self.mutate(content[keep:], generator))
                self.try_to_convert(path, "--allow-foreign-objects")


if __name__ == "__main__":
    unittest.main()
