"""What nvcc says of each kernel of a .cu file, compiled for sm_90a."""
import collections
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

# As kernels/cuda/CMakeLists.txt has them.
FLAGS = ["-std=c++20", "-fmad=false", "-ftz=true", "-gencode", "arch=compute_90a,code=sm_90a"]
# Of a multiprocessor of compute capability 9.0. Registers are dealt out to warps
# by 256; each block has a kilobyte of shared memory for the system.
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32
SHARED_BYTES, SHARED_BYTES_OF_SYSTEM = 228 * 1024, 1024

# `kernel` with its arguments, as demangled() tells it. `spilled`: bytes of local
# memory, for whatever reason. `threads`: the most of a block; None: not said.
Resources = collections.namedtuple("Resources", "kernel registers spilled shared barriers threads")


def nvcc():
    """Its path; None where there is none."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def demangled(names):
    result = subprocess.run(["c++filt"], input="\n".join(names), stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout.splitlines()


def blocks_that_fit(registers, threads, shared):
    """Blocks of a multiprocessor at once."""
    of_a_warp = -(-registers * 32 // 256) * 256
    warps = -(-threads // 32)
    return min(BLOCKS, THREADS // (warps * 32), REGISTERS // (of_a_warp * warps),
               SHARED_BYTES // (shared + SHARED_BYTES_OF_SYSTEM))


def compile_kernels(root, source):
    """Resources of the file's kernels; raises what the compiler says if there are none to be had."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [nvcc(), *FLAGS, f"-I{root}", "-cubin", "-Xptxas", "-v", "--keep", "--keep-dir", folder,
             "-o", f"{folder}/kernels.cubin", str(source)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{source.name} does not compile:\n{result.stdout}")
        intermediate = pathlib.Path(folder, f"{source.stem}.ptx").read_text()
    threads = {name: int(count) for name, count in
               re.findall(r"\.entry (\w+)\((?:[^{]*?)\.maxntid (\d+)", intermediate)}
    found = re.findall(r"Compiling entry function '(\w+)'.*?\n(.*?)(?=ptxas info\s+: Compiling|\Z)", result.stdout, re.S)
    kernels = []
    for (name, text), kernel in zip(found, demangled([name for name, _ in found])):
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
        shared = re.search(r"(\d+) bytes smem", text)
        barriers = re.search(r"used (\d+) barriers", text)
        kernels.append(Resources(
            kernel, int(re.search(r"Used (\d+) registers", text)[1]), sum(map(int, spills.groups())),
            int(shared[1]) if shared else 0, int(barriers[1]) if barriers else 0, threads.get(name)))
    return kernels


def resources_of(root, source, kept):
    """The same, from the folder `kept` if it has them of the file and of headers as they are."""
    known = kept / f"{source.stem}.json"
    sources = [source, pathlib.Path(__file__), *root.glob("kernels/**/*.h")]
    if known.is_file() and known.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return [Resources(*kernel) for kernel in json.loads(known.read_text())]
    kernels = compile_kernels(root, source)
    kept.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(kernels))
    return kernels
