"""The language model around the H3, S4D and attention mixers.

Pre-norm with LayerNorm, a tanh-GELU MLP behind every mixer, parameter names as
in HazyResearch/H3. Inside, tensors are [tokens, rows, ...], which the
convolutions take without a copy.
"""

import dataclasses
import math

import torch
from torch import nn
from torch.nn import functional as F

from attention import AttentionMixer
from h3 import H3Mixer
from s4d import S4dMixer

MIXERS = {"h3": H3Mixer, "s4d": S4dMixer, "attention": AttentionMixer}


@dataclasses.dataclass
class SkeletonConfig:
    family: str
    vocab: int
    d_model: int
    n_layer: int
    n_inner: int  # width of the MLP; 0 = none
    heads: int = 0
    rotary_dim: int = 0
    positions: int = 0  # rows of learned positions; 0 = none
    tied: bool = True
    dropout: float = 0.0  # training only: on the embedding
    attention_dropout: float = 0.0

    def to_json(self):
        fields = {
            "model_type": self.family,
            "vocab_size": self.vocab,
            "hidden_size": self.d_model,
            "num_hidden_layers": self.n_layer,
            "n_inner": self.n_inner,
        }
        if self.family == "h3":
            fields |= {"attn_layer_idx": [], "ssm_mode": "diag", "ssm_measure": "diag-lin",
                       "ssm_disc": "bilinear"}
        elif self.family == "s4d":
            fields |= {"ssm_mode": "diag", "ssm_disc": "zoh"}
        else:
            fields |= {"num_attention_heads": self.heads, "rotary_emb_dim": self.rotary_dim,
                       "max_position_embeddings": self.positions}
        return fields | {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": self.tied}

    @classmethod
    def from_json(cls, fields):
        return cls(
            family=fields["model_type"], vocab=fields["vocab_size"], d_model=fields["hidden_size"],
            n_layer=fields["num_hidden_layers"], n_inner=fields["n_inner"],
            heads=fields.get("num_attention_heads", 0), rotary_dim=fields.get("rotary_emb_dim", 0),
            positions=fields.get("max_position_embeddings", 0), tied=fields["tie_word_embeddings"])


class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.n_inner)
        self.fc2 = nn.Linear(config.n_inner, config.d_model)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model)
        self.mixer = MIXERS[config.family](config)
        if config.n_inner:
            self.norm2 = nn.LayerNorm(config.d_model)
            self.mlp = Mlp(config)

    def forward(self, residual):
        residual = residual + self.mixer(self.norm1(residual))
        if hasattr(self, "mlp"):
            residual = residual + self.mlp(self.norm2(residual))
        return residual


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab, config.d_model)
        if config.positions:
            self.position_embeddings = nn.Embedding(config.positions, config.d_model)

    def forward(self, ids):
        """ids [tokens, rows]."""
        words = self.word_embeddings(ids)
        if hasattr(self, "position_embeddings"):
            words = words + self.position_embeddings.weight[: len(ids), None]
        return words


class Backbone(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)


class Skeleton(nn.Module):
    carries_state = False  # reads whole sequences only; the server has the step form

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.d_model, config.vocab, bias=False)
        self._reset_parameters()

    @torch.no_grad()
    def _reset_parameters(self):
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                onto_residual = name.endswith(("mlp.fc2", "mixer.out_proj"))
                shrink = math.sqrt(2 * self.config.n_layer) if onto_residual else 1
                module.weight.normal_(std=0.02 / shrink)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()

    def forward(self, ids, state=None, last_only=False):
        """Logits [rows, tokens or 1, vocab] of ids [rows, tokens], and None for the state."""
        if state is not None:
            raise ValueError(f"{self.config.family} reads whole sequences only")
        residual = self.backbone.dropout(self.backbone.embeddings(ids.t()))
        for layer in self.backbone.layers:
            residual = layer(residual)
        if last_only:
            residual = residual[-1:]
        matrix = self.backbone.embeddings.word_embeddings if self.config.tied else self.lm_head
        return F.linear(self.backbone.ln_f(residual), matrix.weight).transpose(0, 1), None
