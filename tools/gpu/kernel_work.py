"""What each kernel of a step has to move and to compute, by the model's shape.

Bytes that a kernel reads or writes at least once, of weights in bfloat16 and all
else in float32; what tensor cores multiply; and the float32 fused multiply-adds
of recurrences, filters and attention. tests/tools/kernel_work_test.py holds all
of it against what the emulated device counts. By reading alone goes what else
float32 units do (`others`): exponentials, mainly, and products.

A step is `rows` sequences that read `tokens` each, having read `before`. Prefill
is the steps that have more than one.
"""
import dataclasses

PRODUCTS = ("NarrowKernel", "TileKernel")
# Instructions of Exp in kernels/cuda/activations.h as nvcc makes them: 10 fused multiply-adds, 8 others.
EXP = 18


@dataclasses.dataclass
class Work:
    """Of one launch. `kernels`: names it may have. `part`: "embed", a kind of layer, or "tail"."""
    part: str
    what: str
    kernels: tuple
    weights: int = 0  # bytes, of embeddings what is read of them
    states_read: int = 0  # with keys and values
    states_written: int = 0
    read: int = 0  # activations, logits
    written: int = 0
    multiply_adds: int = 0  # on tensor cores
    fused_adds: int = 0  # float32
    others: int = 0  # float32 instructions besides
    joins: bool = False  # a norm that may be part of the kernel behind

    @property
    def states(self):
        return self.states_read + self.states_written

    @property
    def activations(self):
        return self.read + self.written


@dataclasses.dataclass
class Step:
    rows: int
    tokens: int
    before: int = 0

    @property
    def all_tokens(self):
        return self.rows * self.tokens

    @property
    def is_decode(self):
        return self.tokens == 1


class Shape:
    """Of a family and width; `layers`: how many there are of each kind."""

    def __init__(self, family, d_model, layers, vocabulary, attention=0):
        self.family, self.d_model, self.vocabulary = family, d_model, vocabulary
        self.layers = {family: layers - attention}
        if attention:
            self.layers["attention"] = attention

    def works(self, step):
        """Of a step, each kind of layer once."""
        works = [embed(self, step)]
        if step.is_decode:
            works.insert(0, Work("embed", "follow", ("FollowAnswersKernel",)))
        for kind in self.layers:
            for work in LAYERS[kind](self.d_model, step):
                work.part = kind
                works.append(work)
        return works + tail(self, step)


