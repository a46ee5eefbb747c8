"""A file of torch.save, opened for reading: a zip archive with one pickle and one raw entry per storage.

Nothing is unpacked to disk. Torch stores entries as they are; a deflated entry is read too, within a limit on how much
an archive may grow. Every entry that is read is read to its end, so that its checksum is always verified.
"""

import re
import struct
import zipfile
import zlib
from contextlib import contextmanager

from errors import ConvertError, shown
from pickle_reader import PICKLE_BYTES_MAX, PickleReader

ENTRIES_MAX = 200_000
GROWTH_MAX = 20  # times the size of the file, plus 64 MiB
PIECE_BYTES = 8 << 20
LOCAL_HEADER_BYTES = 30

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
SAVE_AGAIN = "python3 -c \"import torch; torch.save(torch.load('IN', weights_only=True), 'OUT')\""

# What zipfile raises on damaged archives, its own class and those of what it stands on.
ZIP_PROBLEMS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError,
                OverflowError, IndexError)


class TorchFile:
    def __init__(self, path, allow_foreign=False):
        self.path = str(path)
        try:
            self.file = open(path, "rb")
        except OSError as error:
            raise ConvertError(f"{self.path}: cannot be opened: {error.strerror}") from None
        try:
            self._open(allow_foreign)
        except BaseException:
            self.file.close()
            raise

    def _open(self, allow_foreign):
        self._refuse_other_formats()
        with self._zip_problems("the archive"):
            self.archive = zipfile.ZipFile(self.file)
            entries = self.archive.infolist()
        self.file_bytes = self.file.seek(0, 2)
        self._check_entries(entries)
        self.entries = {entry.filename: entry for entry in entries}
        self.root = self._find_root()
        self._check_byte_order()
        reader = PickleReader(self._read_small("data.pkl", PICKLE_BYTES_MAX), self.path, self._storage_bytes,
                              allow_foreign)
        self.content = reader.read()
        self.foreign = reader.foreign

    def close(self):
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def storage_pieces(self, storage):
        """The bytes of a storage, piece by piece; the last step verifies the checksum."""
        name = f"{self.root}/data/{storage.key}"
        with self._zip_problems(f"entry {shown(name)}"):
            total = 0
            with self.archive.open(self.entries[name]) as stream:
                while piece := stream.read(PIECE_BYTES):
                    total += len(piece)
                    yield piece
        if total != storage.bytes:
            self._fail(f"entry {shown(name)} ends after {total} bytes, expected {storage.bytes}; "
                       "the file is damaged: download it again")

    def _fail(self, problem):
        raise ConvertError(f"{self.path}: {problem}")

    @contextmanager
    def _zip_problems(self, what):
        try:
            yield
        except ZIP_PROBLEMS as error:
            self._fail(f"{what} cannot be read: {shown(str(error))}; the file is damaged: download it again")
        except OSError as error:
            self._fail(f"{what} cannot be read: {error.strerror or 'a bad place in the file'}; "
                       "the file is damaged: download it again")

    def _refuse_other_formats(self):
        head = self.file.read(64)
        if head.startswith(b"PK"):
            return
        if head.startswith(LEGACY_MAGIC) or b"ustar" in head:
            self._fail(f"is in torch's old format, from before torch 1.6, which is not read. Where torch is installed: "
                       f"{SAVE_AGAIN}")
        if head.startswith(b"version https://git-lfs"):
            self._fail("is a git-lfs pointer, not the weights; fetch them with: git lfs pull")
        if not head:
            self._fail("is empty; download it again")
        if head[8:9] == b"{":
            self._fail("looks like safetensors already; put it into a folder as model.safetensors with its config.json")
        self._fail(f"is not a file of torch.save: it begins with {shown(head[:8])}, expected a zip archive (PK)")

    def _check_entries(self, entries):
        if len(entries) > ENTRIES_MAX:
            self._fail(f"has {len(entries)} entries, limit {ENTRIES_MAX}")
        seen = set()
        for entry in entries:
            name = entry.filename
            if name in seen:
                self._fail(f"entry {shown(name)} is there twice; expected once")
            seen.add(name)
            if re.search(r"(^|/)\.\.?(/|$)|^/|//|[\\\x00-\x1f]", entry.orig_filename) or name != entry.orig_filename:
                self._fail(f"entry {shown(entry.orig_filename)} has a path that torch.save does not write")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                self._fail(f"entry {shown(name)} has compression method {entry.compress_type}, expected 0 or 8")
            if entry.flag_bits & 1:
                self._fail(f"entry {shown(name)} is encrypted")
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
                self._fail(f"entry {shown(name)} is stored but has two sizes: {entry.file_size} and "
                           f"{entry.compress_size} bytes; the file is damaged")
        self._check_growth(entries)

    def _check_growth(self, entries):
        """No archive may hold one piece of the file twice, or grow out of all proportion."""
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if entry.header_offset < end:
                self._fail(f"entry {shown(entry.filename)} overlaps another")
            end = entry.header_offset + LOCAL_HEADER_BYTES + entry.compress_size
        if end > self.file_bytes:
            self._fail(f"entries end at byte {end} of {self.file_bytes}; the file is truncated: download it again")
        total = sum(entry.file_size for entry in entries)
        limit = GROWTH_MAX * self.file_bytes + (64 << 20)
        if total > limit:
            self._fail(f"unpacks to {total} bytes, limit {limit} for a file of {self.file_bytes}")

    def _find_root(self):
        roots = [name[:-len("/data.pkl")] for name in self.entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            self._fail(f"has {len(roots)} entries NAME/data.pkl, expected 1: not a file of torch.save")
        if f"{roots[0]}/constants.pkl" in self.entries:
            self._fail("is a TorchScript program, not weights; save the state_dict() of the model instead")
        return roots[0]

    def _check_byte_order(self):
        if f"{self.root}/byteorder" not in self.entries:
            return  # older torch did not tell, and ran on little-endian machines
        order = self._read_small("byteorder", 64)
        if order != b"little":
            self._fail(f"has byte order {shown(order)}, expected b'little'; save it again on a little-endian machine")

    def _read_small(self, name, limit):
        entry = self.entries[f"{self.root}/{name}"]
        if entry.file_size > limit:
            self._fail(f"entry {shown(entry.filename)} has {entry.file_size} bytes, limit {limit}")
        with self._zip_problems(f"entry {shown(entry.filename)}"):
            return self.archive.read(entry)

    def _storage_bytes(self, key):
        entry = self.entries.get(f"{self.root}/data/{key}")
        return None if entry is None else entry.file_size
