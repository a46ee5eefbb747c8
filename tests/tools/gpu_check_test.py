"""scripts/gpu-check, and the run of a bundle: what fails or hangs is told and survived.

The bundle is one of programs that do nothing, since a GPU is not at hand.
"""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
OPERATIONS = ["backend_test", "blocks_test", "ssd_scan_test", "diagonal_scan_test", "attention_test", "slots_test"]
TESTS = OPERATIONS + ["cuda_product_test", "device_facts_test", "outcomes_test", "cuda_outcomes_test",
                      "cuda_ssd_chunks_test", "cuda_update_test", "cuda_golden_test", "cuda_format_divergence_test",
                      "cuda_model_equivalence_test", "engine_steps_test", "cuda_equivalence_integration_test",
                      "devices_integration_test", "faulty_device_integration_test", "lost_device_integration_test",
                      "cuda_overlap_test"]
PASSES = "echo '[  PASSED  ] 3 tests.'"
FAILS = "echo '[  PASSED  ] 2 tests.'; echo '[  FAILED  ] 1 test, listed below:'; echo '[  FAILED  ] Suite.Breaks'; exit 1"
SKIPS = "echo 'this machine has no device: CUDA: no driver; or use --backend=cpu'; echo '[  PASSED  ] 0 tests.'"
HANGS = "echo begun; exec sleep 100"
SERVES = "echo 'listening grpc=127.0.0.1:1 metrics=127.0.0.1:2'; exec sleep 100"
MEASURES = """cat <<'END'
engram-bench engine: copies
{
  "backend": "cuda",
  "copy_bytes_per_second": 2000000000000.0,
  "results": [
    { "x": 0,
      "model": "shape",
      "rows": 8,
      "tokens": 1,
      "step_seconds": {
        "median": 0.002,
        "fastest": 1 },
      "bytes": 2000000000.0
    }]
}
END"""

PEERS = [
    {"peer": "transformers", "results": [{"model": "shape", "rows": 1, "step_seconds": {"median": 0.006}}]},
    {"peer": "mamba-ssm", "results": [], "unavailable": "ImportError: no Triton"},
]

PROFILE = """==PROF== Connected
counted: 1000 of an update
counted: 3000 of a product
"ID","Kernel Name","dram__bytes.sum","l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum",""" + \
    """"l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum","smsp__inst_executed_op_local_ld.sum"
"","","byte","","",""
"0","Update(int, float)","1,100","10","160","0"
"1","Product<a, b>(int)","6,000","10","40","0"
"""


class GpuCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.bundle = pathlib.Path(folder.name, "bundle")
        self.out = pathlib.Path(folder.name, "out")
        for test in TESTS:
            self.program(f"tests/{test}", PASSES)
        self.program("tests/device-facts", "echo 'measured: 5 ms'; echo a fact")
        self.program("bin/engram-server", SERVES)
        self.program("bin/engram", "echo said; echo more")
        self.program("bin/engram-bench", MEASURES)
        shutil.copy(SCRIPTS / "gpu-run", self.bundle / "run")

    def program(self, name, body):
        path = self.bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def check(self, *arguments):
        done = subprocess.run([str(SCRIPTS / "gpu-check"), "--bundle", str(self.bundle), *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
                              env={**os.environ, "OUT": str(self.out),
                                   "PATH": f"{self.bundle}/path:{os.environ['PATH']}"})
        steps = json.loads((self.out / "gpu-check.json").read_text())["steps"]
        return done.returncode, done.stdout, {step["step"]: step for step in steps}

    def test_tells_what_passed_and_what_was_measured(self):
        code, text, steps = self.check()
        self.assertEqual(code, 0, text)
        self.assertEqual({step["result"] for step in steps.values()} - {"absent"}, {"ok"}, text)
        self.assertIn("18 tests passed, 0 failed", steps["operations"]["detail"])
        self.assertIn("32 of 32 streams", steps["streams"]["detail"])
        # 2 GB in 2 ms, where copies move 2 GB in 1 ms.
        self.assertRegex(text.rsplit("\n\n", 1)[1], r"shape +8 rows +2\.000 ms +50\.0 % of copies")
        self.assertEqual(json.loads((self.out / "engine-mamba-2.8b.json").read_text())["backend"], "cuda")
        self.assertIn("a fact", (self.out / "gpu-check.log").read_text())
        self.assertIn("\n5 ms\n", text)

    def test_survives_what_fails_and_what_hangs(self):
        self.program("tests/blocks_test", FAILS)
        self.program("tests/cuda_golden_test", HANGS)
        code, text, steps = self.check("--limit", "1", "--only", "operations,golden,models,failure")
        self.assertEqual(code, 1, text)
        self.assertEqual(steps["operations"]["result"], "failed")
        self.assertIn("17 tests passed, 1 failed; blocks_test failed: Suite.Breaks", steps["operations"]["detail"])
        self.assertEqual(steps["golden"]["result"], "timed out")
        self.assertEqual(steps["models"]["result"], "ok")
        self.assertEqual(steps["failure"]["result"], "ok")

    def test_other_answers_than_the_cpus_are_a_failure(self):
        self.program("bin/engram-server", f'echo "$2" >{self.out}/backend; {SERVES}')
        self.program("bin/engram", f"cat {self.out}/backend")
        code, text, steps = self.check("--only", "streams")
        self.assertEqual(code, 1, text)
        self.assertIn("only 0 of 32 streams", steps["streams"]["detail"])

    def test_without_a_device_nothing_counts_as_passed(self):
        for test in TESTS:
            self.program(f"tests/{test}", SKIPS)
        self.program("bin/engram-bench", "echo 'CUDA: no driver; or use --backend=cpu'; exit 1")
        code, text, steps = self.check("--only", "operations,models,benchmarks")
        self.assertEqual(code, 77, text)
        self.assertEqual({step["result"] for step in steps.values()}, {"no device"}, text)
        self.assertIn("CUDA: no driver", steps["mamba-2.8b"]["detail"])

    def test_a_failure_beside_what_found_no_device_is_one(self):
        self.program("tests/engine_steps_test", f"{SKIPS}; {FAILS}")
        code, text, steps = self.check("--only", "models")
        self.assertEqual(code, 1, text)
        self.assertEqual(steps["models"]["result"], "failed")
        self.assertIn("engine_steps_test failed: Suite.Breaks", steps["models"]["detail"])

    def test_a_server_that_fails_on_its_device_has_failed(self):
        refuses = "CUDA: the driver sees no device; or use --backend=cpu"
        fails = "CUDA: running a step: cudaErrorIllegalAddress (700), an illegal memory access was encountered"
        for said, rc, result in ((refuses, 77, "no device"), (fails, 1, "failed")):
            self.program("bin/engram-server", f'[ "$2" = cpu ] || {{ echo "{said}" >&2; exit 1; }}; {SERVES}')
            code, text, steps = self.check("--only", "streams")
            self.assertEqual((code, steps["streams"]["result"]), (rc, result), text)

    def test_every_kind_of_kernel_is_run_under_the_sanitizers_tools(self):
        fails = "[[ $2 != racecheck || $5 != */slots_test ]] || { echo 'Invalid __global__ write'; exit 9; }"
        self.program("path/compute-sanitizer", f'echo "$2 $5 $6" >>{self.out}/runs; {fails}')
        code, text, steps = self.check("--only", "sanitizer")
        self.assertEqual((code, steps["sanitizer"]["result"]), (1, "failed"), text)
        self.assertIn("21 runs; racecheck slots_test failed: Invalid __global__ write", steps["sanitizer"]["detail"])
        runs = (self.out / "runs").read_text()
        self.assertIn("synccheck", runs)
        self.assertIn("/cuda_update_test --gtest_filter=*AnyNumberOfRows*\n", runs)

    def test_kernels_that_move_more_than_is_counted_are_a_failure(self):
        self.program("path/ncu", f"cat <<'END'\n{PROFILE}END")
        code, text, steps = self.check("--only", "profiler")
        self.assertEqual((code, steps["profiler"]["result"]), (1, "failed"), text)
        self.assertRegex(text, r"an update +1\.10 of the bytes counted, 16\.0 sectors a load, 0 local\n")
        self.assertRegex(text, r"a product +2\.00 of the bytes counted, +4\.0 sectors a load, 0 local TOO MUCH\n")
        self.program("path/ncu", "echo '==ERROR== ERR_NVGPUCTRPERM'; exit 1")
        code, text, steps = self.check("--only", "profiler")
        self.assertEqual((code, steps["profiler"]["result"]), (0, "absent"), text)

    def test_others_are_measured_where_python_has_torch(self):
        self.program("bin/engram-bench", MEASURES.replace('"rows": 8', '"rows": 1'))
        self.program("peers/measure_peers.py", "")
        said = f"measure_peers: begins\n{json.dumps(PEERS, indent=2)}"
        self.program("path/python3", f"[[ $1 == -c ]] || cat <<'END'\n{said}\nEND")
        code, text, steps = self.check("--only", "benchmarks,peers")
        self.assertEqual((code, steps["peers"]["result"]), (0, "ok"), text)
        self.assertRegex(text, r"shape +1 rows +6\.000 ms by transformers, 3\.00 of our steps")
        self.assertIn("not measured: mamba-ssm of mamba-2.8b: ImportError: no Triton", text)
        self.assertEqual(json.loads((self.out / "peers-mamba-2.8b.json").read_text()), PEERS)
        self.program("path/python3", "exit 1")
        code, text, steps = self.check("--only", "peers")
        self.assertEqual((code, steps["peers"]["result"]), (0, "absent"), text)

    def test_runs_what_no_step_names(self):
        self.program("tests/new_test", FAILS)
        code, text, steps = self.check("--only", "others")
        self.assertEqual(code, 1, text)
        self.assertIn("2 tests passed, 1 failed; new_test failed: Suite.Breaks", steps["others"]["detail"])

    def test_programs_of_steps_have_the_arguments_of_ctest_too(self):
        self.program("tests/cuda_model_equivalence_test", f'[[ "$*" = "--gtest_filter=-A b*" ]] && {PASSES}')
        (self.bundle / "arguments").mkdir()
        (self.bundle / "arguments/cuda_model_equivalence_test").write_text("--gtest_filter=-A b*\n")
        code, text, steps = self.check("--only", "models")
        self.assertEqual((code, steps["models"]["result"]), (0, "ok"), text)

    def test_what_no_step_names_has_the_arguments_of_ctest(self):
        self.program("tests/new_test", f'[[ "$*" = "--gtest_filter=A b*" ]] && {PASSES}')
        (self.bundle / "arguments").mkdir()
        (self.bundle / "arguments/new_test").write_text("--gtest_filter=A b*\n")
        code, text, steps = self.check("--only", "others")
        self.assertEqual((code, steps["others"]["result"]), (0, "ok"), text)

    def test_what_there_is_no_time_for_is_told(self):
        code, text, steps = self.check("--total", "0", "--only", "operations")
        self.assertEqual(code, 1, text)
        self.assertEqual(steps["operations"]["result"], "no time")

    def test_nothing_is_begun_that_there_is_no_time_for(self):
        self.program("peers/measure_peers.py", "")
        for name in ("python3", "compute-sanitizer"):
            self.program(f"path/{name}", f"echo {name} >>{self.out}/begun")
        code, text, steps = self.check("--total", "0", "--only", "sanitizer,peers")
        self.assertEqual(code, 1, text)
        self.assertEqual({step["result"] for step in steps.values()}, {"no time"}, text)
        self.assertFalse((self.out / "begun").exists(), text)

    def test_a_step_is_run_alone_by_its_name_in_the_table(self):
        for name in ("mamba-2.8b", "streams"):
            code, text, steps = self.check("--only", name)
            self.assertEqual((code, list(steps)), (0, [name]), text)
        code, text, steps = self.check("--only", "stream")
        self.assertEqual((code, steps), (2, {}), text)
        self.assertIn("no step of 'stream'", text)

    def test_refuses_what_is_not_there(self):
        (self.bundle / "run").unlink()
        done = subprocess.run([str(SCRIPTS / "gpu-check"), "--bundle", str(self.bundle)], stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("scripts/gpu-bundle", done.stderr)


if __name__ == "__main__":
    unittest.main()
