"""The model families: the names of their tensors, the shapes these must have, and config.json made from the shapes.

A family turns the names of a file into the names that the server loads, checks every shape, and tells the config.
"""

import re
from collections import Counter

from errors import ConvertError, shown
from hybrid import attention_layers, check_attention, check_hybrid_config, check_mlp

LAYERS_MAX = 1024
LAYER = re.compile(r"backbone\.layers\.(\d{1,5})\.(.+)", re.DOTALL)
FLOATS = ("F32", "F16", "BF16")
EMBEDDINGS = ("backbone.embedding.weight", "backbone.embeddings.weight", "backbone.embeddings.word_embeddings.weight")
HEAD = "lm_head.weight"

# Rows of the embedding matrix of the released models: the token that ends a text (GPT-2; GPT-NeoX).
END_TOKENS = {50264: 50256, 50280: 0, 50288: 0}

# Released H3 models, (d_model, layers): attention heads. Shapes do not tell them.
H3_HEADS = {(768, 12): 12, (1024, 24): 16, (2048, 24): 16, (2560, 32): 20}
H3_OLD_NAMES = ((r"^s4seq\.encoder\.", "backbone."), (r"^embedding\.", "backbone.embeddings.word_embeddings."),
                (r"^backbone\.norm", "backbone.ln_0"))


class Tensors:
    """The tensors of one model by name, with checks whose errors name file, tensor, found and expected."""

    def __init__(self, file, tensors):
        self.file = file
        self.all = tensors
        self.checked = set()

    def fail(self, problem):
        raise ConvertError(f"{self.file}: {problem}")

    def __contains__(self, name):
        return name in self.all

    def shape(self, name, rank):
        if name not in self.all:
            self.fail(f"tensor {shown(name)} is missing; the file holds another model, or only a part of one")
        shape = self.all[name].shape
        if len(shape) != rank or 0 in shape:
            self.fail(f"tensor {shown(name)} has shape {shown(shape)}, expected {rank} dimensions, none of them 0")
        return shape

    def check(self, name, *expected):
        shape = self.shape(name, len(expected))
        if shape != expected:
            self.fail(f"tensor {shown(name)} has shape {shown(shape)}, expected {shown(expected)}")
        if self.all[name].dtype not in FLOATS:
            self.fail(f"tensor {shown(name)} is {self.all[name].dtype}, expected one of {', '.join(FLOATS)}; "
                      "convert the model to float32 and save it again")
        self.checked.add(name)

    def check_linear(self, name, rows, columns, bias):
        self.check(f"{name}.weight", rows, columns)
        if bias:
            self.check(f"{name}.bias", rows)

    def check_none_left(self, family):
        left = [name for name in self.all if name not in self.checked]
        if left:
            example = left[0] if re.fullmatch(r"[A-Za-z0-9_.-]+", left[0]) else "NAME"
            self.fail(f"tensor {shown(left[0])} does not belong to a {family} model ({len(left)} such tensors). If you "
                      f"know that the model does not need it, add: --drop {example}")

    def layers(self):
        """Number of layers; a gap shows as a missing tensor later."""
        numbers = [int(match[1]) for match in map(LAYER.fullmatch, self.all) if match]
        layers = max(numbers, default=-1) + 1
        if not 1 <= layers <= LAYERS_MAX:
            self.fail(f"tensors of {layers} layers, expected 1 to {LAYERS_MAX}")
        return layers

    def embedding(self):
        """Name of the embedding matrix; a file with a tied head may have dropped it and kept the head."""
        names = [name for name in EMBEDDINGS if name in self.all]
        if len(names) > 1:
            self.fail(f"tensors {' and '.join(names)} are both there, expected one of them")
        if not names and HEAD not in self.all:
            self.fail(f"the embedding matrix is missing, expected one of {', '.join(EMBEDDINGS)}")
        return names[0] if names else HEAD


def detect(names):
    """The family that a state dict is of, or None."""
    ends = Counter(match[2] for match in map(LAYER.fullmatch, names) if match)
    if any(name.startswith("s4seq.encoder.") for name in names) or \
            any(end in ends for end in ("mixer.ssm_k_D", "mixer.Wqkv.weight")):
        return "h3"
    if "mixer.dt_bias" in ends:
        return "mamba2"
    if "mixer.dt_proj.weight" in ends:
        return "mamba"
    return None


