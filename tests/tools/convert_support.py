"""What the tests of the converter share: running it, reading what it wrote, and archives built by hand."""

import contextlib
import hashlib
import io
import json
import pathlib
import struct
import sys
import tempfile
import unittest
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
TOOL = HERE.parent.parent / "tools" / "convert"
DATA = HERE / "data"
sys.path.insert(0, str(TOOL))

import convert  # noqa: E402
from errors import ConvertError  # noqa: E402

EXPECTED = json.loads((DATA / "expected.json").read_text())


class ConvertCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.target = self.folder / "model"

    def convert(self, source, *options, target=None):
        """Runs the converter in this process and returns what it told; a refusal is a ConvertError."""
        args = convert.parse_arguments([str(source), str(target or self.target), *options])
        notes = io.StringIO()
        with contextlib.redirect_stderr(notes):
            convert.convert(args, convert.Report(args.quiet))
        return notes.getvalue()

    def source(self, name, **files):
        """A copy of a file of test data in a folder of its own, with other files beside it."""
        folder = self.folder / "source"
        folder.mkdir(exist_ok=True)
        copy = folder / name
        copy.write_bytes((DATA / name).read_bytes())
        for stem, content in files.items():
            (folder / f"{stem}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return copy

    def assert_refused(self, pattern, source, *options):
        with self.assertRaisesRegex(ConvertError, pattern) as caught:
            self.convert(source, *options)
        self.assertNotIn("\n", str(caught.exception))
        self.assert_nothing_written()
        return str(caught.exception)

    def assert_nothing_written(self):
        self.assertFalse(self.target.exists())
        self.assertEqual(list(self.folder.glob(".*")), [], "a partial folder was left behind")


def read_safetensors(path):
    """Header and {name: [dtype, shape, SHA-256]} of a safetensors file, its layout checked."""
    content = path.read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    assert length % 8 == 0, "the data does not begin at a multiple of 8"
    header = json.loads(content[8:8 + length])
    data = content[8 + length:]
    tensors, end = {}, 0
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        width = {"F32": 4, "F16": 2, "BF16": 2}[entry["dtype"]]
        elements = 1
        for dimension in entry["shape"]:
            elements *= dimension
        assert begin == end and stop - begin == elements * width, f"{name} overlaps, leaves a gap or has a wrong size"
        assert begin % width == 0, f"{name} is not aligned"
        tensors[name] = [entry["dtype"], entry["shape"], hashlib.sha256(data[begin:stop]).hexdigest()]
        end = stop
    assert end == len(data), "bytes are left over"
    return header, tensors


def read_entries(path):
    """Entries of an archive of torch.save by their names without the first folder."""
    with zipfile.ZipFile(path) as archive:
        return {entry.filename.partition("/")[2]: archive.read(entry) for entry in archive.infolist()}


def write_archive(path, entries, compression=zipfile.ZIP_STORED, root="archive"):
    """Entries may be a dict, or a list of pairs where a name may come twice."""
    pairs = entries.items() if isinstance(entries, dict) else entries
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in pairs:
            archive.writestr(f"{root}/{name}" if root else name, content)
    return path
