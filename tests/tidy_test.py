"""The rules of CONTRIBUTING.md that a script can check, over the source tree.

Usage: tidy_test.py SOURCE_FOLDER [ENGRAM_SERVER_BINARY]
"""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
SERVER = sys.argv.pop(1) if len(sys.argv) > 1 else None
LAYERS = ("tools", "kernels", "model", "server", "clients", "proto", "tests")
CODE = (".h", ".cc", ".cu")

# layer: what it may include of ours
MAY_INCLUDE = {
    "tools/shell": {"tools/shell"},
    "tools/status": {"tools/status"},
    "tools/tls": {"tools/status", "tools/tls"},
    "kernels": {"tools/status", "kernels"},
    "model": {"tools/status", "kernels", "model"},
    "server": {"tools/shell", "tools/status", "tools/tls", "kernels", "model", "server", "engram"},
    "clients": {"tools/shell", "tools/status", "tools/tls", "clients", "engram"},
}
# `engram-bench engine` and `limits` measure back ends and processors themselves.
ENGINE_BENCH_FILES = re.compile(r"clients/cpp/(engine_bench|engine_steps|limits_bench)\.(h|cc)$")
GRPC_FILES = re.compile(r"server/(\w*service|\w*call|wire\w*|grpc_port|grpc_credentials|live_calls|server)\.(h|cc)$")
PROMETHEUS_FILES = re.compile(r"server/(\w*metric\w*|request_counter)\.(h|cc)$")
# Every way to read the time. A deadline that gRPC gives as a time_point is none.
CLOCKS = re.compile(r"absl::Now\(|gettimeofday|clock_gettime|\btime\((nullptr|NULL|0|&\w+)\)|steady_clock|_clock::now|GetCurrentTime(Nanos)?\(")
BACKEND_FILES = {"server/model_loading.cc", "server/served_model.h", "server/options.h"}
# What limits the back end's threads limits memory too: control groups are found in one place for both.
CONTROL_GROUP_FILES = {"server/memory_room.cc"}


def sources(*layers):
    for layer in layers:
        for path in sorted((ROOT / layer).rglob("*")):
            if path.suffix in CODE and "golden" not in path.parts:
                yield path


def name(path):
    return str(path.relative_to(ROOT))


def includes(path):
    return re.findall(r'^#include ["<]([^">]+)[">]', path.read_text(), re.M)


