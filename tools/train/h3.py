"""The H3 mixer: a shift state space on the keys, a diagonal one on their product with the values.

Source: H3, arXiv 2212.14052, section 3; parameter names and initial values as
in HazyResearch/H3 5c4d06b5 at head dimension 1.
"""

import math

import torch
from torch import nn

from convolution import causal_convolution, diagonal_kernel

SHIFT_STATES = 64
DIAGONAL_STATES = 32  # one of each conjugate pair


def complex_normal(*shape):
    """Real and imaginary part last; the squared size is 1 on average."""
    return torch.randn(*shape, 2) * math.sqrt(0.5)


def random_log_dt(channels):
    return torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1))


class ShiftKernel(nn.Module):
    """The state moves on by one place a token: a filter of as many taps as there are states."""

    def __init__(self, channels):
        super().__init__()
        bound = SHIFT_STATES**-0.5
        self.B = nn.Parameter(torch.eye(1, SHIFT_STATES).repeat(channels, 1))
        self.C = nn.Parameter(torch.empty(1, channels, SHIFT_STATES).uniform_(-bound, bound))

    def forward(self, tokens):
        """Taps [channels, tokens]: tap l = sum over m of C[m + l] B[m], zero from 64 on."""
        size = 2 * SHIFT_STATES
        product = torch.fft.rfft(self.C[0], size) * torch.fft.rfft(self.B, size).conj()
        taps = torch.fft.irfft(product, size)[:, :SHIFT_STATES]
        return nn.functional.pad(taps, (0, tokens - SHIFT_STATES))


class DiagonalKernel(nn.Module):
    """Bilinear steps of h' = A h + B p, y = 2 Re C h; A as "diag-lin"."""

    def __init__(self, channels):
        super().__init__()
        states = DIAGONAL_STATES
        self.C = nn.Parameter(complex_normal(1, channels, states))
        self.B = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(channels, states, 1))
        self.log_dt = nn.Parameter(random_log_dt(channels))
        self.inv_A_real = nn.Parameter(torch.full((channels, states), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(states, dtype=torch.float32).repeat(channels, 1))

    def forward(self, tokens):
        dt = torch.exp(self.log_dt.double())[:, None]
        # With half = z / 2 = re + i im: A' = (1 + half) / (1 - half), B' = B dt / (1 - half).
        re, im = -0.5 * dt * torch.exp(self.inv_A_real), 0.5 * dt * self.A_imag
        im_squared = im * im
        below = (1 - re) ** 2 + im_squared
        log_size = 0.5 * torch.log(((1 + re) ** 2 + im_squared) / below)
        angle = torch.atan2(im, 1 + re) + torch.atan2(im, 1 - re)
        C_re, C_im = self.C[0].unbind(-1)
        B_re, B_im = self.B.unbind(-1)
        CB_re, CB_im = C_re * B_re - C_im * B_im, C_re * B_im + C_im * B_re
        factor = dt / below
        weight_re = factor * (CB_re * (1 - re) - CB_im * im)
        weight_im = factor * (CB_re * im + CB_im * (1 - re))
        return diagonal_kernel(log_size, angle, weight_re.float(), weight_im.float(), tokens)


class Kernel(nn.Module):
    """Only there for the name: ssm_k_kernel.kernel.B."""

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    def forward(self, tokens):
        return self.kernel(tokens)


def add_skip(kernel, D):
    """The skip D x is one more weight of the present token."""
    return torch.cat([kernel[:, :1] + D[:, None], kernel[:, 1:]], dim=1)


class H3Mixer(nn.Module):
    # Decay 0 in the H3 paper's protocol.
    undecayed = ("log_dt", "inv_A_real", "A_imag", "B")

    def __init__(self, config):
        super().__init__()
        d = config.d_model
        self.q_proj, self.k_proj, self.v_proj, self.output_linear = (nn.Linear(d, d) for _ in range(4))
        self.ssm_k_kernel = Kernel(ShiftKernel(d))
        self.ssm_k_D = nn.Parameter(torch.randn(d))
        self.kernel = Kernel(DiagonalKernel(d))
        self.D = nn.Parameter(torch.randn(d))

    def forward(self, u):
        """u [tokens, rows, d_model]."""
        tokens, rows, d = u.shape
        flat = u.reshape(-1, d).t()

        def channels_first(linear):
            return torch.addmm(linear.bias[:, None], linear.weight, flat).view(d, tokens, rows)

        q, k, v = map(channels_first, (self.q_proj, self.k_proj, self.v_proj))
        shifted = causal_convolution(add_skip(self.ssm_k_kernel(tokens), self.ssm_k_D), k)
        summed = causal_convolution(add_skip(self.kernel(tokens), self.D), shifted * v)
        return self.output_linear((q * summed).reshape(d, -1).t()).view(tokens, rows, d)
