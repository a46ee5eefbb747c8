"""The selective scan as a compiled operation that PyTorch can differentiate.

A loop over tokens in Python is some hundred times slower than the same loop
compiled, and training needs nothing else that PyTorch lacks. selective_scan.cc
is compiled on first use and kept in build/ beside this file.
"""

import ctypes
import hashlib
import os
import pathlib
import subprocess

import torch

SOURCE = pathlib.Path(__file__).with_suffix(".cc")
COMPILE = ["g++", "-std=c++17", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]


def _load():
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(COMPILE).encode()).hexdigest()[:12]
    library = SOURCE.parent / "build" / f"selective_scan-{key}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        partial = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*COMPILE, str(SOURCE), "-o", str(partial), "-lm"], check=True)
        partial.replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.selective_scan_chunk.restype = ctypes.c_int64
    return loaded


_library = _load()
_CHUNK = _library.selective_scan_chunk()


def _call(function, sizes, tensors):
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]
    function(*[ctypes.c_int64(size) for size in sizes], *pointers)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        _call(_library.softplus_forward, [x.numel()], [x, y])
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx, d_y):
        (x,) = ctx.saved_tensors
        d_x = torch.empty_like(x)
        _call(_library.softplus_backward, [x.numel()], [x, d_y.contiguous(), d_x])
        return d_x


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dt, x, A, B, C, h_first):
        inputs = [None if t is None else t.contiguous() for t in (dt, x, A, B, C, h_first)]
        if any(t is not None and t.dtype != torch.float32 for t in inputs):
            raise TypeError("selective_scan takes float32 only")
        rows, tokens, channels = dt.shape
        sizes = (rows, tokens, channels, A.shape[0])
        y = torch.empty_like(inputs[0])
        h_last = dt.new_empty(rows, A.shape[0], channels)
        kept = None
        if any(ctx.needs_input_grad):
            kept = dt.new_empty(rows, -(-tokens // _CHUNK), A.shape[0], channels)
        _call(_library.selective_scan_forward, sizes, [*inputs, y, h_last, kept])
        ctx.save_for_backward(*inputs[:5], kept)
        ctx.sizes, ctx.has_first = sizes, h_first is not None
        return y, h_last

    @staticmethod
    def backward(ctx, d_y, d_h_last):
        *inputs, kept = ctx.saved_tensors
        gradients = [torch.zeros_like(t) for t in inputs]
        d_h = d_h_last.clone(memory_format=torch.contiguous_format)
        tensors = [*inputs, kept, d_y.contiguous(), *gradients, d_h]
        _call(_library.selective_scan_backward, ctx.sizes, tensors)
        return (*gradients, d_h if ctx.has_first else None)


def softplus(x):
    """log(1 + exp(x)) in float32; PyTorch's own is slow on a CPU."""
    if x.dtype != torch.float32:
        raise TypeError("softplus takes float32 only")
    return _Softplus.apply(x)


def selective_scan(dt, x, A, B, C, h_first=None):
    """Runs the scan over all tokens; returns y and the last state.

    dt, x    [rows, tokens, channels]  step size (already positive) and input
    A        [states, channels]        negative
    B, C     [rows, tokens, states]
    h_first  [rows, states, channels]  state to start from, or None for zero
    """
    return _SelectiveScan.apply(dt, x, A, B, C, h_first)


def selective_scan_reference(dt, x, A, B, C, h_first=None):
    """The same in plain PyTorch, one token at a time, in any float type."""
    h = h_first if h_first is not None else dt.new_zeros(dt.shape[0], *A.shape)
    outputs = []
    for t in range(dt.shape[1]):
        step = dt[:, t, None, :]
        h = torch.exp(step * A) * h + step * B[:, t, :, None] * x[:, t, None, :]
        outputs.append((C[:, t, :, None] * h).sum(1))
    return torch.stack(outputs, 1), h