def end_tokens(vocab):
    token = END_TOKENS.get(vocab)
    return {"bos_token_id": token, "eos_token_id": token, "pad_token_id": token}


def state_spaces_parts(tensors):
    """What Mamba and Mamba-2 share; returns layers, vocab, d_model."""
    embedding = tensors.embedding()
    vocab, d_model = tensors.shape(embedding, 2)
    tensors.check(embedding, vocab, d_model)
    tensors.check("backbone.norm_f.weight", d_model)
    if HEAD in tensors:
        tensors.check(HEAD, vocab, d_model)
    return tensors.layers(), vocab, d_model


class StateSpaces:
    """Mamba and Mamba-2, and hybrids of them with attention (tools/convert/hybrid.py)."""

    embedding = "backbone.embeddings.weight"

    @staticmethod
    def rename(path, tensors, note):
        return tensors

    def __init__(self, tensors):
        self.layers, self.vocab, self.d_model = state_spaces_parts(tensors)
        self.attention = attention_layers(tensors, self.layers)
        self.attention_widths = []
        mixers = [layer for layer in range(self.layers) if layer not in self.attention]
        self._read_widths(tensors, f"backbone.layers.{mixers[0]}.mixer.")
        has_mlp = False
        for layer in range(self.layers):
            prefix = f"backbone.layers.{layer}."
            has_mlp |= check_mlp(tensors, prefix, self.d_model)
            if layer in mixers:
                self._check_layer(tensors, prefix)
            else:
                self.attention_widths.append(check_attention(tensors, prefix, self.d_model))
        # Hugging Face's layout, in which a config is made, has neither.
        self.needs_config = has_mlp or bool(self.attention)
        tensors.check_none_left(self.name)


class Mamba(StateSpaces):
    name = "mamba"

    def _read_widths(self, tensors, first):
        self.d_inner, self.d_state = tensors.shape(first + "A_log", 2)
        self.d_conv = tensors.shape(first + "conv1d.weight", 3)[2]
        self.dt_rank = tensors.shape(first + "dt_proj.weight", 2)[1]
        self.bias = first + "in_proj.bias" in tensors
        self.conv_bias = first + "conv1d.bias" in tensors

    def _check_layer(self, tensors, prefix):
        inner, mixer = self.d_inner, prefix + "mixer."
        tensors.check(prefix + "norm.weight", self.d_model)
        tensors.check_linear(mixer + "in_proj", 2 * inner, self.d_model, self.bias)
        tensors.check(mixer + "conv1d.weight", inner, 1, self.d_conv)
        if self.conv_bias:
            tensors.check(mixer + "conv1d.bias", inner)
        tensors.check(mixer + "x_proj.weight", self.dt_rank + 2 * self.d_state, inner)
        tensors.check_linear(mixer + "dt_proj", inner, self.dt_rank, True)
        tensors.check(mixer + "A_log", inner, self.d_state)
        tensors.check(mixer + "D", inner)
        tensors.check_linear(mixer + "out_proj", self.d_model, inner, self.bias)

    def config(self, tied):
        return {
            "architectures": ["MambaForCausalLM"], "model_type": "mamba", "vocab_size": self.vocab,
            "hidden_size": self.d_model, "num_hidden_layers": self.layers, "state_size": self.d_state,
            "conv_kernel": self.d_conv, "expand": expand_of(self.d_inner, self.d_model),
            "intermediate_size": self.d_inner, "time_step_rank": self.dt_rank, "use_bias": self.bias,
            "use_conv_bias": self.conv_bias, "hidden_act": "silu", "layer_norm_epsilon": 1e-5,
            "residual_in_fp32": True, "tie_word_embeddings": tied, **end_tokens(self.vocab),
        }

    def assumptions(self):
        return []


