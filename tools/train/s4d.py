"""The S4D mixer of the H3 paper's comparison: one diagonal state space per channel, then GELU and a matrix.

Source: S4D, arXiv 2206.11893 (A as "diag-inv", zero-order hold), with the
names and initial values of the protocol in HazyResearch/safari 02220c69.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from convolution import causal_convolution, diagonal_kernel
from h3 import DIAGONAL_STATES, Kernel, add_skip, complex_normal, random_log_dt


class ZohKernel(nn.Module):
    """A [1, states] serves all channels; B is folded into C."""

    def __init__(self, channels):
        super().__init__()
        states = DIAGONAL_STATES
        order, n = 2 * states, torch.arange(states, dtype=torch.float32)
        self.inv_A_real = nn.Parameter(torch.full((1, states), math.log(0.5 + 1e-4)))
        self.A_imag = nn.Parameter((order / math.pi * (order / (2 * n + 1) - 1))[None])
        self.log_dt = nn.Parameter(random_log_dt(channels))
        A = torch.complex(torch.full((states,), -0.5), self.A_imag.detach()[0])
        B = torch.view_as_complex(complex_normal(states))
        B = B / (2 * (B / A).abs().square().sum()).sqrt()
        C = torch.view_as_complex(complex_normal(1, channels, states)) * B
        self.C = nn.Parameter(torch.view_as_real(C).contiguous())

    def forward(self, tokens):
        A_re, A_im = -torch.exp(self.inv_A_real.double()), self.A_imag
        dt = torch.exp(self.log_dt.double())[:, None]
        log_size, angle = A_re * dt, A_im * dt
        # C (exp(z) - 1) / A
        size = torch.exp(log_size)
        step_re, step_im = size * torch.cos(angle) - 1, size * torch.sin(angle)
        square = A_re * A_re + A_im * A_im
        factor_re = (step_re * A_re + step_im * A_im) / square
        factor_im = (step_im * A_re - step_re * A_im) / square
        C_re, C_im = self.C[0].unbind(-1)
        weight_re = C_re * factor_re - C_im * factor_im
        weight_im = C_re * factor_im + C_im * factor_re
        return diagonal_kernel(log_size, angle, weight_re.float(), weight_im.float(), tokens)


class S4dMixer(nn.Module):
    # Decay 0 in the H3 paper's protocol.
    undecayed = ("log_dt", "inv_A_real", "A_imag")

    def __init__(self, config):
        super().__init__()
        d = config.d_model
        self.kernel = Kernel(ZohKernel(d))
        self.D = nn.Parameter(torch.randn(d))
        self.output_linear = nn.Linear(d, d)

    def forward(self, u):
        """u [tokens, rows, d_model]."""
        tokens, rows, d = u.shape
        x = u.reshape(-1, d).t().contiguous().view(d, tokens, rows)
        y = F.gelu(causal_convolution(add_skip(self.kernel(tokens), self.D), x))
        return self.output_linear(y.reshape(d, -1).t()).view(tokens, rows, d)
