"""What steps of a model launch, as tests/benchmark/device_traffic tells it on the emulated device."""
import json
import os
import re
import subprocess

# Builds that have the program, by preset.
PRESETS = ("release", "emulated", "debug")


def program(root):
    """The newest there is; None if none is built."""
    built = [path for path in (root / f"build/{preset}/bin/device_traffic" for preset in PRESETS) if path.is_file()]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


def functions(path):
    """Addresses and names of the program's functions, with arguments."""
    result = subprocess.run(["nm", "-C", "--defined-only", str(path)], stdout=subprocess.PIPE, text=True, check=True)
    found = {}
    start = 0
    for line in result.stdout.splitlines():
        address, kind, name = line.split(" ", 2)
        if name == "__executable_start":
            start = int(address, 16)
        if kind in "tTwW":
            found[int(address, 16)] = name
    return {address - start: name for address, name in found.items()}


def base(kernel):
    """"void engram::cuda::(anonymous namespace)::Scan<8, true>(StepTable, ...)": "Scan"."""
    return re.match(r"(?:void )?(?:[\w:]|\(anonymous namespace\))*?(\w+)(?:<.*)?\(", kernel)[1]


def steps(path, shape, *options):
    """Of each step what the program says, where `at` of kernels is made their name with arguments. All products are
    kernels of ours: of cuBLASLt's nothing is known but that they multiply the same."""
    result = subprocess.run([str(path), shape, "--json", *options], stdout=subprocess.PIPE, text=True, check=True,
                            env={**os.environ, "ENGRAM_EMULATION_CUBLASLT": "0"})
    told = json.loads(result.stdout)
    names = functions(path)
    for step in told:
        for kernel in step["kernels"]:
            kernel["kernel"] = names[kernel.pop("at")]
    return told
