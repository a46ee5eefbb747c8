"""The Mamba language model, with the parameter names of Hugging Face.

Source: Mamba, arXiv 2312.00752; initial values as in state-spaces/mamba.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from selective_scan import selective_scan, softplus


@dataclasses.dataclass
class MambaConfig:
    vocab: int
    d_model: int
    n_layer: int
    d_state: int = 16
    d_conv: int = 4
    tied: bool = True
    dropout: float = 0.0  # training only: on the embedding and on what each layer adds
    family: str = "mamba"

    @property
    def d_inner(self):
        return 2 * self.d_model

    @property
    def dt_rank(self):
        return -(-self.d_model // 16)

    def to_json(self):
        return {
            "architectures": ["MambaForCausalLM"],
            "model_type": "mamba",
            "vocab_size": self.vocab,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layer,
            "state_size": self.d_state,
            "conv_kernel": self.d_conv,
            "expand": 2,
            "intermediate_size": self.d_inner,
            "time_step_rank": self.dt_rank,
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
                   d_conv=fields["conv_kernel"], tied=fields["tie_word_embeddings"])


class RmsNorm(nn.Module):
    def __init__(self, width, epsilon=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, self.epsilon)


def inverse_softplus(dt):
    return dt + torch.log(-torch.expm1(-dt))


def causal_conv1d(x, conv1d, window=None):
    """A filter per channel over x [rows, tokens, channels], which follows window [rows, taps - 1, channels].

    Returns its output and the window that the next token needs.
    """
    taps, tokens = conv1d.kernel_size[0], x.shape[1]
    if window is None:
        window = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
    padded = torch.cat([window, x], dim=1)
    weight = conv1d.weight[:, 0, :].t()  # the last tap meets the current token
    y = conv1d.bias + sum(weight[j] * padded[:, j : j + tokens] for j in range(taps))
    return y, padded[:, tokens:].detach()


class Mixer(nn.Module):
    """One selective state space with its convolution and gate."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        inner, rank, states = config.d_inner, config.dt_rank, config.d_state
        self.in_proj = nn.Linear(config.d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)
        self._reset_parameters()

    @torch.no_grad()
    def _reset_parameters(self):
        bound = self.config.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        low, high = math.log(1e-3), math.log(1e-1)
        dt = torch.empty(self.config.d_inner).uniform_(low, high).exp().clamp(min=1e-4)
        self.dt_proj.bias.copy_(inverse_softplus(dt))
        self.out_proj.weight /= math.sqrt(self.config.n_layer)

    def forward(self, u, state):
        """u [rows, tokens, d_model]; state (window, h) or None; gives both again."""
        window, h = state if state is not None else (None, None)
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, window = causal_conv1d(x, self.conv1d, window)
        x = F.silu(x)
        sizes = [self.config.dt_rank, self.config.d_state, self.config.d_state]
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        dt = softplus(self.dt_proj(dt))
        y, h = selective_scan(dt, x, -torch.exp(self.A_log.t()), B, C, h)
        y = (y + self.D * x) * F.silu(z)
        return self.out_proj(y), (window, h.detach())


class Block(nn.Module):
    def __init__(self, config, mixer):
        super().__init__()
        self.norm = RmsNorm(config.d_model)
        self.mixer = mixer(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, residual, state):
        mixed, state = self.mixer(self.norm(residual), state)
        return residual + self.dropout(mixed), state


class Backbone(nn.Module):
    def __init__(self, config, mixer):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(Block(config, mixer) for _ in range(config.n_layer))
        self.norm_f = RmsNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)


class LanguageModel(nn.Module):
    """What Mamba and Mamba-2 share."""

    carries_state = True

    def __init__(self, config, backbone):
        super().__init__()
        self.config, self.backbone = config, backbone
        if not config.tied:
            self.lm_head = nn.Linear(config.d_model, config.vocab, bias=False)
            nn.init.normal_(self.lm_head.weight, std=0.02)

    def forward(self, ids, state=None, last_only=False):
        """Returns logits [rows, tokens or 1, vocab] and the state after the last token.

        No gradient flows through the state. None starts from zero.
        """
        hidden, after = self.read(ids, state)
        return self.head(hidden[:, -1:] if last_only else hidden), after

    def read(self, ids, state=None):
        """As forward, but the last residuals [rows, tokens, d_model] instead of logits."""
        state = state or [None] * self.config.n_layer
        residual, after = self.backbone.dropout(self.backbone.embeddings(ids)), []
        for layer, before in zip(self.backbone.layers, state):
            residual, state_out = layer(residual, before)
            after.append(state_out)
        return residual, after

    def head(self, residual):
        matrix = self.backbone.embeddings if self.config.tied else self.lm_head
        return F.linear(self.backbone.norm_f(residual), matrix.weight)


class Mamba(LanguageModel):
    """The state is one (window [rows, 3, d_inner], h [rows, d_state, d_inner]) per layer."""

    def __init__(self, config):
        super().__init__(config, Backbone(config, Mixer))
