"""Causal softmax attention, with rotary positions if asked for.

Source: arXiv 1706.03762; rotary positions arXiv 2104.09864, pairing dimension i
with i + half as in GPT-NeoX. Parameter names as in HazyResearch/H3 5c4d06b5.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Rotary(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width))

    def forward(self, x):
        """Turns the leading dimensions of x [rows, heads, tokens, head_dim] by the token's place."""
        half = len(self.inv_freq)
        angle = torch.arange(x.shape[2], dtype=torch.float32)[:, None] * self.inv_freq
        cos, sin = angle.cos(), angle.sin()
        first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class AttentionMixer(nn.Module):
    undecayed = ()

    def __init__(self, config):
        super().__init__()
        d = config.d_model
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.Wqkv, self.out_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        if config.rotary_dim:
            self.rotary_emb = Rotary(config.rotary_dim)

    def forward(self, u):
        """u [tokens, rows, d_model]."""
        tokens, rows, d = u.shape
        q, k, v = self.Wqkv(u).view(tokens, rows, 3, self.heads, -1).permute(2, 1, 3, 0, 4)
        if hasattr(self, "rotary_emb"):
            q, k = self.rotary_emb(q), self.rotary_emb(k)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out_proj(y.permute(2, 0, 1, 3).reshape(tokens, rows, d))
