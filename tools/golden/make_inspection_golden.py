"""Writes inspection.safetensors beside small golden models: what is in a state.

    python tools/golden/make_inspection_golden.py tests/golden

For each of MODELS, which the other tools of this folder have written: what a
look into the state after some tokens must find. In float64, by sums over all
pairs of tokens, from the formulas of the papers and no recurrence: a share of
what a layer answers is the sum over the tokens before, each with its own
factor. Its logits must be those that the other tools wrote, and the shares of
a layer with the token's own part must be what the layer adds; the tool ends if
they are not.

The file has, all in float32: `position`, tokens of expected.safetensors that
the state is after; `tokens`, those that follow; `queries`; `logits` [queries,
vocab] after each query; `share.LAYER.STATE` [queries, vocab], the logits of
what that state alone answers; `fading.LAYER` [4], tokens to 1/e at the first
query: 10 %, 50 % and 90 % of the values of the state, and the longest;
`values.LAYER.STATE` [3]: norm, median of magnitudes and the share above ten
times that; `target` [1] and `against`, ids whose logits after the first query
are attributed, and `attribution.LAYER.STATE` [2, 4 + tokens]: of the tokens
before `position`, of each of `tokens`, of the query itself, of their biases
of convolutions, and of all by what the layer adds; then the same with what went
through a convolution told of the tokens that it read. Needs numpy; the tests
need none of it.
"""

import argparse
import json
import math
import pathlib

import numpy as np

MODELS = ["mamba/odd", "mamba/usual", "mamba/biased_untied", "mamba/original",
          "mamba2/odd", "mamba2/two_groups", "mamba2/untied_biased",
          "mamba2/no_gated_norm", "mamba2/hybrid", "mamba2/hybrid_biased",
          "h3/plain", "h3/zoh", "h3/hybrid_rotary", "h3/short_filter",
          "h3/untied_no_mlp", "s4d/plain", "s4d/untied_no_mlp",
          "attention/learned_positions", "attention/rotary", "attention/plain"]
FOLLOWING = 5  # tokens of the golden text that are fed on a copy
QUERIES = 6  # more than are looked into at once
LOGITS_AGREE = 1e-3
SHARES_AGREE = 1e-9
OUTLIER_MEDIANS = 10


# --- safetensors ---


def read_tensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "F32", f"{name} is {entry['dtype']}"
        tensors[name] = np.frombuffer(data[begin:end], "<f4").astype(
            np.float64).reshape(entry["shape"])
    return tensors


def write_tensors(path, tensors):
    header, chunks, offset = {}, [], 0
    for name, value in tensors.items():
        chunk = np.asarray(value, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(np.shape(value)),
                        "data_offsets": [offset, offset + len(chunk)]}
        offset += len(chunk)
        chunks.append(chunk)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))


# --- what all models share ---


def logistic(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * logistic(x)


def softplus(x):
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))


normal_share = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))


def linear(tensors, name, x):
    return x @ tensors[name + ".weight"].T + tensors.get(name + ".bias", 0)


def convolve(tensors, name, x):
    taps = tensors[name + ".weight"][:, 0]
    padded = np.pad(x, ((taps.shape[1] - 1, 0), (0, 0)))
    return sum(padded[j:j + len(x)] * taps[:, j] for j in range(
        taps.shape[1])) + tensors.get(name + ".bias", 0)


def taken_apart(tensors, name, x, factor):
    """What convolve() sums up, times factor: one array for each token back,
    then the bias."""
    taps = tensors[name + ".weight"][:, 0].T[::-1]
    parts = [np.pad(x, ((lag, 0), (0, 0)))[:len(x)] * weight
             for lag, weight in enumerate(taps)]
    bias = tensors.get(name + ".bias", np.zeros(x.shape[1]))
    return [part * factor for part in [*parts, np.ones_like(x) * bias]]