class Mamba2(StateSpaces):
    name = "mamba2"

    def _read_widths(self, tensors, first):
        self.d_inner = tensors.shape(first + "out_proj.weight", 2)[1]
        self.heads = tensors.shape(first + "A_log", 1)[0]
        self.channels, _, self.d_conv = tensors.shape(first + "conv1d.weight", 3)
        self.bias = first + "in_proj.bias" in tensors
        self.conv_bias = first + "conv1d.bias" in tensors
        self.gated_norm = first + "norm.weight" in tensors
        if self.d_inner % self.heads != 0:
            tensors.fail(f"tensor {first}A_log tells {self.heads} heads, which do not divide the inner width "
                         f"{self.d_inner} of {first}out_proj.weight")
        group_states = self.channels - self.d_inner  # B and C of all groups
        if group_states < 2 or group_states % 2 != 0:
            tensors.fail(f"tensor {first}conv1d.weight has {self.channels} channels, expected the inner width "
                         f"{self.d_inner} and an even number more")
        self.group_state = group_states // 2

    def _check_layer(self, tensors, prefix):
        inner, mixer = self.d_inner, prefix + "mixer."
        tensors.check(prefix + "norm.weight", self.d_model)
        rows = inner + self.channels + self.heads
        tensors.check_linear(mixer + "in_proj", rows, self.d_model, self.bias)
        tensors.check(mixer + "conv1d.weight", self.channels, 1, self.d_conv)
        if self.conv_bias:
            tensors.check(mixer + "conv1d.bias", self.channels)
        for name in ("dt_bias", "A_log"):
            tensors.check(mixer + name, self.heads)
        wide = tensors.all.get(mixer + "D") is not None and tensors.all[mixer + "D"].shape == (inner,)
        tensors.check(mixer + "D", inner if wide else self.heads)
        if self.gated_norm:
            tensors.check(mixer + "norm.weight", inner)
        tensors.check_linear(mixer + "out_proj", self.d_model, inner, self.bias)

    def config(self, tied):
        return {
            "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "vocab_size": self.vocab,
            "hidden_size": self.d_model, "num_hidden_layers": self.layers, "state_size": self.group_state,
            "conv_kernel": self.d_conv, "expand": expand_of(self.d_inner, self.d_model), "num_heads": self.heads,
            "head_dim": self.d_inner // self.heads, "n_groups": 1, "chunk_size": 256, "use_bias": self.bias,
            "use_conv_bias": self.conv_bias, "rms_norm": self.gated_norm, "hidden_act": "silu",
            "layer_norm_epsilon": 1e-5, "residual_in_fp32": True, "tie_word_embeddings": tied,
            **end_tokens(self.vocab),
        }

    def assumptions(self):
        return ["n_groups is taken to be 1 and time_step_limit to be none: shapes do not tell. If that is wrong, put "
                "the model's config.json beside the source and convert again"]


