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

    @property
    def d_inner(self):
        return 2 * self.d_model

    @property
    def dt_rank(self):
        return -(-self.d_model // 16)


class RmsNorm(nn.Module):
    def __init__(self, width, epsilon=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, self.epsilon)


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
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus, inverted
        self.out_proj.weight /= math.sqrt(self.config.n_layer)

    def forward(self, u, state):
        """u [rows, tokens, d_model]; state (window, h) or None; gives both again."""
        window, h = state if state is not None else (None, None)
        x, z = self.in_proj(u).chunk(2, dim=-1)
        taps = self.config.d_conv
        if window is None:
            window = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
        padded = torch.cat([window, x], dim=1)
        tokens = x.shape[1]
        weight = self.conv1d.weight[:, 0, :].t()  # tap 3 meets the current token
        x = self.conv1d.bias + sum(weight[j] * padded[:, j : j + tokens] for j in range(taps))
        x = F.silu(x)
        sizes = [self.config.dt_rank, self.config.d_state, self.config.d_state]
        dt, B, C = self.x_proj(x).split(sizes, dim=-1)
        dt = softplus(self.dt_proj(dt))
        y, h = selective_scan(dt, x, -torch.exp(self.A_log.t()), B, C, h)
        y = (y + self.D * x) * F.silu(z)
        return self.out_proj(y), (padded[:, tokens:].detach(), h.detach())


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = RmsNorm(config.d_model)
        self.mixer = Mixer(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, residual, state):
        mixed, state = self.mixer(self.norm(residual), state)
        return residual + self.dropout(mixed), state


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab, config.d_model)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RmsNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)


class Mamba(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.d_model, config.vocab, bias=False)
            nn.init.normal_(self.lm_head.weight, std=0.02)

    def forward(self, ids, state=None, last_only=False):
        """Returns logits [rows, tokens or 1, vocab] and the state after the last token.

        The state is one (window [rows, 3, d_inner], h [rows, d_state, d_inner]) per
        layer; no gradient flows through it. None starts from zero.
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


def save(model, path, **progress):
    """Writes a checkpoint; it replaces the old one only when complete."""
    content = {"config": dataclasses.asdict(model.config), "weights": model.state_dict()}
    partial = path.with_suffix(".partial")
    torch.save({**content, **progress}, partial)
    partial.replace(path)


def load(path):
    """Returns the model of a checkpoint and the progress saved with it."""
    content = torch.load(path, weights_only=True)
    model = Mamba(MambaConfig(**content.pop("config")))
    model.load_state_dict(content.pop("weights"))
    return model.eval(), content
