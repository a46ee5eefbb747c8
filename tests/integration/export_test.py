"""States as files: written and taken back by the command line, read and changed here with nothing but the format's own description.

Usage: export_test.py SOURCE_FOLDER BINARY_FOLDER
"""
import array
import hashlib
import json
import math
import pathlib
import signal
import struct
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
BIN = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(ROOT / "tests/support"))

from server_program import run, start_server  # noqa: E402: found only now

MODELS = ("mamba-induction", "mamba2-induction", "h3-induction", "s4d-induction", "attention-induction")
TYPES = {"F32": "f", "I32": "i"}
SECRETS = ("3 11 0 => 7 5 12 2 9", "3 11 0 => 7 5 12 2 8")


class StateFile:
    """What a safetensors file holds; the header and the layout are checked as the format has them."""

    def __init__(self, content):
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8:8 + length])
        data = content[8 + length:]
        self.metadata = header.pop("__metadata__")
        self.shapes = {name: tensor["shape"] for name, tensor in header.items()}
        self.bytes = {}
        covered = 0
        for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = tensor["data_offsets"]
            assert begin == covered and end - begin == 4 * math.prod(tensor["shape"]), name
            self.bytes[name] = data[begin:end]
            covered = end
        assert covered == len(data)
        self.values = {name: array.array(TYPES[header[name]["dtype"]], bytes_) for name, bytes_ in self.bytes.items()}

    def content(self):
        """The file of what is held now, with the checksum that belongs to it."""
        metadata = dict(self.metadata, checksum=self.checksum())
        header, data = {"__metadata__": metadata}, b""
        for name, values in sorted(self.values.items()):
            part = values.tobytes()
            kind = next(kind for kind, code in TYPES.items() if code == values.typecode)
            header[name] = {"dtype": kind, "shape": self.shapes[name], "data_offsets": [len(data), len(data) + len(part)]}
            data += part
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def checksum(self):
        digest = hashlib.sha256()
        for key in sorted(self.metadata.keys() - {"checksum"}):
            digest.update(f"{key}\n{self.metadata[key]}\n".encode())
        for name in sorted(self.values):
            digest.update(f"{name}\n".encode() + self.values[name].tobytes())
        return digest.hexdigest()


class ExportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        models = [word for name in MODELS for word in ("--model", f"{name}={ROOT}/model/zoo/{name}")]
        cls.server, cls.address, _ = start_server(BIN, *models, "--threads", "1", "--request-log", "off", "--drain-timeout",
                                                  "0s")
        assert cls.address, f"engram-server ended with {cls.server.wait()}"
        cls.folder = tempfile.TemporaryDirectory()

    @classmethod
    def tearDownClass(cls):
        cls.server.send_signal(signal.SIGTERM)
        assert cls.server.wait(timeout=60) == 0
        cls.server.stdout.close()
        cls.folder.cleanup()

    def engram(self, *words):
        done = run(BIN / "engram", "--server", self.address, *words)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def export(self, verb, name):
        path = pathlib.Path(self.folder.name, f"{verb}-{name}")
        self.assertIn(str(path), self.engram(verb, "export", name, path))
        self.assertEqual(path.stat().st_mode & 0o077, 0, "states hold what was said")
        return StateFile(path.read_bytes())

    def read(self, model, session, prompt, max_tokens):
        self.engram("generate", "--model", model, "--session", session, "--prompt", prompt, "--max-tokens", max_tokens)

    def test_a_state_of_every_family(self):
        for model in MODELS:
            with self.subTest(model):
                self.read(model, model, SECRETS[0], 2)
                state = self.export("sessions", model)
                session = json.loads(self.engram("sessions", "get", model, "--json"))
                info = json.loads(self.engram("models", "get", model, "--json"))
                told = state.metadata
                self.assertEqual(told["checksum"], state.checksum())
                self.assertEqual((told["format"], told["format_version"], told["dtype"]), ("engram-state", "1", "F32"))
                self.assertEqual((told["model"], told["family"]), (model, info["family"]))
                self.assertEqual((told["weight_hash"], told["weight_format"]), (info["weight_hash"], info["weight_format"]))
                self.assertEqual((told["version"], told["position"]), (session["version"], session["position"]))
                self.assertTrue(session["pending_token"])
                tokens = [int(id_) for id_ in self.engram("tokenize", "--model", model, "--text", SECRETS[0]).split(",")]
                self.assertLessEqual(set(tokens), set(state.values["seen_tokens"]))
                self.assertIn(int(told["pending_token"]), range(int(told["vocabulary_size"])))
                self.assertEqual(state.shapes["last_hidden"], [len(state.values["last_hidden"])])
                self.assertTrue(any(state.values["last_hidden"]))
                self.assertTrue(all(math.isfinite(value) for values in state.values.values() for value in values))

    def test_one_tensor_for_each_component_and_layer(self):
        self.read("mamba-induction", "shapes", SECRETS[0], 1)
        config = json.loads((ROOT / "model/zoo/mamba-induction/config.json").read_text())
        layers = config["num_hidden_layers"]
        d_inner = config["expand"] * config["hidden_size"]
        shapes = self.export("sessions", "shapes").shapes
        for layer in range(layers):
            self.assertEqual(shapes[f"ssm_state.{layer}"], [config["state_size"], d_inner])
            self.assertEqual(shapes[f"conv_state.{layer}"], [config["conv_kernel"] - 1, d_inner])
        self.assertEqual(len(shapes), 2 * layers + 2)

    def test_a_checkpoint_is_its_sessions_state(self):
        self.read("mamba-induction", "kept", SECRETS[0], 1)
        self.engram("checkpoints", "create", "kept", "--session", "kept")
        session, checkpoint = self.export("sessions", "kept"), self.export("checkpoints", "kept")
        self.assertEqual(session.bytes, checkpoint.bytes)
        self.assertEqual(session.metadata, checkpoint.metadata)
        # What the session reads later is not in the checkpoint.
        self.read("mamba-induction", "kept", "5 6", 1)
        self.assertNotEqual(self.export("sessions", "kept").bytes, checkpoint.bytes)
        self.assertEqual(self.export("checkpoints", "kept").bytes, checkpoint.bytes)

    def test_what_was_read_alike_is_alike(self):
        for name, secret in (("one", 0), ("same", 0), ("other", 1)):
            self.read("mamba2-induction", name, SECRETS[secret], 0)
        one, same, other = (self.export("sessions", name) for name in ("one", "same", "other"))
        self.assertEqual(one.bytes, same.bytes)
        self.assertEqual(one.metadata["pending_token"], "")
        self.assertNotEqual(one.bytes["ssm_state.0"], other.bytes["ssm_state.0"])

    def answer(self, session):
        lines = self.engram("generate", "--session", session, "--prompt", "=>", "--max-tokens", 4, "--json").splitlines()
        return [json.loads(line)["token"] for line in lines if "token" in json.loads(line)]

    def test_a_file_of_every_family_goes_on_as_its_session(self):
        for model in MODELS:
            with self.subTest(model):
                source, moved = f"{model}-source", f"{model}-moved"
                self.read(model, source, SECRETS[0], 2)
                path = pathlib.Path(self.folder.name, source)
                self.engram("sessions", "export", source, path)
                told = self.engram("sessions", "import", path, "--session", moved, "--label", "of=a friend", "--ttl", "2h")
                self.assertIn("label    of=a friend", told)
                self.engram("checkpoints", "import", path, "--checkpoint", moved)
                self.engram("sessions", "fork", "--from-checkpoint", moved, f"{moved}-fork")
                said = self.answer(source)
                self.assertEqual(len(said), 4)
                self.assertEqual(self.answer(moved), said)
                self.assertEqual(self.answer(f"{moved}-fork"), said)

    def test_a_state_that_was_changed_is_taken_with_its_checksum_alone(self):
        self.read("mamba-induction", "plain", SECRETS[0], 1)
        state = self.export("sessions", "plain")
        state.values["ssm_state.1"] = array.array("f", bytes(4 * len(state.values["ssm_state.1"])))
        path = pathlib.Path(self.folder.name, "changed")
        path.write_bytes(state.content())
        self.engram("sessions", "import", path, "--session", "changed")
        self.assertNotEqual(self.answer("changed"), self.answer("plain"), "the second layer keeps the secret")
        path.write_bytes(state.content()[:-1] + b"x")
        self.refuse("is damaged", "sessions", "import", path, "--session", "damaged")

    def refuse(self, why, *words):
        done = run(BIN / "engram", "--server", self.address, *words)
        self.assertEqual(done.returncode, 1)
        self.assertIn(why, done.stderr)

    def test_from_standard_input_and_in_place_of_what_is_there(self):
        self.read("mamba-induction", "origin", SECRETS[0], 1)
        done = run("bash", "-c", f"{BIN}/engram --server {self.address} sessions export origin - | "
                                 f"{BIN}/engram --server {self.address} sessions import - --session copy")
        self.assertEqual(done.returncode, 0, done.stderr)
        path = pathlib.Path(self.folder.name, "origin")
        self.engram("sessions", "export", "origin", path)
        self.refuse('session "copy" exists', "sessions", "import", path, "--session", "copy")
        self.answer("copy")
        self.engram("sessions", "import", path, "--session", "copy", "--replace")
        self.assertEqual(json.loads(self.engram("sessions", "get", "copy", "--json"))["version"], "1")

    def test_files_that_are_none(self):
        self.refuse("it is no engram-state", "sessions", "import", ROOT / "README.md", "--session", "none")
        self.refuse("cannot read '/no/such/file'", "sessions", "import", "/no/such/file", "--session", "none")
        for verb, flag in (("sessions", "--session"), ("checkpoints", "--checkpoint")):
            done = run(BIN / "engram", "--server", self.address, verb, "import", ROOT / "README.md")
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"Give {flag}", done.stderr)

    def test_to_standard_output(self):
        self.read("mamba-induction", "piped", SECRETS[0], 1)
        done = run("bash", "-c", f"{BIN}/engram --server {self.address} sessions export piped - | head -c 8 | wc -c")
        self.assertEqual(done.stdout.strip(), "8")

    def test_no_file_is_left_where_there_is_no_state(self):
        self.engram("sessions", "create", "empty", "--model", "mamba-induction")
        path = pathlib.Path(self.folder.name, "none")
        for words, why in ((("sessions", "export", "nobody"), "there is no session"),
                           (("sessions", "export", "empty"), "has read nothing yet"),
                           (("checkpoints", "export", "nobody"), "there is no checkpoint")):
            done = run(BIN / "engram", "--server", self.address, *words, path)
            self.assertEqual(done.returncode, 1)
            self.assertIn(why, done.stderr)
            self.assertEqual(list(path.parent.glob("none*")), [])
        done = run(BIN / "engram", "--server", self.address, "sessions", "export", "empty", "/no/such/folder/file")
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot write '/no/such/folder/file.part'", done.stderr)


if __name__ == "__main__":
    unittest.main()
