"""H3 and its baselines (S4D, attention) in plain float64 PyTorch, twice.

`logits` is the form of training: every SSM is a convolution with its kernel,
attention one masked matrix. `logits_by_steps` is the form of decoding: one
token at a time, with the states as the papers define them and nothing folded.
The two share the parts without memory only (norms, projections, MLP), so that
their agreement checks the rest. A model is a dict of tensors under the names
of its checkpoint and the content of its config.json.
"""

import math

import torch
import torch.nn.functional as functional

ROTARY_BASE = 10000.0


def under(tensors, prefix):
    """The tensors whose names begin with the prefix, without it."""
    return {name[len(prefix):]: value for name, value in tensors.items()
            if name.startswith(prefix)}


def linear(tensors, name, x):
    return functional.linear(x, tensors[name + ".weight"],
                             tensors[name + ".bias"])


def layer_norm(tensors, name, x, config):
    weight = tensors[name + ".weight"]
    return functional.layer_norm(x, weight.shape, weight,
                                 tensors[name + ".bias"],
                                 config["layer_norm_epsilon"])


def mixer_kind(config, layer):
    if config["model_type"] == "h3":
        return ("attention" if layer in (config.get("attn_layer_idx") or [])
                else "h3")
    return config["model_type"]


# --- what an SSM is made of ---


def diagonal(mixer):
    """A and z = A dt, both complex [d or 1, pairs]."""
    prefix = "kernel.kernel."
    a = torch.complex(-torch.exp(mixer[prefix + "inv_A_real"]),
                      mixer[prefix + "A_imag"])
    return a, a * torch.exp(mixer[prefix + "log_dt"])[:, None]


def complex_of(pairs):
    return torch.complex(pairs[..., 0], pairs[..., 1])


def discrete(mixer, config):
    """A, B and C of the diagonal SSM for steps of dt: complex [d, pairs]."""
    a, z = diagonal(mixer)
    b = complex_of(mixer["kernel.kernel.B"])
    c = complex_of(mixer["kernel.kernel.C"])[0]
    if config.get("ssm_disc", "bilinear") == "zoh":
        return torch.exp(z), b * (torch.exp(z) - 1) / a, c
    dt = torch.exp(mixer["kernel.kernel.log_dt"])[:, None]
    return (1 + z / 2) / (1 - z / 2), b * dt / (1 - z / 2), c


# --- the form of training ---


def convolve(kernel, u):
    """Causal convolution of u [n, d] with a kernel [d, taps] per channel."""
    size = u.shape[0] + kernel.shape[1]
    product = torch.fft.rfft(kernel, size) * torch.fft.rfft(u.T, size)
    return torch.fft.irfft(product, size)[:, :u.shape[0]].T


def shift_kernel(mixer):
    b = mixer["ssm_k_kernel.kernel.B"]
    c = mixer["ssm_k_kernel.kernel.C"][0]
    order = b.shape[1]
    return torch.stack([(c[:, lag:] * b[:, :order - lag]).sum(1)
                        for lag in range(order)], dim=1)


def h3_mixer(mixer, config, u):
    q, k, v = (linear(mixer, name, u)
               for name in ("q_proj", "k_proj", "v_proj"))
    a, b, c = discrete(mixer, config)
    lags = torch.arange(u.shape[0])
    kernel = 2 * ((c * b)[:, :, None] * a[:, :, None] ** lags).sum(1).real
    p = (convolve(shift_kernel(mixer), k) + mixer["ssm_k_D"] * k) * v
    s = convolve(kernel, p) + mixer["D"] * p
    return linear(mixer, "output_linear", q * s)


def s4d_mixer(mixer, config, u):
    a, z = diagonal(mixer)
    c = complex_of(mixer["kernel.kernel.C"])[0]
    lags = torch.arange(u.shape[0])
    kernel = 2 * ((c * (torch.exp(z) - 1) / a)[:, :, None]
                  * torch.exp(z[:, :, None] * lags)).sum(1).real
    y = convolve(kernel, u) + mixer["D"] * u
    return linear(mixer, "output_linear", functional.gelu(y))


def rotated(x, dims):
    """x [n, heads, head_dim]; dims i and i + dims/2 turn as one complex."""
    half = dims // 2
    frequency = ROTARY_BASE ** (-2 * torch.arange(half).double() / dims)
    angle = torch.arange(x.shape[0])[:, None] * frequency
    turned = (torch.complex(x[..., :half], x[..., half:dims])
              * torch.polar(torch.ones_like(angle), angle)[:, None])
    return torch.cat([turned.real, turned.imag, x[..., dims:]], dim=-1)