class H3:
    name = "h3"
    embedding = "backbone.embeddings.word_embeddings.weight"
    fields_of_shapes = ("attn_layer_idx", "num_attention_heads", "n_inner", "rotary_emb_dim", "tie_word_embeddings")

    @staticmethod
    def rename(path, tensors, note):
        """Old names to new, and the old places of the norms to the new ones."""
        renamed = {}
        for name, tensor in tensors.items():
            new = name
            for pattern, replacement in H3_OLD_NAMES:
                new = re.sub(pattern, replacement, new)
            if new in renamed:
                raise ConvertError(f"{path}: tensor {shown(name)} and another are both called {shown(new)} by the new "
                                   "names; leave one out with --drop")
            renamed[new] = tensor
        if list(renamed) != list(tensors):
            note("old names of H3 were rewritten")
        if any(name.startswith("backbone.ln_0.") for name in renamed):
            renamed = move_norms(path, renamed)
            note("the norms were at their old places and were moved")
        return renamed

    def __init__(self, tensors, heads=None):
        embedding = tensors.embedding()
        self.vocab, self.d_model = tensors.shape(embedding, 2)
        tensors.check(embedding, self.vocab, self.d_model)
        if HEAD in tensors:
            tensors.check(HEAD, self.vocab, self.d_model)
        self.layers = tensors.layers()
        self.attention = [layer for layer in range(self.layers)
                          if f"backbone.layers.{layer}.mixer.Wqkv.weight" in tensors]
        # Toy models have layers of a mixer alone.
        first = "backbone.layers.0.mlp.fc1.weight"
        self.d_mlp = tensors.shape(first, 2)[0] if first in tensors else 0
        self.shift, self.pairs = self._state(tensors)
        self.rotary = self._rotary(tensors)
        self.heads = self._heads(tensors, heads)
        for layer in range(self.layers):
            self._check_layer(tensors, f"backbone.layers.{layer}.", layer in self.attention)
        self._check_norm(tensors, "backbone.ln_f")
        tensors.check_none_left(self.name)

    def _state(self, tensors):
        """Taps of the shift SSM and pairs of the diagonal one: 64 and 32 in every released model."""
        for layer in range(self.layers):
            if layer not in self.attention:
                mixer = f"backbone.layers.{layer}.mixer."
                return (tensors.shape(mixer + "ssm_k_kernel.kernel.B", 2)[1],
                        tensors.shape(mixer + "kernel.kernel.A_imag", 2)[1])
        return 0, 0

    def _rotary(self, tensors):
        """Rotated dimensions of a head: twice the length of inv_freq."""
        names = [f"backbone.layers.{layer}.mixer.rotary_emb.inv_freq" for layer in self.attention]
        there = [name for name in names if name in tensors]
        if not there:
            return 0
        length = tensors.shape(there[0], 1)[0]
        for name in names:
            tensors.check(name, length)
        return 2 * length

    def _heads(self, tensors, given):
        if not self.attention:
            return given or 1
        heads = given or H3_HEADS.get((self.d_model, self.layers))
        if heads is None:
            tensors.fail(f"d_model {self.d_model} with {self.layers} layers is none of the released H3 models, and the "
                         "shapes do not tell how many heads its attention has; say it with --attention-heads N")
        if self.d_model % heads != 0 or self.rotary > self.d_model // heads:
            tensors.fail(f"{heads} attention heads do not fit d_model {self.d_model} with {self.rotary} rotated "
                         "dimensions a head; check --attention-heads")
        return heads

    def _check_norm(self, tensors, name):
        tensors.check(f"{name}.weight", self.d_model)
        tensors.check(f"{name}.bias", self.d_model)

    def _check_layer(self, tensors, prefix, is_attention):
        d, mixer = self.d_model, prefix + "mixer."
        self._check_norm(tensors, prefix + "norm1")
        if self.d_mlp > 0:
            self._check_norm(tensors, prefix + "norm2")
            tensors.check_linear(prefix + "mlp.fc1", self.d_mlp, d, True)
            tensors.check_linear(prefix + "mlp.fc2", d, self.d_mlp, True)
        if is_attention:
            tensors.check_linear(mixer + "Wqkv", 3 * d, d, True)
            tensors.check_linear(mixer + "out_proj", d, d, True)
            return
        for name in ("q_proj", "k_proj", "v_proj", "output_linear"):
            tensors.check_linear(mixer + name, d, d, True)
        shift, pairs = self.shift, self.pairs
        for name, shape in (("ssm_k_D", (d,)), ("ssm_k_kernel.kernel.B", (d, shift)),
                            ("ssm_k_kernel.kernel.C", (1, d, shift)), ("D", (d,)),
                            ("kernel.kernel.C", (1, d, pairs, 2)), ("kernel.kernel.B", (d, pairs, 2)),
                            ("kernel.kernel.log_dt", (d,)), ("kernel.kernel.inv_A_real", (d, pairs)),
                            ("kernel.kernel.A_imag", (d, pairs))):
            tensors.check(mixer + name, *shape)

    def config(self, tied):
        return {
            "architectures": ["H3ForCausalLM"], "model_type": "h3", "vocab_size": self.vocab,
            "hidden_size": self.d_model, "num_hidden_layers": self.layers, "attn_layer_idx": self.attention,
            "num_attention_heads": self.heads, "n_inner": self.d_mlp, "ssm_mode": "diag", "ssm_measure": "diag-lin",
            "ssm_disc": "bilinear", "rotary_emb_dim": self.rotary, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": tied, **end_tokens(self.vocab),
        }

    def assumptions(self):
        if (self.d_model, self.layers) in H3_HEADS:
            return []
        return ["ssm_disc is taken to be bilinear, as in every released model: shapes do not tell. If that is wrong, "
                "correct it in config.json"]