class Norm:
    def __init__(self, tensors, name, epsilon):
        self.weight = tensors[name + ".weight"]
        self.bias = tensors.get(name + ".bias")
        self.epsilon = epsilon

    def centred(self, x):
        return x if self.bias is None else x - x.mean(-1, keepdims=True)

    def scale(self, x):
        return np.sqrt(np.square(self.centred(x)).mean(-1, keepdims=True)
                       + self.epsilon)

    def __call__(self, x):
        bias = 0 if self.bias is None else self.bias
        return self.centred(x) / self.scale(x) * self.weight + bias

    def of_share(self, share, scale):
        return self.centred(share) / scale * self.weight


class Mixed:
    """What a mixer adds to all tokens, and of the last one where it is from.

    `shares` {state: [sources, d_model]}, one for each token before the last;
    `own` [d_model] is the last one's own, with the bias of the last product,
    `bias`. `values` {state: f(position)}: what is kept after so many tokens.
    `fading`: tokens to 1/e of all values. `apart` {state: list of [sources,
    d_model]}: the shares and the last one's own by how far back the
    convolution read, and of its bias, which is last; without a state in it, all
    is each token's own.
    """

    def __init__(self, added, shares, own, bias, values, fading=None,
                 apart=None):
        self.added, self.shares, self.own = added, shares, own
        self.values, self.fading, self.bias = values, fading, bias
        self.apart = apart or {}
        whole = own + sum(share.sum(0) for share in shares.values())
        assert np.abs(whole - added[-1]).max() < SHARES_AGREE * max(
            1, np.abs(added[-1]).max())


# --- mixers; u [tokens, d_model] ---


def mamba(tensors, config, u):
    d_inner, d_state = tensors["A_log"].shape
    rank = tensors["dt_proj.weight"].shape[1]
    fed, z = np.split(linear(tensors, "in_proj", u), 2, axis=1)
    x = silu(convolve(tensors, "conv1d", fed))
    dt, b, c = np.split(linear(tensors, "x_proj", x), [rank, rank + d_state],
                        axis=1)
    delta = softplus(linear(tensors, "dt_proj", dt))
    a = -np.exp(tensors["A_log"])
    passed = np.cumsum(delta, 0)

    def written(end, source, x=x):  # [sources, d_inner, d_state], at `end`
        decay = np.exp(a * (passed[end] - passed[source])[:, :, None])
        return decay * (delta[source] * x[source])[:, :, None] * b[source][
            :, None]

    def to_last(x):  # [sources, d_model]
        parts = written(last, slice(0, last + 1), x) @ c[last]
        parts[last] += tensors["D"] * x[last]
        return (parts * silu(z[last])) @ tensors["out_proj.weight"].T

    y = np.stack([(written(t, slice(0, t + 1)) @ c[t]).sum(0)
                  for t in range(len(u))]) + tensors["D"] * x
    added = linear(tensors, "out_proj", y * silu(z))
    last = len(u) - 1
    out, bias = to_last(x), tensors.get("out_proj.bias", 0)
    window = tensors["conv1d.weight"].shape[2] - 1
    return Mixed(added, {"ssm_state": out[:-1]}, out[-1] + bias, bias, {
        "conv_state": lambda n: fed[n - window:n],
        "ssm_state": lambda n: written(n - 1, slice(0, n)).sum(0)},
        1 / (-a * delta[last][:, None]),
        {"ssm_state": [to_last(part) for part in taken_apart(
            tensors, "conv1d", fed,
            logistic(convolve(tensors, "conv1d", fed)))]})


