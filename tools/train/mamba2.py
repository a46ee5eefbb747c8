"""The Mamba-2 language model, with the parameter names of Hugging Face; plain PyTorch, in chunks.

Source: Mamba-2, arXiv 2405.21060, section 6; initial values as in state-spaces/mamba.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from mamba import Backbone, LanguageModel, RmsNorm, causal_conv1d, inverse_softplus

CHUNK = 64  # tokens whose products with each other are taken at once


@dataclasses.dataclass
class Mamba2Config:
    vocab: int
    d_model: int
    n_layer: int
    d_state: int = 32
    head_dim: int = 16
    groups: int = 1
    d_conv: int = 4
    tied: bool = True
    dropout: float = 0.0
    family: str = "mamba2"

    @property
    def d_inner(self):
        return 2 * self.d_model

    @property
    def heads(self):
        return self.d_inner // self.head_dim

    @property
    def convolved(self):
        return self.d_inner + 2 * self.groups * self.d_state

    def to_json(self):
        return {
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            "vocab_size": self.vocab,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layer,
            "state_size": self.d_state,
            "conv_kernel": self.d_conv,
            "expand": 2,
            "num_heads": self.heads,
            "head_dim": self.head_dim,
            "n_groups": self.groups,
            "chunk_size": CHUNK,
            "time_step_limit": [0.0, math.inf],  # written as Infinity, which is no JSON but the custom
            "use_bias": False,
            "use_conv_bias": True,
            "hidden_act": "silu",
            "layer_norm_epsilon": 1e-5,
            "residual_in_fp32": True,
            "tie_word_embeddings": self.tied,
        }

    @classmethod
    def from_json(cls, fields):
        return cls(vocab=fields["vocab_size"], d_model=fields["hidden_size"],
                   n_layer=fields["num_hidden_layers"], d_state=fields["state_size"],
                   head_dim=fields["head_dim"], groups=fields["n_groups"], d_conv=fields["conv_kernel"],
                   tied=fields["tie_word_embeddings"])


def ssd_scan(dt, x, A, B, C, state):
    """Runs S' = exp(dt A) S + dt x B^T over all tokens; y = S C. Returns y and the last state.

    dt     [rows, tokens, heads]          step size
    x      [rows, tokens, heads, head_dim]
    A      [heads]                        negative
    B, C   [rows, tokens, groups, d_state]
    state  [rows, heads, head_dim, d_state]
    """
    heads_per_group = x.shape[2] // B.shape[2]
    outputs = []
    for dt_q, x_q, B_q, C_q in zip(*(t.split(CHUNK, dim=1) for t in (dt, x, B, C))):
        tokens = dt_q.shape[1]
        total = (dt_q * A).cumsum(1).transpose(1, 2)  # [rows, heads, tokens]
        B_q, C_q = (t.repeat_interleave(heads_per_group, dim=2).transpose(1, 2) for t in (B_q, C_q))
        written = (dt_q[..., None] * x_q).transpose(1, 2)  # [rows, heads, tokens, head_dim]
        later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        decay = torch.exp((total[..., :, None] - total[..., None, :]).masked_fill(later, -math.inf))
        y = (C_q @ B_q.transpose(2, 3) * decay) @ written
        y = y + torch.exp(total)[..., None] * (C_q @ state.transpose(2, 3))
        outputs.append(y.transpose(1, 2))
        left = torch.exp(total[..., -1:] - total)[..., None]
        state = torch.exp(total[..., -1])[..., None, None] * state + (left * written).transpose(2, 3) @ B_q
    return torch.cat(outputs, dim=1), state


class Mixer(nn.Module):
    """Heads of scalar decay with their convolution, gate and norm."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        heads, convolved = config.heads, config.convolved
        self.in_proj = nn.Linear(config.d_model, config.d_inner + convolved + heads, bias=False)
        self.conv1d = nn.Conv1d(convolved, convolved, config.d_conv, groups=convolved)
        low, high = math.log(1e-3), math.log(1e-1)
        dt = torch.empty(heads).uniform_(low, high).exp().clamp(min=1e-4)
        self.dt_bias = nn.Parameter(inverse_softplus(dt))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = RmsNorm(config.d_inner)
        self.out_proj = nn.Linear(config.d_inner, config.d_model, bias=False)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(config.n_layer)

    def forward(self, u, state):
        """u [rows, tokens, d_model]; state (window, S) or None; gives both again."""
        config, (rows, tokens, _) = self.config, u.shape
        window, S = state if state is not None else (None, None)
        if S is None:
            S = u.new_zeros(rows, config.heads, config.head_dim, config.d_state)
        z, xbc, dt = self.in_proj(u).split([config.d_inner, config.convolved, config.heads], dim=-1)
        xbc, window = causal_conv1d(xbc, self.conv1d, window)
        sizes = [config.d_inner, config.groups * config.d_state, config.groups * config.d_state]
        x, B, C = F.silu(xbc).split(sizes, dim=-1)
        x = x.view(rows, tokens, config.heads, config.head_dim)
        B, C = (t.view(rows, tokens, config.groups, config.d_state) for t in (B, C))
        y, S = ssd_scan(F.softplus(dt + self.dt_bias), x, -torch.exp(self.A_log), B, C, S)
        y = (y + self.D[:, None] * x).flatten(2) * F.silu(z)
        if config.groups > 1:  # each group is normalised by itself
            split = y.view(rows, tokens, config.groups, -1)
            y = F.rms_norm(split, split.shape[-1:], None, self.norm.epsilon).flatten(2) * self.norm.weight
        else:
            y = self.norm(y)
        return self.out_proj(y), (window, S.detach())


class Mamba2(LanguageModel):
    """The state is one (window [rows, 3, convolved], S [rows, heads, head_dim, d_state]) per layer."""

    def __init__(self, config):
        super().__init__(config, Backbone(config, Mixer))