FAMILIES = {family.name: family for family in (Mamba, Mamba2, H3)}


def move_norms(path, tensors):
    """Old files name a layer's norms by the place after the mixer or MLP, new ones by the place before it."""
    if any(name.startswith("backbone.ln_f.") for name in tensors):
        raise ConvertError(f"{path}: both backbone.ln_0 (old places of the norms) and backbone.ln_f (new places) are "
                           "there, expected one of them")
    layers = max((int(match[1]) for match in map(LAYER.fullmatch, tensors) if match), default=-1) + 1
    moved = {}
    for name, tensor in tensors.items():
        match = LAYER.fullmatch(name)
        if name.startswith("backbone.ln_0."):
            name = "backbone.layers.0.norm1." + name[len("backbone.ln_0."):]
        elif match and match[2].startswith("norm1."):
            name = f"backbone.layers.{int(match[1])}.norm2." + match[2][len("norm1."):]
        elif match and match[2].startswith("norm2."):
            parameter, after = match[2][len("norm2."):], int(match[1]) + 1
            name = f"backbone.layers.{after}.norm1.{parameter}" if after < layers else f"backbone.ln_f.{parameter}"
        moved[name] = tensor
    return moved


def expand_of(d_inner, d_model):
    """The factor that gives d_inner by int(expand * d_model): an integer if one does."""
    if d_inner % d_model == 0:
        return d_inner // d_model
    expand = d_inner / d_model
    return expand if int(expand * d_model) == d_inner else (d_inner + 0.5) / d_model


# --- a config.json that came with the source ---


def config_family(config):
    """The family that a config.json tells, or None."""
    if config.get("model_type") is not None:
        return config["model_type"] if isinstance(config["model_type"], str) else "?"
    if "d_model" in config and "n_layer" in config:
        mixer = config.get("ssm_cfg")
        layer = mixer.get("layer") if isinstance(mixer, dict) else None
        return "mamba2" if layer == "Mamba2" else "mamba"
    return None


def natural(file, config, name, missing=None):
    value = config.get(name)
    value = missing if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ConvertError(f"{file}: {name} is {shown(value)}, expected a whole number from 1")
    return value


def check_config(file, config, model):
    """A config that came with the weights must tell the sizes that the shapes tell."""
    if "model_type" in config:
        names, vocab = ("num_hidden_layers", "hidden_size"), natural(file, config, "vocab_size", model.vocab)
    else:
        multiple = natural(file, config, "pad_vocab_size_multiple", 8)
        names, vocab = ("n_layer", "d_model"), -(-natural(file, config, "vocab_size") // multiple) * multiple
    found = {names[0]: natural(file, config, names[0]), names[1]: natural(file, config, names[1]), "vocab_size": vocab}
    for (name, told), expected in zip(found.items(), (model.layers, model.d_model, model.vocab)):
        if told != expected:
            padded = " (padded)" if name == "vocab_size" and "model_type" not in config else ""
            raise ConvertError(f"{file}: {name} is {told}{padded}, but the tensors have {expected}; this config.json "
                               "belongs to another model: put the right one beside the source, or move it away and "
                               "one is made from the shapes")
    if isinstance(model, Mamba2):
        check_groups(file, config, model)
    if isinstance(model, StateSpaces):
        check_hybrid_config(file, config, model)


def check_groups(file, config, model):
    if "model_type" in config:
        groups, state = natural(file, config, "n_groups", 8), natural(file, config, "state_size", 128)
    else:
        mixer = config.get("ssm_cfg")
        groups, state = natural(file, mixer, "ngroups", 1), natural(file, mixer, "d_state", 128)
    if groups * state != model.group_state:
        raise ConvertError(f"{file}: {groups} groups of state size {state}, but the tensors have "
                           f"{model.group_state} in all; put the right config.json beside the source")


def says_tied(config):
    """Whether a config says that the head is the embedding matrix; missing means what its readers take it to mean."""
    for name in ("tie_word_embeddings", "tie_embeddings"):
        if isinstance(config.get(name), bool):
            return config[name]
    return config.get("model_type") != "mamba2"