def mamba2(tensors, config, u):
    heads = len(tensors["A_log"])
    d_inner = tensors["out_proj.weight"].shape[1]
    head_dim, groups, d_state = d_inner // heads, config["groups"], config[
        "d_state"]
    convolved = d_inner + 2 * groups * d_state
    z, xbc, dt = np.split(linear(tensors, "in_proj", u),
                          [d_inner, d_inner + convolved], axis=1)
    x, b, c = np.split(silu(convolve(tensors, "conv1d", xbc)),
                       [d_inner, d_inner + groups * d_state], axis=1)
    x = x.reshape(-1, heads, head_dim)
    b, c = (part.reshape(-1, groups, d_state).repeat(heads // groups, axis=1)
            for part in (b, c))
    delta = np.clip(softplus(dt + tensors["dt_bias"]), *config["dt_limit"])
    a = -np.exp(tensors["A_log"])
    passed = np.cumsum(delta, 0)

    def written(end, source, x=x):  # [sources, heads, head_dim]: x, faded
        decay = np.exp(a * (passed[end] - passed[source]))
        return (decay * delta[source])[:, :, None] * x[source]

    def gated(y, t):  # [..., d_inner], with the norm of all of token t
        v = whole[t] * silu(z[t])
        parts = y * silu(z[t])
        if "norm.weight" not in tensors:
            return parts
        scale = np.sqrt(np.square(v.reshape(groups, -1)).mean(1)
                        + config["epsilon"])
        return parts / scale.repeat(d_inner // groups) * tensors["norm.weight"]

    def to_last(x):  # [sources, d_model]
        x = x[:, :d_inner].reshape(-1, heads, head_dim)
        parts = matches[last, :, :, None] * written(
            last, slice(0, last + 1), x)
        parts[last] += tensors["D"][:, None] * x[last]
        return gated(parts.reshape(len(u), d_inner), last) @ tensors[
            "out_proj.weight"].T

    matches = np.einsum("thn,shn->tsh", c, b)
    skip = tensors["D"][:, None] * x
    whole = np.stack([(matches[t, :t + 1, :, None] * written(
        t, slice(0, t + 1))).sum(0) + skip[t] for t in range(len(u))])
    whole = whole.reshape(len(u), d_inner)
    added = linear(tensors, "out_proj", np.stack(
        [gated(whole[t], t) for t in range(len(u))]))
    last = len(u) - 1
    out = to_last(x.reshape(len(u), d_inner))
    bias = tensors.get("out_proj.bias", 0)
    window = tensors["conv1d.weight"].shape[2] - 1
    return Mixed(added, {"ssm_state": out[:-1]}, out[-1] + bias, bias, {
        "conv_state": lambda n: xbc[n - window:n],
        "ssm_state": lambda n: np.einsum("shp,shn->hnp", written(
            n - 1, slice(0, n)), b[:n])}, 1 / (-a * delta[last]),
        {"ssm_state": [to_last(part) for part in taken_apart(
            tensors, "conv1d", xbc,
            logistic(convolve(tensors, "conv1d", xbc)))]})


def complex_of(pairs):
    return pairs[..., 0] + 1j * pairs[..., 1]


def diagonal(tensors, zero_order_hold):
    """Decay, and what is read of a unit that was put in: [d, pairs]."""
    kernel = {name[len("kernel.kernel."):]: value
              for name, value in tensors.items()
              if name.startswith("kernel.kernel.")}
    dt = np.exp(kernel["log_dt"])[:, None]
    a = -np.exp(kernel["inv_A_real"]) + 1j * kernel["A_imag"]
    z = a * dt
    b = complex_of(kernel["B"]) if "B" in kernel else 1
    c = complex_of(kernel["C"])[0]
    if zero_order_hold:
        return np.exp(z), 2 * c * b * (np.exp(z) - 1) / a
    return (1 + z / 2) / (1 - z / 2), 2 * c * b * dt / (1 - z / 2)


def filtered(tensors, zero_order_hold, p):
    """[to, from, d] of the diagonal SSM without D; the rest for Mixed."""
    decay, read = diagonal(tensors, zero_order_hold)
    lags = np.arange(len(p))
    kernel = (read[None] * decay[None] ** lags[:, None, None]).sum(2).real
    between = lags[:, None] - lags[None]
    parts = kernel[np.maximum(between, 0)] * (between >= 0)[:, :, None] * p

    def state(n):  # [pairs, re and im, d]
        whole = (decay[None] ** (n - 1 - lags[:n])[:, None, None]
                 * p[:n, :, None]).sum(0)
        return np.stack([whole.real.T, whole.imag.T], axis=1)

    fading = 1 / -np.log(np.abs(decay) + 0 * read.real)
    return parts, state, fading


def h3(tensors, config, u):
    q, k, v = (linear(tensors, name, u)
               for name in ("q_proj", "k_proj", "v_proj"))
    b = tensors["ssm_k_kernel.kernel.B"]
    c = tensors["ssm_k_kernel.kernel.C"][0]
    taps = b.shape[1]
    shift = np.stack([(c[:, lag:] * b[:, :taps - lag]).sum(1)
                      for lag in range(taps)])
    shift[0] += tensors["ssm_k_D"]
    between = np.arange(len(u))[:, None] - np.arange(len(u))[None]
    near = (between >= 0) & (between < taps)
    shifted = shift[np.clip(between, 0, taps - 1)] * near[:, :, None] * k
    p = shifted.sum(1) * v
    parts, state, fading = filtered(tensors, config["zoh"], p)
    d = tensors["D"]
    out = tensors["output_linear.weight"].T
    added = linear(tensors, "output_linear", q * (parts.sum(1) + d * p))
    # What the last token's p is multiplied by, whatever p is made of.
    decay, read = diagonal(tensors, config["zoh"])
    direct = q[-1] * (read.real.sum(1) + d) * v[-1]

    def back(lag):  # [sources, d_model]: what p has of the token so far back
        part = np.zeros_like(p)
        part[lag:] = shifted[np.arange(lag, len(u)), np.arange(len(u) - lag)]
        to_last = filtered(tensors, config["zoh"], part * v)[0][-1]
        to_last[-1] = 0
        return (q[-1] * to_last) @ out

    bias = tensors["output_linear.bias"]
    return Mixed(added, {
        "shift_state": (direct * shifted[-1][:-1]) @ out,
        "diagonal_state": (q[-1] * parts[-1][:-1]) @ out,
    }, (direct * shifted[-1][-1]) @ out + bias, bias, {
        "shift_state": lambda n: np.concatenate(
            [np.zeros((max(0, taps - 1 - n), k.shape[1])),
             k[max(0, n - taps + 1):n]]),
        "diagonal_state": state}, fading,
        {"diagonal_state": [back(lag) for lag in range(min(taps, len(u)))]
         + [np.zeros((len(u), len(bias)))]})


def s4d(tensors, config, u):
    parts, state, fading = filtered(tensors, config["zoh"], u)
    y = parts.sum(1) + tensors["D"] * u
    added = linear(tensors, "output_linear", y * normal_share(y))
    out = normal_share(y[-1])[:, None] * tensors["output_linear.weight"].T
    own = (parts[-1][-1] + tensors["D"] * u[-1]) @ out
    bias = tensors["output_linear.bias"]
    return Mixed(added, {"diagonal_state": parts[-1][:-1] @ out}, own + bias,
                 bias, {"diagonal_state": state}, fading)


def rotated(x, dims, base):
    """x [tokens, heads, head_dim]: each pair of dimensions as one complex."""
    half = dims // 2
    if not half:
        return x
    angles = np.arange(len(x))[:, None] * base ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:dims]) * np.exp(
        1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag, x[..., dims:]], axis=-1)


