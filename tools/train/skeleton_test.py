"""Checks the H3, S4D and attention models against their recurrences in float64.

Run: python3 skeleton_test.py
"""

import unittest

import torch

import convolution
from convolution import causal_convolution, diagonal_kernel
from reference import reference_logits
from skeleton import Skeleton, SkeletonConfig


def random_model(family, **fields):
    """A model none of whose parameters is trivial."""
    torch.manual_seed(0)
    model = Skeleton(SkeletonConfig(family, vocab=11, d_model=12, n_layer=2, **fields)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("log_dt", "inv_A_real", "A_imag")):
                value += 0.3 * torch.randn_like(value)
            else:
                value.copy_(0.4 * torch.randn_like(value))
    return model


class SkeletonTest(unittest.TestCase):
    def check(self, model, tokens):
        ids = torch.randint(11, (3, tokens))
        with torch.no_grad():
            got = model(ids)[0]
            last = model(ids, last_only=True)[0]
        torch.testing.assert_close(last, got[:, -1:])
        for row, logits in zip(ids, got):
            want = reference_logits(model.config.to_json(), model.state_dict(), row)
            torch.testing.assert_close(logits.double(), want, rtol=1e-4, atol=1e-4)

    def test_h3_is_its_recurrence_before_and_behind_the_end_of_the_shift(self):
        for tokens in (1, 31, 64, 65, 150):
            self.check(random_model("h3", n_inner=20), tokens)

    def test_h3_without_mlp_and_with_a_head_of_its_own(self):
        self.check(random_model("h3", n_inner=0, tied=False), 70)

    def test_s4d_is_its_recurrence(self):
        for tokens in (1, 31, 150):
            self.check(random_model("s4d", n_inner=20), tokens)

    def test_attention_with_learned_positions(self):
        self.check(random_model("attention", n_inner=20, heads=1, positions=33), 33)

    def test_attention_with_all_or_some_rotary_dimensions(self):
        for rotary in (2, 4):
            self.check(random_model("attention", n_inner=0, heads=3, rotary_dim=rotary), 40)

    def test_a_token_changes_nothing_before_it(self):
        for family, fields in (("h3", {}), ("s4d", {}), ("attention", dict(heads=2))):
            model = random_model(family, n_inner=20, **fields)
            ids = torch.randint(11, (2, 41))
            other = ids.clone()
            other[:, 20] = (other[:, 20] + 1) % 11
            with torch.no_grad():
                before, after = model(ids)[0], model(other)[0]
            torch.testing.assert_close(before[:, :20], after[:, :20])
            self.assertGreater((before[:, 20:] - after[:, 20:]).abs().min(), 0)


class ConvolutionTest(unittest.TestCase):
    def test_both_ways_give_the_sum_of_products(self):
        torch.manual_seed(0)
        kernel, x = torch.randn(3, 50), torch.randn(3, 50, 4)
        want = torch.zeros_like(x)
        for t in range(50):
            for l in range(t + 1):
                want[:, t] += kernel[:, l, None] * x[:, t - l]
        most = convolution.DENSE_TOKENS_MAX
        try:
            for dense in (50, 49):
                convolution.DENSE_TOKENS_MAX = dense
                torch.testing.assert_close(causal_convolution(kernel, x), want, rtol=1e-4, atol=1e-4)
        finally:
            convolution.DENSE_TOKENS_MAX = most

    def test_the_gradient_of_the_diagonal_kernel_is_right(self):
        torch.manual_seed(0)
        inputs = [(0.3 * torch.randn(2, 3, dtype=torch.float64)).requires_grad_() for _ in range(4)]
        self.assertTrue(torch.autograd.gradcheck(lambda *inputs: diagonal_kernel(*inputs, 7), inputs))


if __name__ == "__main__":
    unittest.main()
