"""H3, S4D and attention once more, one token at a time in float64, from the tensors of a folder.

Shares no code with the training models, whose convolutions and gradients it
checks. As slow as it looks.
"""

import math

import torch
from torch.nn import functional as F


def complex_of(pairs):
    return torch.view_as_complex(pairs.contiguous())


class H3:
    """The shift state moves on by one place; the diagonal state takes bilinear steps."""

    def __init__(self, get, config):
        self.get = get
        self.shift, self.state = None, None

    def step(self, u):
        get = self.get
        q, k, v = (F.linear(u, get(f"{name}_proj.weight"), get(f"{name}_proj.bias")) for name in "qkv")
        B, C = get("ssm_k_kernel.kernel.B"), get("ssm_k_kernel.kernel.C")[0]
        moved = torch.zeros_like(B) if self.shift is None else F.pad(self.shift[:, :-1], (1, 0))
        self.shift = moved + B * k[:, None]
        p = ((self.shift * C).sum(1) + get("ssm_k_D") * k) * v

        A = torch.complex(-torch.exp(get("kernel.kernel.inv_A_real")), get("kernel.kernel.A_imag"))
        dt = torch.exp(get("kernel.kernel.log_dt"))[:, None]
        factor = (1 + A * dt / 2) / (1 - A * dt / 2)
        write = complex_of(get("kernel.kernel.B")) * dt / (1 - A * dt / 2)
        before = torch.zeros_like(A) if self.state is None else self.state
        self.state = factor * before + write * p[:, None]
        s = 2 * (complex_of(get("kernel.kernel.C")[0]) * self.state).sum(1).real + get("D") * p
        return F.linear(q * s, get("output_linear.weight"), get("output_linear.bias"))


class S4d:
    """The state takes exact steps for an input that stays constant between two tokens."""

    def __init__(self, get, config):
        self.get, self.state = get, None

    def step(self, u):
        get = self.get
        A = torch.complex(-torch.exp(get("kernel.kernel.inv_A_real")), get("kernel.kernel.A_imag"))
        factor = torch.exp(A * torch.exp(get("kernel.kernel.log_dt"))[:, None])
        before = torch.zeros_like(factor) if self.state is None else self.state
        self.state = factor * before + (factor - 1) / A * u[:, None]
        y = 2 * (complex_of(get("kernel.kernel.C")[0]) * self.state).sum(1).real + get("D") * u
        return F.linear(F.gelu(y), get("output_linear.weight"), get("output_linear.bias"))


class Attention:
    """Keys and values of all tokens so far; rotary dimensions as complex numbers."""

    def __init__(self, get, config):
        self.get = get
        self.heads, self.rotary = config["num_attention_heads"], config.get("rotary_emb_dim", 0)
        self.keys, self.values = [], []

    def turn(self, x):
        half = self.rotary // 2
        rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        pair = torch.complex(x[:, :half], x[:, half : 2 * half])
        turned = pair * torch.polar(torch.ones_like(rate), rate * len(self.keys))
        return torch.cat([turned.real, turned.imag, x[:, 2 * half :]], dim=1)

    def step(self, u):
        get = self.get
        q, k, v = F.linear(u, get("Wqkv.weight"), get("Wqkv.bias")).view(3, self.heads, -1)
        q, k = self.turn(q), self.turn(k)
        self.keys.append(k)
        self.values.append(v)
        keys, values = torch.stack(self.keys, 1), torch.stack(self.values, 1)
        scores = (keys @ q[:, :, None])[:, :, 0] / math.sqrt(q.shape[1])
        y = (torch.softmax(scores, 1)[:, None] @ values).flatten()
        return F.linear(y, get("out_proj.weight"), get("out_proj.bias"))


MIXERS = {"h3": H3, "s4d": S4d, "attention": Attention}


@torch.no_grad()
def reference_logits(config, tensors, ids):
    """Logits [tokens, vocab] of ids [tokens]; config as in config.json."""
    tensors = {name: value.double() for name, value in tensors.items()}

    def norm(x, prefix):
        return F.layer_norm(x, x.shape, tensors[prefix + "weight"], tensors[prefix + "bias"], 1e-5)

    def linear(x, prefix):
        return F.linear(x, tensors[prefix + "weight"], tensors[prefix + "bias"])

    prefixes = [f"backbone.layers.{i}." for i in range(config["num_hidden_layers"])]
    mixers = [MIXERS[config["model_type"]](lambda name, p=prefix: tensors[p + "mixer." + name], config)
              for prefix in prefixes]
    words = tensors["backbone.embeddings.word_embeddings.weight"]
    positions = tensors.get("backbone.embeddings.position_embeddings.weight")
    head = tensors.get("lm_head.weight", words)
    rows = []
    for place, token in enumerate(ids.tolist()):
        residual = words[token] if positions is None else words[token] + positions[place]
        for prefix, mixer in zip(prefixes, mixers):
            residual = residual + mixer.step(norm(residual, prefix + "norm1."))
            if config["n_inner"]:
                inner = linear(norm(residual, prefix + "norm2."), prefix + "mlp.fc1.")
                residual = residual + linear(F.gelu(inner, approximate="tanh"), prefix + "mlp.fc2.")
        rows.append(head @ norm(residual, "backbone.ln_f."))
    return torch.stack(rows)