def padded(inputs):
    return -(-inputs // 16) * 16


def product(what, outputs, inputs, step, parts=1, bias=False, adds=False, tokens=None):
    """`parts` weights with the same inputs; up to 256 inputs are taken as two terms."""
    tokens = step.all_tokens if tokens is None else tokens
    return Work("", what, PRODUCTS,
                weights=parts * outputs * (2 * padded(inputs) + (4 if bias else 0)),
                read=4 * tokens * (inputs + (outputs if adds else 0)), written=4 * tokens * parts * outputs,
                multiply_adds=parts * outputs * inputs * tokens * (2 if inputs <= 256 else 1))


def norm(d_model, step, bias=False):
    return Work("", "norm", ("NormKernel",), weights=4 * d_model * (2 if bias else 1),
                read=4 * step.all_tokens * d_model, written=4 * step.all_tokens * d_model, joins=True)


def gated_norm(d_inner, step):
    """In decode the update has applied the gate."""
    part = 4 * step.all_tokens * d_inner
    return Work("", "gated norm", ("NormKernel",), weights=4 * d_inner, read=part if step.is_decode else 2 * part,
                written=part, joins=step.is_decode)


def convolution(channels, step, taps=4):
    """In prefill; and its inputs that stay."""
    window = 4 * step.rows * (taps - 1) * channels
    values = 4 * step.all_tokens * channels
    return [
        Work("", "convolution", ("ConvolveTokens",), weights=4 * (taps + 1) * channels, states_read=window,
             read=values, written=values, fused_adds=step.all_tokens * channels * taps,
             others=step.all_tokens * channels * (EXP + 10)),
        Work("", "convolution's state", ("KeepInputsOfRows",), states_written=window, read=window),
    ]


def convolved(work, channels, step, taps=4):
    """In decode, by the product in front."""
    work.weights += 4 * (taps + 1) * channels
    work.states_read = work.states_written = 4 * step.rows * (taps - 1) * channels
    return work


def mamba(d_model, step, states=16):
    d_inner, rank, tokens = 2 * d_model, -(-d_model // 16), step.all_tokens
    inputs = rank + 2 * states
    scan = dict(weights=4 * d_inner * (states + 2), states_read=4 * step.rows * d_inner * states,
                states_written=4 * step.rows * d_inner * states, written=4 * tokens * d_inner,
                fused_adds=tokens * d_inner * 2 * states, others=tokens * d_inner * (states * (EXP + 2) + 60))
    first = product("in_proj", 2 * d_inner, d_model, step)
    x_proj = product("x_proj", inputs, d_inner, step)
    last = product("out_proj", d_model, d_inner, step, adds=True)
    if step.is_decode:
        update = Work("", "update", ("UpdateKernel",), read=4 * tokens * (2 * d_inner + inputs),
                      multiply_adds=2 * d_inner * rank * tokens, **scan)
        update.weights += 2 * d_inner * padded(rank)
        return [norm(d_model, step), convolved(first, d_inner, step), x_proj, update, last]
    # Two lanes share a quarter of the states: both do the sums of both.
    scan["fused_adds"] = tokens * d_inner * 3 * states
    return [norm(d_model, step), first, *convolution(d_inner, step), x_proj, product("dt_proj", d_inner, rank, step),
            Work("", "scan", ("ScanInRegisters",), read=4 * tokens * (3 * d_inner + 2 * states), **scan), last]


def chunks(heads, head_dim, states, step, scan, chunk=64):
    """Of kernels/cuda/ssd_chunks.cu: products of float32 factors are three of bfloat16, what is above the diagonal is
    left out by 16 tokens."""
    steps = -(-states // 16)
    count = step.rows * (step.tokens // chunk)
    factors, products = 2 * 16 * steps, sum(range(1, chunk // 16 + 1)) * 16 * 16 // chunk
    room = 4 * count * chunk * (factors + products)
    tiles = 2 * sum(range(1, chunk // 16 + 1))
    of_64_channels = 3 * 4 * (chunk // 8 * steps + tiles + chunk // 16 * 2 * steps)
    return [
        Work("", "chunks, prepared", ("PrepareChunks",), read=4 * count * chunk * 2 * states, written=room,
             multiply_adds=2048 * 3 * tiles * steps * count),
        Work("", "chunks", ("ScanChunks",), read=4 * step.all_tokens * heads * (head_dim + 1) + room,
             multiply_adds=2048 * of_64_channels * heads * -(-head_dim // 64) * count, **scan),
    ]


def mamba2(d_model, step, states=128, head_dim=64):
    d_inner, tokens = 2 * d_model, step.all_tokens
    heads, channels = d_inner // head_dim, d_inner + 2 * states
    first = product("in_proj", d_inner + channels + heads, d_model, step)
    last = product("out_proj", d_model, d_inner, step, adds=True)
    scan = dict(weights=12 * heads, states_read=4 * step.rows * d_inner * states,
                states_written=4 * step.rows * d_inner * states, written=4 * tokens * d_inner)
    if step.is_decode:
        update = Work("", "update", ("UpdateKernel",), read=4 * tokens * (2 * d_inner + 2 * states + heads),
                      fused_adds=tokens * d_inner * 2 * states, others=tokens * d_inner * states, **scan)
        return [norm(d_model, step), convolved(first, channels, step), update, gated_norm(d_inner, step), last]
    return [norm(d_model, step), first, *convolution(channels, step),
            *chunks(heads, head_dim, states, step, scan), gated_norm(d_inner, step), last]


def mlp(d_model, step):
    return [norm(d_model, step, bias=True), product("fc1", 4 * d_model, d_model, step, bias=True),
            product("fc2", d_model, 4 * d_model, step, bias=True, adds=True)]


def h3(d_model, step, pairs=32, taps=64):
    tokens, rows = step.all_tokens, step.rows
    out = product("output", d_model, d_model, step, bias=True, adds=True)
    filters, diagonal = 4 * taps * d_model, 4 * 2 * pairs * d_model
    of_shift = tokens * d_model * taps
    of_scan = tokens * d_model * 5 * pairs
    if step.is_decode:
        update = Work("", "update", ("UpdateKernel",), weights=filters + 2 * diagonal + 4 * d_model,
                      states_read=4 * rows * (taps - 1) * d_model + rows * diagonal,
                      states_written=4 * rows * d_model + rows * diagonal,
                      read=12 * tokens * d_model, written=4 * tokens * d_model,
                      fused_adds=of_shift + of_scan, others=tokens * d_model * pairs)
        return [norm(d_model, step, bias=True), product("q, k, v", d_model, d_model, step, parts=3, bias=True), update,
                out, *mlp(d_model, step)]
    # The ring gets the last inputs, or all of them.
    kept = 4 * rows * min(step.tokens, taps - 1) * d_model
    return [norm(d_model, step, bias=True),
            *(product(name, d_model, d_model, step, bias=True) for name in ("q_proj", "k_proj", "v_proj")),
            Work("", "shift", ("MultiplyTokens",), weights=filters, states_read=4 * rows * (taps - 1) * d_model,
                 read=8 * tokens * d_model, written=4 * tokens * d_model, fused_adds=of_shift),
            Work("", "shift's state", ("KeepInputsOfRows",), states_written=kept, read=kept),
            Work("", "scan", ("ScanInRegisters",), weights=2 * diagonal + 4 * d_model, states_read=rows * diagonal,
                 states_written=rows * diagonal, read=8 * tokens * d_model, written=4 * tokens * d_model,
                 fused_adds=of_scan, others=tokens * d_model * pairs),
            out, *mlp(d_model, step)]


def attention(d_model, step):
    """H3's. A block of keys has the 32 tokens of a channel together: a token alone writes a sector for each."""
    tokens, rows, last = step.all_tokens, step.rows, step.before + step.tokens
    sectors = sum(1 for place in range(step.before, last) if place % 8 == 0 or place == step.before)
    written = rows * d_model * (32 * sectors + 4 * step.tokens)
    seen = sum(step.before + token + 1 for token in range(step.tokens))
    return [norm(d_model, step, bias=True), product("q, k, v", 3 * d_model, d_model, step, bias=True),
            Work("", "append", ("AppendKeysAndValues",), states_written=written, read=8 * tokens * d_model),
            Work("", "attend", ("AttendTokens", "AttendLongRows"),
                 states_read=4 * rows * d_model * (-(-last // 32) * 32 + last), read=4 * tokens * d_model,
                 written=4 * tokens * d_model, fused_adds=2 * rows * d_model * seen, others=rows * seen * EXP),
            product("output", d_model, d_model, step, bias=True, adds=True), *mlp(d_model, step)]


LAYERS = {"mamba": mamba, "mamba2": mamba2, "h3": h3, "attention": attention}


def embed(shape, step):
    return Work("embed", "embed", ("EmbedKernel",), weights=2 * step.all_tokens * shape.d_model,
                written=4 * step.all_tokens * shape.d_model)


def tail(shape, step):
    d_model, rows = shape.d_model, step.rows
    row = 4 * rows * d_model
    last_norm = norm(d_model, step, bias=shape.family == "h3")
    last_norm.joins = False
    keep = Work("", "last_hidden", ("KeepLastTokensKernel",), states_written=row, read=row)
    head = product("head", shape.vocabulary, d_model, step, tokens=rows)
    works = [last_norm, keep, head] if step.is_decode else [
        last_norm, Work("", "inputs of the head", ("CopyRowsKernel",), read=row, written=row), head, keep]
    works.append(Work("", "draw", ("AnswerRows",), read=4 * rows * shape.vocabulary))
    if not step.is_decode:
        works.append(Work("", "finite", ("CountNotFiniteKernel",), read=4 * step.all_tokens * d_model))
    for work in works:
        work.part = "tail"
    return works


def of_launches(works, names):
    """The works of the kernels with these names, in their order, which are all there are; norms that are part of the
    kernel behind them joined to it. Raises ValueError if there are others."""
    found, norms = [], []
    places = iter(works)
    for name in names:
        for work in places:
            if name in work.kernels:
                break
            if not work.joins:
                raise ValueError(f"{name} is launched where tools/gpu/kernel_work.py has {work.what}")
            norms.append(work)
        else:
            raise ValueError(f"{name} is launched and not in tools/gpu/kernel_work.py")
        work.weights += sum(norm.weights for norm in norms)
        norms.clear()
        found.append(work)
    for work in places:
        raise ValueError(f"{work.what} is in tools/gpu/kernel_work.py and not launched")
    return found