class TidyTest(unittest.TestCase):
    def test_includes_go_down_the_layers_only(self):
        for layer, allowed in MAY_INCLUDE.items():
            for path in sources(layer):
                also = {"kernels", "model"} if ENGINE_BENCH_FILES.match(name(path)) else set()
                for include in includes(path):
                    first = include.split("/")[0]
                    if first == "tools":
                        first = include.rsplit("/", 1)[0]
                    if first in LAYERS + ("engram",) or first.startswith("tools"):
                        self.assertIn(first, allowed | also, f"{name(path)} includes {include}")

    def test_server_includes_kernels_only_for_status(self):
        for path in sources("server"):
            for include in includes(path):
                if include == "kernels/control_group.h":
                    self.assertIn(name(path), CONTROL_GROUP_FILES, f"{name(path)} includes {include}")
                elif include.startswith("kernels/") and include != "kernels/status.h":
                    self.assertIn(name(path), BACKEND_FILES, f"{name(path)} includes {include}")

    def test_grpc_and_prometheus_stay_where_they_belong(self):
        for path in sources("tools/shell", "tools/status", "tools/tls", "kernels", "model", "server"):
            for include in includes(path):
                if re.match(r"(grpc|google/protobuf|engram/v1)", include):
                    self.assertRegex(name(path), GRPC_FILES, f"{name(path)} includes {include}")
                if include.startswith("prometheus/"):
                    self.assertRegex(name(path), PROMETHEUS_FILES, f"{name(path)} includes {include}")

    def test_every_source_is_named_in_a_cmakelists(self):
        lists = "\n".join(path.read_text() for layer in LAYERS for path in (ROOT / layer).rglob("CMakeLists.txt"))
        for path in sources(*LAYERS):
            if path.suffix == ".cc":
                self.assertRegex(lists, rf"\b{re.escape(path.name)}\b", f"{name(path)} is in no CMakeLists.txt")

    def test_the_image_is_built_from_all_that_is_built(self):
        added = re.findall(r"^add_subdirectory\(([\w/]+)\)", (ROOT / "CMakeLists.txt").read_text(), re.M)
        self.assertGreater(len(added), 5)
        copied = (ROOT / ".dockerignore").read_text().splitlines()
        for folder in added:
            self.assertIn(f"!{folder}", copied, f".dockerignore leaves out {folder}")

    def test_the_clients_have_a_namespace_of_their_own(self):
        # The server has names of its own for much of the same: one program that links both must not mix them up.
        for path in sources("clients", "tests/clients"):
            for namespace in re.findall(r"^namespace (engram\b[\w:]*) {", path.read_text(), re.M):
                self.assertEqual(namespace, "engram::client", name(path))

    def test_every_header_has_pragma_once(self):
        for path in sources(*LAYERS):
            if path.suffix == ".h" and not path.name.endswith("-inl.h"):
                self.assertIn("#pragma once", path.read_text(), name(path))

    def test_the_server_reads_time_only_in_the_clock(self):
        for path in sources("server", "model", "kernels"):
            if name(path) in ("server/clock.cc", "server/clock.h"):
                continue
            self.assertNotRegex(path.read_text(), CLOCKS, name(path))

    def test_tests_do_not_sleep_and_have_no_fixed_ports(self):
        for path in list(sources("tests")) + sorted((ROOT / "tests").rglob("*.py")):
            # The latter two only parse addresses.
            if path.name in ("tidy_test.py", "options_test.cc", "server_address_test.cc"):
                continue
            text = path.read_text()
            self.assertNotRegex(text, r"sleep_for|SleepFor|usleep\(|[^_]sleep\(\d|time\.sleep", name(path))
            self.assertNotRegex(text, r"(localhost|127\.0\.0\.1):(8000|8001|8002)\b", name(path))

    def test_nothing_is_left_disabled(self):
        for path in sources("tests"):
            self.assertNotRegex(path.read_text(), r"\bDISABLED_|EXPECT_TRUE\(true\)", name(path))

    def test_tests_skip_only_for_what_the_build_cannot_have(self):
        for path in sources("tests"):
            for line in path.read_text().splitlines():
                if "GTEST_SKIP" in line:
                    self.assertRegex(line, r'<< "(no AVX|this machine has no|a sanitizer has)', f"{name(path)} skips: {line.strip()}")

    def test_every_public_header_begins_with_a_comment(self):
        for path in sources("tools/shell", "tools/status", "tools/tls", "kernels", "model", "server", "clients"):
            if path.suffix == ".h" and not path.name.endswith("-inl.h"):
                self.assertTrue(path.read_text().startswith("//"), f"{name(path)} has no comment at its top")

    def test_the_source_is_laid_out_by_clang_format(self):
        # Tables that a script has made are as it made them.
        paths = [path for path in sources(*LAYERS) if path.name != "unicode_tables.cc"]
        done = subprocess.run(["clang-format-14", "--dry-run", "--Werror", "--ferror-limit=1", *paths],
                              cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, f"run clang-format-14 -i on it:\n{done.stderr[:2000]}")

    def test_every_flag_that_documentation_names_exists(self):
        if SERVER is None:
            self.skipTest("no server binary given")
        help_text = subprocess.run([SERVER, "--help"], capture_output=True, text=True, check=True).stdout
        known = set(re.findall(r"^  (--[a-z-]+)", help_text, re.M))
        self.assertGreater(len(known), 20)
        for document in ("server/README.md", "ARCHITECTURE.md"):
            for flag in re.findall(r"`(--[a-z-]+)", (ROOT / document).read_text()):
                self.assertIn(flag, known, f"{document} names {flag}")


if __name__ == "__main__":
    unittest.main()
