"""Checks the compiled selective scan against the plain recurrence in float64.

Run: python3 selective_scan_test.py
"""

import unittest

import torch
from torch.nn import functional as F

from selective_scan import selective_scan, selective_scan_reference, softplus


def random_inputs(rows, tokens, channels, states):
    dt = torch.rand(rows, tokens, channels) * 0.5 + 0.001
    x = torch.randn(rows, tokens, channels)
    A = -torch.rand(states, channels) * 4 - 0.1
    B, C = torch.randn(2, rows, tokens, states)
    h_first = torch.randn(rows, states, channels)
    return [dt, x, A, B, C, h_first]


def run_both(inputs):
    """Outputs and gradients of a random projection: compiled, then reference."""
    results = []
    for scan, dtype in ((selective_scan, torch.float32), (selective_scan_reference, torch.float64)):
        leaves = [t.detach().to(dtype, copy=True).requires_grad_() for t in inputs]
        y, h_last = scan(*leaves)
        torch.manual_seed(1)
        weight_y, weight_h = torch.randn(y.shape), torch.randn(h_last.shape)
        ((y * weight_y).sum() + (h_last * weight_h).sum()).backward()
        results.append([y.detach(), h_last.detach(), *(t.grad for t in leaves)])
    return results


class SelectiveScanTest(unittest.TestCase):
    def test_outputs_and_gradients_match_the_recurrence(self):
        # Sizes around every edge: 64 channels per block, 32 tokens per chunk.
        for size in ((1, 1, 1, 1), (2, 31, 63, 16), (2, 32, 64, 16), (3, 33, 65, 5), (1, 100, 192, 16)):
            torch.manual_seed(0)
            names = "y h_last d_dt d_x d_A d_B d_C d_h_first".split()
            for name, got, want in zip(names, *run_both(random_inputs(*size))):
                error = (got - want).abs().max() / want.abs().max()
                self.assertLess(error.item(), 2e-5, f"{name} at size {size}")

    def test_pieces_give_the_same_as_one_run(self):
        torch.manual_seed(0)
        dt, x, A, B, C, _ = random_inputs(2, 70, 96, 16)
        y_whole, h_whole = selective_scan(dt, x, A, B, C)
        h, pieces = None, []
        for begin, end in ((0, 1), (1, 40), (40, 70)):
            piece = [t[:, begin:end] for t in (dt, x)], [t[:, begin:end] for t in (B, C)]
            y, h = selective_scan(*piece[0], A, *piece[1], h)
            pieces.append(y)
        torch.testing.assert_close(torch.cat(pieces, 1), y_whole, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(h, h_whole, rtol=1e-6, atol=1e-6)

    def test_softplus_and_its_gradient_are_accurate(self):
        x = torch.cat([torch.linspace(-30, 30, 10001), torch.tensor([20.0, 20.001, 100.0])])
        got, want = x.requires_grad_(), x.detach().double().requires_grad_()
        softplus(got).sum().backward()
        F.softplus(want).sum().backward()
        torch.testing.assert_close(softplus(got).double(), F.softplus(want), rtol=4e-6, atol=0)
        torch.testing.assert_close(got.grad.double(), want.grad, rtol=4e-6, atol=0)

    def test_other_types_are_refused(self):
        inputs = [t.double() for t in random_inputs(1, 4, 8, 2)]
        with self.assertRaises(TypeError):
            selective_scan(*inputs)
        with self.assertRaises(TypeError):
            softplus(inputs[0])


if __name__ == "__main__":
    unittest.main()
