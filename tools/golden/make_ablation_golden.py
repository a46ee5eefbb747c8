"""Writes ablation.safetensors beside small golden models: answers with edits.

    python tools/golden/make_ablation_golden.py tests/golden

For each model of make_inspection_golden.py: what it answers when layers are
edited. In float64, by sums over all pairs of tokens in which an edit is a mask
or another term, from the formulas of the papers and no recurrence. Without
edits its logits must be those that the other tools wrote, or the tool ends;
and it tells which edits change them by little.

The file has, all in float32: `position`, tokens of expected.safetensors that
the state is after; `tokens`, those that follow and are fed with the edits;
`forced` [1], the token that is answered each time; and for each case of edits
`edits.CASE` [edits, 3 + positions], a row being its kind as in model/inspection.h,
its layer, a number (tap, position, or 1 if KeepOnly keeps what was before) and
the token of ReplaceWrite or the positions of KeepOnly, filled up with -1;
`width.CASE` [1], the length of these rows; and
`logits.CASE` [ANSWERED, vocab] of each answered token. Needs numpy; the tests
need none of it.
"""

import argparse
import pathlib

import numpy as np

from make_inspection_golden import (FOLLOWING, LOGITS_AGREE, MIXERS, MODELS,
                                    Model, Norm, diagonal, linear, logistic,
                                    normal_share, read_tensors, rotated, silu,
                                    softplus, write_tensors)

ANSWERED = 2  # tokens
CUT_TAP, LOCAL_SCAN, REMOVE_WRITE, REPLACE_WRITE, KEEP_ONLY = range(5)


class Edits:
    """Those of one layer. `first` is where the edited tokens begin, `end` where
    those of the answer do, `alternatives` {position: what the mixer would be
    fed there if another token stood there}."""

    def __init__(self, first, end, edits, alternatives):
        self.first, self.end, self.alternatives = first, end, alternatives
        self.edits = edits

    def taps(self, taps, tokens):
        """[tokens, taps, channels]: weights as each token has them."""
        own = np.repeat(taps[None], tokens, axis=0)
        for kind, number, _ in self.edits:
            if kind == CUT_TAP:
                own[self.first:, number] = 0
        return own

    def reads(self, tokens):
        """[to, from]: whether what a token writes is read."""
        reads = np.tri(tokens, dtype=bool)
        later = np.arange(tokens)[:, None] >= self.first
        source = np.arange(tokens)[None]
        for kind, number, rest in self.edits:
            gone = np.zeros((1, tokens), bool)
            if kind == LOCAL_SCAN:
                gone[:] = True
            elif kind == REMOVE_WRITE:
                gone = source == self.first + number
            elif kind == KEEP_ONLY:
                gone = (source >= (self.first if number else 0)) & (
                    source < self.end) & ~np.isin(source - self.first, rest)
            reads &= ~(gone & later)
        return reads | np.eye(tokens, dtype=bool)

    def pairs(self, own, other):
        """own [to, from, ...] of what was written, by `other(alternative
        inputs)` where another token's write is read instead."""
        pairs = own.copy()
        for position, inputs in self.alternatives.items():
            pairs[position + 1:, position] = other(inputs)[
                position + 1:, position]
        return pairs


def convolve(tensors, x, edits):
    taps = edits.taps(tensors["conv1d.weight"][:, 0].T, len(x))
    count = taps.shape[1]
    padded = np.pad(x, ((count - 1, 0), (0, 0)))
    return sum(padded[tap:tap + len(x)] * taps[:, tap]
               for tap in range(count)) + tensors.get("conv1d.bias", 0)


def replaced(u, position, alternative):
    """The tokens up to position, of which the last is another; then as were."""
    changed = u.copy()
    changed[position] = alternative
    return changed


# --- What a mixer adds to each token. `alternatives` holds whole inputs of the
# mixer, in which the write of one position is another's.


def mamba(tensors, config, u, edits):
    rank = tensors["dt_proj.weight"].shape[1]
    d_state = tensors["A_log"].shape[1]
    a = -np.exp(tensors["A_log"])

    def inputs(u):
        fed, z = np.split(linear(tensors, "in_proj", u), 2, axis=1)
        x = silu(convolve(tensors, fed, edits))
        dt, b, c = np.split(linear(tensors, "x_proj", x),
                            [rank, rank + d_state], axis=1)
        return x, b, c, softplus(linear(tensors, "dt_proj", dt)), z

    x, b, c, delta, z = inputs(u)
    passed = np.cumsum(delta, 0)
    between = np.minimum(a * (passed[:, None] - passed[None])[..., None], 0)
    decay = np.exp(between)  # [to, from, d_inner, d_state]

    def pairs(u):
        x, b, _, delta, _ = inputs(u)
        return np.einsum("tsen,sn,tn,se->tse", decay, b, c, delta * x)

    whole = edits.pairs(pairs(u), pairs) * edits.reads(len(u))[:, :, None]
    y = whole.sum(1) + tensors["D"] * x
    return linear(tensors, "out_proj", y * silu(z))


