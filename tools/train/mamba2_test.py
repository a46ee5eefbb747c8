"""Checks the Mamba-2 training model against its recurrence, and however its input is cut.

Run: python3 mamba2_test.py
"""

import unittest

import torch

from mamba2 import CHUNK, Mamba2, Mamba2Config, ssd_scan


class Mamba2Test(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_chunks_give_the_recurrence_from_any_state(self):
        rows, tokens, heads, head_dim, groups, d_state = 2, 2 * CHUNK + 5, 4, 3, 2, 5
        dt = torch.rand(rows, tokens, heads, dtype=torch.float64)
        x = torch.randn(rows, tokens, heads, head_dim, dtype=torch.float64)
        B, C = torch.randn(2, rows, tokens, groups, d_state, dtype=torch.float64)
        A = -torch.rand(heads, dtype=torch.float64)
        state = torch.randn(rows, heads, head_dim, d_state, dtype=torch.float64)
        got, got_state = ssd_scan(dt, x, A, B, C, state)
        for t in range(tokens):
            for h in range(heads):
                write = dt[:, t, h, None, None] * x[:, t, h, :, None] * B[:, t, h // 2, None, :]
                state[:, h] = torch.exp(dt[:, t, h] * A[h])[:, None, None] * state[:, h] + write
                want = (state[:, h] * C[:, t, h // 2, None, :]).sum(-1)
                torch.testing.assert_close(got[:, t, h], want)
        torch.testing.assert_close(got_state, state)

    @torch.no_grad()
    def test_pieces_give_the_same_as_one_run(self):
        model = Mamba2(Mamba2Config(vocab=16, d_model=16, n_layer=2, groups=2, tied=False))
        ids = torch.randint(16, (3, 90))
        whole, _ = model(ids)
        for lengths in ([1] * 90, [2, 1, 87], [89, 1]):
            state, pieces = None, []
            for piece in ids.split(lengths, dim=1):
                logits, state = model(piece, state)
                pieces.append(logits)
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    unittest.main()