def attention(tensors, config, u):
    name = "Wqkv" if "Wqkv.weight" in tensors else "in_proj"
    heads, kv_heads = config["heads"], config["kv_heads"]
    fed = qkv = linear(tensors, name, u)
    if "conv1d.weight" in tensors:
        qkv = convolve(tensors, "conv1d", qkv)
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
    q, k, v = (part.reshape(len(u), -1, head_dim) for part in np.split(
        qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=1))
    q, k = (rotated(x, config["rotary_dim"], config["rotary_base"])
            for x in (q, k))
    scale = config["scale"] or head_dim ** -0.5
    keys, values = (x.repeat(heads // kv_heads, axis=1) for x in (k, v))
    scores = scale * np.einsum("thp,shp->ths", q, keys)
    scores = np.where(np.tri(len(u), dtype=bool)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    parts = np.einsum("ths,shp->tshp", weights, values).reshape(
        len(u), len(u), -1)
    out = parts[-1] @ tensors["out_proj.weight"].T
    state = {"keys_values": lambda n: np.concatenate([k[:n], v[:n]])}
    bias, apart = tensors.get("out_proj.bias", 0), {}
    if "conv1d.weight" in tensors:
        window = tensors["conv1d.weight"].shape[2] - 1
        state["attention_conv_state"] = lambda n: fed[n - window:n]

        def to_last(part):  # [sources, d_model]
            part = part[:, (heads + kv_heads) * head_dim:].reshape(
                len(u), kv_heads, head_dim).repeat(heads // kv_heads, axis=1)
            return (weights[-1].T[:, :, None] * part).reshape(
                len(u), -1) @ tensors["out_proj.weight"].T

        apart["keys_values"] = [to_last(part) for part in taken_apart(
            tensors, "conv1d", fed, 1)]
    return Mixed(linear(tensors, "out_proj", parts.sum(1)),
                 {"keys_values": out[:-1]}, out[-1] + bias, bias, state,
                 apart=apart)


# --- models ---


def read_config(content):
    """The few numbers that the tensors do not tell, of all layouts."""
    kind = content.get("model_type") or (
        "mamba2" if content["ssm_cfg"].get("layer") == "Mamba2" else "mamba")
    ssm, attention_cfg = content.get("ssm_cfg", {}), content.get("attn_cfg",
                                                                 {})
    limits = content.get("time_step_limit", [0.0, math.inf])
    heads = content.get("num_attention_heads",
                        attention_cfg.get("num_heads", 0))
    return dict(
        kind=kind, epsilon=content.get("layer_norm_epsilon", 1e-5),
        attention_layers=content.get("attn_layer_idx") or [],
        groups=content.get("n_groups", ssm.get("ngroups", 1)),
        d_state=content.get("state_size", ssm.get("d_state", 0)),
        dt_limit=limits, zoh=kind == "s4d" or content.get(
            "ssm_disc", "bilinear") == "zoh",
        heads=heads, kv_heads=attention_cfg.get("num_heads_kv", heads),
        rotary_dim=content.get("rotary_emb_dim",
                               attention_cfg.get("rotary_emb_dim", 0)),
        rotary_base=attention_cfg.get("rotary_emb_base", 10000.0),
        scale=attention_cfg.get("softmax_scale"))


MIXERS = {"mamba": mamba, "mamba2": mamba2, "h3": h3, "s4d": s4d,
          "attention": attention}


class Model:
    def __init__(self, folder):
        content = json.loads((folder / "config.json").read_text())
        self.config = read_config(content)
        self.tensors = read_tensors(folder / "model.safetensors")
        names = ["embeddings.word_embeddings", "embeddings", "embedding"]
        self.embedding = next(self.tensors[f"backbone.{name}.weight"]
                              for name in names
                              if f"backbone.{name}.weight" in self.tensors)
        self.head = self.tensors.get("lm_head.weight", self.embedding)
        self.final_norm = Norm(self.tensors, "backbone.ln_f" if
                               "backbone.ln_f.weight" in self.tensors else
                               "backbone.norm_f", self.config["epsilon"])

    def layer(self, index):
        prefix = f"backbone.layers.{index}."
        return {name[len(prefix):]: value for name, value in
                self.tensors.items() if name.startswith(prefix)}

    def run(self, ids):
        """Logits of all tokens, Mixed of each layer, shares' logits, and a
        function that gives what a share adds to each logit."""
        config, residual = self.config, self.embedding[ids]
        positions = self.tensors.get(
            "backbone.embeddings.position_embeddings.weight")
        if positions is not None:
            residual = residual + positions[:len(ids)]
        all_mixed, index = [], 0
        while self.layer(index):
            part = self.layer(index)
            kind = ("attention" if index in config["attention_layers"]
                    else config["kind"])
            norm = Norm(part, "norm1" if "norm1.weight" in part else "norm",
                        config["epsilon"])
            mixer = {name[len("mixer."):]: value for name, value in
                     part.items() if name.startswith("mixer.")}
            mixed = MIXERS[kind](mixer, config, norm(residual))
            residual = residual + mixed.added
            all_mixed.append(mixed)
            if "mlp.fc1.weight" in part:
                hidden = linear(part, "mlp.fc1", Norm(
                    part, "norm2", config["epsilon"])(residual))
                residual = residual + linear(
                    part, "mlp.fc2", self.activated(hidden, part))
            index += 1
        scale = self.final_norm.scale(residual[-1])

        def logits_of(share):
            return self.final_norm.of_share(share, scale) @ self.head.T

        answers = {(layer, state): logits_of(share.sum(0))
                   for layer, mixed in enumerate(all_mixed)
                   for state, share in mixed.shares.items()}
        return (self.final_norm(residual) @ self.head.T, all_mixed, answers,
                logits_of)

    @staticmethod
    def activated(hidden, part):
        if "mlp.fc1.bias" not in part:
            value, gate = np.split(hidden, 2, axis=1)
            return value * silu(gate)
        inner = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden ** 3)
        return hidden / 2 * (1 + np.tanh(inner))


def quantile(values, part):
    values = np.sort(np.ravel(values))
    return values[int(part * (len(values) - 1))]


def summary(values):
    magnitudes = np.abs(np.ravel(values))
    median = quantile(magnitudes, 0.5)
    return [np.sqrt(np.square(magnitudes).sum()), median,
            (magnitudes > OUTLIER_MEDIANS * median).mean()]


def attribute(mixed, state, position, number):
    """attribution.LAYER.STATE; `number` [..., d_model] is one of a share."""
    is_first = state == next(iter(mixed.shares))
    rest = mixed.own - mixed.bias if is_first else 0 * mixed.own
    plain = number(np.vstack([mixed.shares[state], rest]))
    others = sum(share.sum(0) for other, share in mixed.shares.items()
                 if other != state)
    # Of the last one's own, all is the first state's.
    direct = number(mixed.added[-1] - mixed.bias - others
                    if is_first else mixed.shares[state].sum(0))
    apart = mixed.apart.get(state)
    if apart is None:
        through, biases = plain, np.zeros_like(plain)
    else:
        through, biases = np.zeros_like(plain), number(apart[-1])
        for lag, part in enumerate(apart[:-1]):
            through[:len(plain) - lag] += number(part)[lag:]

    def row(of_tokens, biases):  # what is before is told as one
        told = [(of_tokens + biases)[:position].sum(), *of_tokens[position:],
                biases[position:].sum()]
        assert abs(sum(told) - direct) < SHARES_AGREE * max(
            1, np.abs(told).sum())
        return [*told, direct]

    return [row(plain, np.zeros_like(plain)), row(through, biases)]


def write(folder):
    model = Model(folder)
    expected = read_tensors(folder / "expected.safetensors")
    text = expected["tokens"].astype(int)
    logits = model.run(text)[0]
    difference = np.abs(logits - expected["logits"]).max()
    print(f"{folder}: logits differ by {difference:.1e}")
    if not difference <= LOGITS_AGREE:
        raise SystemExit(f"{folder}: logits differ by {difference:.1e}")
    position = len(text) - FOLLOWING
    queries = [int(token) for token in text[:QUERIES]]
    golden = {"position": [position], "tokens": text[position:],
              "queries": queries}
    after = [model.run(np.append(text, query)) for query in queries]
    golden["logits"] = [logits[-1] for logits, *_ in after]
    for layer, state in after[0][2]:
        golden[f"share.{layer}.{state}"] = [
            answers[layer, state] for _, _, answers, _ in after]
    golden["target"], golden["against"] = queries[1:2], queries[2:4]

    def number(share):
        logits = after[0][3](share)
        return logits[..., queries[1]] - logits[..., queries[2:4]].mean(-1)

    for layer, mixed in enumerate(after[0][1]):
        if mixed.fading is not None:
            golden[f"fading.{layer}"] = [quantile(mixed.fading, part)
                                         for part in (0.1, 0.5, 0.9, 1)]
        for state, values in mixed.values.items():
            golden[f"values.{layer}.{state}"] = summary(values(position))
        for state in mixed.shares:
            golden[f"attribution.{layer}.{state}"] = attribute(
                mixed, state, position, number)
    write_tensors(folder / "inspection.safetensors", golden)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    for name in MODELS:
        write(arguments.folder / name)


if __name__ == "__main__":
    main()
