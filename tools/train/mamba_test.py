"""Checks that the training model gives the same logits however its input is cut, and its step sizes.

Run: python3 mamba_test.py
"""

import unittest

import torch

from induction import record_steps
from mamba import Mamba, MambaConfig


class MambaTest(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.model = Mamba(MambaConfig(vocab=16, d_model=24, n_layer=2, tied=False))
        self.ids = torch.randint(16, (3, 41))

    @torch.no_grad()
    def test_pieces_give_the_same_as_one_run(self):
        whole, _ = self.model(self.ids)
        for lengths in ([41], [1] * 41, [2, 1, 38], [40, 1]):
            state, pieces = None, []
            for piece in self.ids.split(lengths, dim=1):
                logits, state = self.model(piece, state)
                pieces.append(logits)
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-5, atol=1e-6)

    @torch.no_grad()
    def test_last_only_gives_the_last_row(self):
        whole, _ = self.model(self.ids)
        last, _ = self.model(self.ids, last_only=True)
        torch.testing.assert_close(last, whole[:, -1:])

    @torch.no_grad()
    def test_a_token_changes_nothing_before_it(self):
        other = self.ids.clone()
        other[:, 20] = (other[:, 20] + 1) % 16
        before, after = self.model(self.ids)[0], self.model(other)[0]
        self.assertTrue(torch.equal(before[:, :20], after[:, :20]))
        self.assertFalse(torch.equal(before[:, 20:], after[:, 20:]))

    def test_every_layer_records_its_mean_step_for_the_penalty(self):
        means = record_steps(self.model)
        self.model(self.ids)
        self.assertEqual(len(means), 2)
        sum(means).backward()
        for layer, mean in zip(self.model.backbone.layers, means):
            self.assertGreater(mean.item(), 0)
            self.assertGreater(layer.mixer.dt_proj.bias.grad.min().item(), 0)  # smaller bias, smaller step


if __name__ == "__main__":
    unittest.main()