def mamba2(tensors, config, u, edits):
    heads = len(tensors["A_log"])
    d_inner = tensors["out_proj.weight"].shape[1]
    head_dim, groups, d_state = d_inner // heads, config["groups"], config[
        "d_state"]
    convolved = d_inner + 2 * groups * d_state
    a = -np.exp(tensors["A_log"])

    def inputs(u):
        z, xbc, dt = np.split(linear(tensors, "in_proj", u),
                              [d_inner, d_inner + convolved], axis=1)
        x, b, c = np.split(silu(convolve(tensors, xbc, edits)),
                           [d_inner, d_inner + groups * d_state], axis=1)
        b, c = (part.reshape(-1, groups, d_state).repeat(
            heads // groups, axis=1) for part in (b, c))
        delta = np.clip(softplus(dt + tensors["dt_bias"]), *config["dt_limit"])
        return x.reshape(-1, heads, head_dim), b, c, delta, z

    x, _, c, delta, z = inputs(u)
    passed = np.cumsum(delta, 0)
    decay = np.exp(np.minimum(a * (passed[:, None] - passed[None]), 0))

    def pairs(u):
        x, b, _, delta, _ = inputs(u)
        return np.einsum("tsh,thn,shn,sh,shp->tshp", decay, c, b, delta, x)

    whole = edits.pairs(pairs(u), pairs) * edits.reads(len(u))[
        :, :, None, None]
    y = (whole.sum(1) + tensors["D"][:, None] * x).reshape(len(u), d_inner)
    gated = y * silu(z)
    if "norm.weight" in tensors:
        squares = np.square(gated.reshape(len(u), groups, -1)).mean(-1)
        scale = np.sqrt(squares + config["epsilon"])
        gated = gated / scale.repeat(d_inner // groups, axis=1) * tensors[
            "norm.weight"]
    return linear(tensors, "out_proj", gated)


def kernel_between(tensors, zero_order_hold, tokens):
    """[to, from, d] of the diagonal SSM without D."""
    decay, read = diagonal(tensors, zero_order_hold)
    lags = np.arange(tokens)
    kernel = (read[None] * decay[None] ** lags[:, None, None]).sum(2).real
    between = lags[:, None] - lags[None]
    return kernel[np.maximum(between, 0)] * (between >= 0)[:, :, None]


def h3(tensors, config, u, edits):
    b = tensors["ssm_k_kernel.kernel.B"]
    c = tensors["ssm_k_kernel.kernel.C"][0]
    taps = b.shape[1]
    shift = np.stack([(c[:, lag:] * b[:, :taps - lag]).sum(1)
                      for lag in range(taps)])
    shift[0] += tensors["ssm_k_D"]
    kernel = kernel_between(tensors, config["zoh"], len(u))

    def inputs(u):
        q, k, v = (linear(tensors, name, u)
                   for name in ("q_proj", "k_proj", "v_proj"))
        own = edits.taps(shift[::-1], len(u))
        padded = np.pad(k, ((taps - 1, 0), (0, 0)))
        return q, v * sum(padded[tap:tap + len(u)] * own[:, tap]
                          for tap in range(taps))

    q, p = inputs(u)
    whole = edits.pairs(kernel * p, lambda u: kernel * inputs(u)[1])
    whole = whole * edits.reads(len(u))[:, :, None]
    return linear(tensors, "output_linear",
                  q * (whole.sum(1) + tensors["D"] * p))


def s4d(tensors, config, u, edits):
    kernel = kernel_between(tensors, config["zoh"], len(u))
    whole = edits.pairs(kernel * u, lambda u: kernel * u)
    y = (whole * edits.reads(len(u))[:, :, None]).sum(1) + tensors["D"] * u
    return linear(tensors, "output_linear", y * normal_share(y))


def attention(tensors, config, u, edits):
    name = "Wqkv" if "Wqkv.weight" in tensors else "in_proj"
    heads, kv_heads = config["heads"], config["kv_heads"]

    def inputs(u):
        qkv = linear(tensors, name, u)
        if "conv1d.weight" in tensors:
            qkv = convolve(tensors, qkv, edits)
        head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
        q, k, v = (part.reshape(len(u), -1, head_dim) for part in np.split(
            qkv, [heads * head_dim, (heads + kv_heads) * head_dim], axis=1))
        q, k = (rotated(x, config["rotary_dim"], config["rotary_base"])
                for x in (q, k))
        return q, *(x.repeat(heads // kv_heads, axis=1) for x in (k, v))

    q, k, v = inputs(u)
    scale = config["scale"] or q.shape[2] ** -0.5

    def scores(u):
        return scale * np.einsum("thp,shp->tsh", q, inputs(u)[1])

    def values(u):
        return np.repeat(inputs(u)[2][None], len(u), axis=0)

    scored = edits.pairs(scores(u), scores)
    scored = np.where(edits.reads(len(u))[:, :, None], scored, -np.inf)
    weights = np.exp(scored - scored.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    read = edits.pairs(values(u), values)
    y = np.einsum("tsh,tshp->thp", weights, read).reshape(len(u), -1)
    return linear(tensors, "out_proj", y)


EDITED = {"mamba": mamba, "mamba2": mamba2, "h3": h3, "s4d": s4d,
          "attention": attention}
assert EDITED.keys() == MIXERS.keys()


class EditedModel(Model):
    def kind(self, index):
        return ("attention" if index in self.config["attention_layers"]
                else self.config["kind"])

    def layers(self):
        return next(index for index in range(1000) if not self.layer(index))

    def mixer_inputs(self, ids, first, end, edits, layer):
        """What the mixer of a layer is fed; of the layer behind the last: the
        residual."""
        residual = self.embedding[ids]
        positions = self.tensors.get(
            "backbone.embeddings.position_embeddings.weight")
        if positions is not None:
            residual = residual + positions[:len(ids)]
        for index in range(self.layers()):
            part = self.layer(index)
            u = Norm(part, "norm1" if "norm1.weight" in part else "norm",
                     self.config["epsilon"])(residual)
            if index == layer:
                return u
            own = [edit[:1] + edit[2:] for edit in edits if edit[1] == index]
            alternatives = {}
            for kind, number, rest in own:
                if kind != REPLACE_WRITE or first + number >= len(ids):
                    continue
                at = first + number
                other = self.mixer_inputs(np.append(ids[:at], rest[0]), first,
                                          end, edits, index)
                alternatives[at] = replaced(u, at, other[at])
            mixer = {name[len("mixer."):]: value for name, value in
                     part.items() if name.startswith("mixer.")}
            residual = residual + EDITED[self.kind(index)](
                mixer, self.config, u, Edits(first, end, own, alternatives))
            if "mlp.fc1.weight" in part:
                hidden = linear(part, "mlp.fc1", Norm(
                    part, "norm2", self.config["epsilon"])(residual))
                residual = residual + linear(
                    part, "mlp.fc2", self.activated(hidden, part))
        return residual

    def logits(self, ids, first, end, edits):
        residual = self.mixer_inputs(ids, first, end, edits, self.layers())
        return self.final_norm(residual) @ self.head.T

    def taps(self, index):
        part = self.layer(index)
        if "mixer.conv1d.weight" in part:
            return part["mixer.conv1d.weight"].shape[2]
        if self.kind(index) == "h3":
            return part["mixer.ssm_k_kernel.kernel.B"].shape[1]
        return 0


def cases(model, tokens):
    """Of edits, each (kind, layer, number, rest)."""
    layers, case = model.layers(), 0

    def layer():
        nonlocal case
        case += 1
        return case % layers

    for index in range(layers):
        taps = model.taps(index)
        if taps:
            yield [(CUT_TAP, index, taps - 2, [])]
    for index in range(layers):
        yield [(LOCAL_SCAN, index, 0, [])]
    yield [(REMOVE_WRITE, layer(), 1, [])]
    yield [(REMOVE_WRITE, layer(), 3, [])]
    for index in range(layers):
        yield [(REPLACE_WRITE, index, 2, [int(tokens[0])])]
    yield [(KEEP_ONLY, layer(), 0, [0, 3])]
    yield [(KEEP_ONLY, layer(), 1, [1])]
    yield [(KEEP_ONLY, layer(), 0, [])]
    # All at once, and writes that depend on those of layers below.
    together = []
    for index in range(layers):
        together += [(REPLACE_WRITE, index, 1, [int(tokens[index])]),
                     (REPLACE_WRITE, index, 4, [int(tokens[index + 1])]),
                     (REMOVE_WRITE, index, 2, [])]
        if model.taps(index):
            together.append((CUT_TAP, index, model.taps(index) - 1, []))
    yield together


def write(folder):
    model = EditedModel(folder)
    expected = read_tensors(folder / "expected.safetensors")
    text = expected["tokens"].astype(int)
    first, end = len(text) - FOLLOWING, len(text)
    untouched = model.logits(text, first, end, [])
    difference = np.abs(untouched - expected["logits"]).max()
    print(f"{folder}: logits differ by {difference:.1e}")
    if not difference <= LOGITS_AGREE:
        raise SystemExit(f"{folder}: logits differ by {difference:.1e}")
    forced = int(text[1])
    golden = {"position": [first], "tokens": text[first:], "forced": [forced]}
    answered = np.append(text, [forced] * (ANSWERED - 1))
    for number, edits in enumerate(cases(model, text)):
        logits = model.logits(answered, first, end, edits)
        if np.abs(logits[end - 1] - untouched[-1]).max() < 10 * LOGITS_AGREE:
            print(f"{folder}: {edits} changes little")
        width = 3 + max(1, max(len(edit[3]) for edit in edits))
        golden[f"edits.{number}"] = [
            [*edit[:3], *edit[3], *[-1] * (width - 3 - len(edit[3]))]
            for edit in edits]
        golden[f"width.{number}"] = [width]
        golden[f"logits.{number}"] = logits[end - 1:]
    write_tensors(folder / "ablation.safetensors", golden)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    for name in MODELS:
        write(arguments.folder / name)


if __name__ == "__main__":
    main()