def attention_mixer(mixer, config, u):
    n, d = u.shape
    heads = config["num_attention_heads"]
    q, k, v = linear(mixer, "Wqkv", u).view(n, 3, heads, d // heads).unbind(1)
    dims = config.get("rotary_emb_dim", 0)
    if dims:
        q, k = rotated(q, dims), rotated(k, dims)
    scores = torch.einsum("thp,shp->hts", q, k) / math.sqrt(d // heads)
    future = torch.ones(n, n, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(-1)
    mixed = torch.einsum("hts,shp->thp", weights, v).reshape(n, d)
    return linear(mixer, "out_proj", mixed)


MIXERS = {"h3": h3_mixer, "s4d": s4d_mixer, "attention": attention_mixer}


def run(tensors, config, residual, mix):
    """The skeleton on the embedded tokens; mix(layer, its tensors, u)."""
    for layer in range(config["num_hidden_layers"]):
        part = under(tensors, f"backbone.layers.{layer}.")
        residual = residual + mix(layer, under(part, "mixer."), layer_norm(
            part, "norm1", residual, config))
        if config["n_inner"] > 0:
            hidden = linear(part, "mlp.fc1", layer_norm(part, "norm2",
                                                        residual, config))
            hidden = functional.gelu(hidden, approximate="tanh")
            residual = residual + linear(part, "mlp.fc2", hidden)
    hidden = layer_norm(tensors, "backbone.ln_f", residual, config)
    head = ("backbone.embeddings.word_embeddings.weight"
            if config["tie_word_embeddings"] else "lm_head.weight")
    return hidden @ tensors[head].T


def embed(tensors, config, tokens, first=0):
    part = under(tensors, "backbone.embeddings.")
    embedded = part["word_embeddings.weight"][tokens]
    if config.get("max_position_embeddings", 0):
        positions = torch.arange(first, first + len(tokens))
        embedded = embedded + part["position_embeddings.weight"][positions]
    return embedded


def widened(tensors):
    return {name: value.double() for name, value in tensors.items()}


def logits(tensors, config, tokens):
    """Logits [n, vocab] in float64 of tokens [n], by convolutions."""
    tensors = widened(tensors)
    return run(tensors, config, embed(tensors, config, tokens),
               lambda layer, mixer, u:
               MIXERS[mixer_kind(config, layer)](mixer, config, u))


# --- the form of decoding ---


class H3Step:
    """Two states: `shift` [d, order] and `state`, complex [d, pairs]."""

    def __init__(self, mixer, config):
        self.mixer = mixer
        self.a, self.b, self.c = discrete(mixer, config)
        self.state = torch.zeros_like(self.a)
        self.shift = torch.zeros_like(mixer["ssm_k_kernel.kernel.B"])

    def __call__(self, u):
        mixer = self.mixer
        q, k, v = (linear(mixer, name, u)
                   for name in ("q_proj", "k_proj", "v_proj"))
        moved = torch.zeros_like(self.shift)
        moved[:, 1:] = self.shift[:, :-1]
        self.shift = moved + mixer["ssm_k_kernel.kernel.B"] * k[:, None]
        remembered = (mixer["ssm_k_kernel.kernel.C"][0] * self.shift).sum(1)
        p = (remembered + mixer["ssm_k_D"] * k) * v
        self.state = self.a * self.state + self.b * p[:, None]
        s = 2 * (self.c * self.state).sum(1).real + mixer["D"] * p
        return linear(mixer, "output_linear", q * s)


class S4dStep:
    """One state, complex [d, pairs]."""

    def __init__(self, mixer, config):
        self.mixer = mixer
        self.a, self.z = diagonal(mixer)
        self.state = torch.zeros_like(self.z)

    def __call__(self, u):
        mixer = self.mixer
        c = complex_of(mixer["kernel.kernel.C"])[0]
        decay = torch.exp(self.z)
        # The input is held for dt: the state takes up its integral.
        self.state = decay * self.state + (decay - 1) / self.a * u[:, None]
        y = 2 * (c * self.state).sum(1).real + mixer["D"] * u
        return linear(mixer, "output_linear", functional.gelu(y))


class AttentionStep:
    """Keys and values [heads, head_dim] of every token up to this one."""

    def __init__(self, mixer, config):
        self.mixer = mixer
        self.heads = config["num_attention_heads"]
        self.rotary = config.get("rotary_emb_dim", 0)
        self.keys, self.values = [], []

    def turn(self, x, position):
        x = x.clone()
        half = self.rotary // 2
        for i in range(half):
            angle = position * ROTARY_BASE ** (-2 * i / self.rotary)
            cos, sin = math.cos(angle), math.sin(angle)
            one, other = x[:, i].clone(), x[:, i + half].clone()
            x[:, i] = one * cos - other * sin
            x[:, i + half] = other * cos + one * sin
        return x

    def __call__(self, u):
        q, k, v = linear(self.mixer, "Wqkv", u).view(3, self.heads, -1)
        position = len(self.keys)
        self.keys.append(self.turn(k, position))
        self.values.append(v)
        keys, values = torch.stack(self.keys), torch.stack(self.values)
        scores = (self.turn(q, position) * keys).sum(-1) / math.sqrt(
            q.shape[-1])
        weights = scores.softmax(0)
        return linear(self.mixer, "out_proj",
                      (weights[:, :, None] * values).sum(0).flatten())


STEPS = {"h3": H3Step, "s4d": S4dStep, "attention": AttentionStep}


def logits_by_steps(tensors, config, tokens):
    """The same logits, one token after another."""
    tensors = widened(tensors)
    steps = [STEPS[mixer_kind(config, layer)](
        under(tensors, f"backbone.layers.{layer}.mixer."), config)
        for layer in range(config["num_hidden_layers"])]
    rows = [run(tensors, config, embed(tensors, config, tokens[t:t + 1], t)[0],
                lambda layer, mixer, u: steps[layer](u))
            for t in range(len(tokens))]
    return torch.stack(rows)
