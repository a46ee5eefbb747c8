"""Causal convolutions per channel and the kernels of diagonal state spaces, in real arithmetic.

Sequences are [channels, tokens, rows], so that a matrix product per channel
meets them as they lie.
"""

import math

import torch
from torch.nn import functional as F

DENSE_TOKENS_MAX = 64  # up to here a product with the whole matrix is faster than an FFT


def toeplitz(kernel):
    """[channels, tokens] -> [channels, tokens, tokens] with entry (t, s) = kernel[t - s], 0 for s > t.

    Rows are cut from one long row that shifts by one each time; a gather would
    have a slow gradient.
    """
    channels, tokens = kernel.shape
    row = F.pad(kernel, (0, tokens))  # k0 .. k(L-1), then L zeros
    shifted = row[:, None].expand(-1, tokens, -1).flatten(1)[:, : tokens * (2 * tokens - 1)]
    return shifted.view(channels, tokens, 2 * tokens - 1)[:, :, :tokens].transpose(1, 2)


def causal_convolution(kernel, x):
    """y[c, t, r] = sum over l <= t of kernel[c, l] x[c, t - l, r]; kernel [channels, tokens]."""
    tokens = x.shape[1]
    if tokens <= DENSE_TOKENS_MAX:
        return torch.bmm(toeplitz(kernel), x)
    size = 2 * tokens
    product = torch.fft.rfft(kernel, size)[:, :, None] * torch.fft.rfft(x, size, dim=1)
    return torch.fft.irfft(product, size, dim=1)[:, :tokens]


class _DiagonalKernel(torch.autograd.Function):
    """The gradients of all four inputs are sums of the same powers: two columns of one product."""

    @staticmethod
    def forward(ctx, log_size, angle, weight_re, weight_im, tokens):
        # Whole turns are taken off in float64: an angle of a hundred, times l, would lose its digits.
        turn = 2 * math.pi
        angle = angle - turn * torch.round(angle / turn)
        l = torch.arange(tokens, dtype=weight_re.dtype)
        size = torch.exp(log_size.to(l.dtype)[:, :, None] * l)
        phase = angle.to(l.dtype)[:, :, None] * l
        powers = torch.cat([size * torch.cos(phase), size * torch.sin(phase)], dim=1)
        weights = torch.cat([weight_re, -weight_im], dim=1)
        ctx.save_for_backward(powers, weight_re, weight_im, l)
        return 2 * torch.bmm(weights[:, None], powers)[:, 0]

    @staticmethod
    def backward(ctx, d_kernel):
        powers, weight_re, weight_im, l = ctx.saved_tensors
        columns = 2 * torch.stack([d_kernel, d_kernel * l], dim=2)
        (re, re_l), (im, im_l) = (half.unbind(-1) for half in torch.bmm(powers, columns).chunk(2, dim=1))
        d_log_size, d_angle = weight_re * re_l - weight_im * im_l, -weight_re * im_l - weight_im * re_l
        return d_log_size.double(), d_angle.double(), re, -im, None


def diagonal_kernel(log_size, angle, weight_re, weight_im, tokens):
    """2 Re sum over n of weight_n exp((log_size_n + i angle_n) l), l < tokens.

    All [channels, states]; log_size and angle in float64, the weights in the type of the result.
    """
    return _DiagonalKernel.apply(log_size, angle, weight_re, weight_im, tokens)
