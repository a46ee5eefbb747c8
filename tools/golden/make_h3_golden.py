"""Writes tests/golden/{h3,s4d,attention}: small random models, their logits.

    python tools/golden/make_h3_golden.py tests/golden

Each folder is a checkpoint in the layout of the released H3 models with a
config.json, plus expected.safetensors: `tokens` [n] as float32 and `logits`
[n, vocab], computed in float64 on the weights as stored and written in
float32. They come from plain_h3.py, whose two forms must agree. No release of
transformers has H3 or S4D, but the attention models are GPT-2's (with learned
positions, or none) and GPT-NeoX's (rotary) under other names: there its
classes must agree too. The tool prints how far all of them do, and ends if
they do not, or if a tensor or a choice of the config hardly moves the logits:
a test against them could not see it wrong.
Needs torch, transformers and safetensors; the tests need none of them.
"""

import argparse
import json
import math
import pathlib

import torch
from safetensors.torch import save_file
from transformers import (GPT2Config, GPT2LMHeadModel, GPTNeoXConfig,
                          GPTNeoXForCausalLM)

import plain_h3

# Past the 64 taps of the shift SSM, and several blocks of keys.
TOKENS = 150
FORMS_AGREE = 1e-9
CLASSES_AGREE = 1e-4
# The tests allow 1e-3.
MOVES = 1e-2

# Odd widths, none of which follows from another by the usual rules, so that no
# two of them can be mistaken for each other.
MODELS = {
    "h3/plain": dict(
        config=dict(vocab_size=40, hidden_size=21, num_hidden_layers=2,
                    n_inner=59),
        ids=37,  # the rest are rows of padding
    ),
    "h3/zoh": dict(
        config=dict(vocab_size=35, hidden_size=19, num_hidden_layers=2,
                    n_inner=43, ssm_disc="zoh"),
    ),
    "h3/hybrid": dict(
        config=dict(vocab_size=33, hidden_size=21, num_hidden_layers=3,
                    n_inner=38, attn_layer_idx=[1], num_attention_heads=3),
    ),
    "h3/hybrid_rotary": dict(
        config=dict(vocab_size=31, hidden_size=20, num_hidden_layers=3,
                    n_inner=37, attn_layer_idx=[1], num_attention_heads=2,
                    rotary_emb_dim=6),
    ),
    "h3/untied_no_mlp": dict(
        config=dict(vocab_size=29, hidden_size=23, num_hidden_layers=2,
                    n_inner=0, tie_word_embeddings=False),
    ),
    "h3/bf16": dict(
        config=dict(vocab_size=36, hidden_size=22, num_hidden_layers=3,
                    n_inner=51, attn_layer_idx=[2], num_attention_heads=2),
        dtype=torch.bfloat16,
    ),
    "h3/short_filter": dict(
        config=dict(vocab_size=34, hidden_size=25, num_hidden_layers=3,
                    n_inner=47),
        shift_order=8, pairs=5,
    ),
    "s4d/plain": dict(
        config=dict(vocab_size=38, hidden_size=27, num_hidden_layers=2,
                    n_inner=61),
    ),
    "s4d/untied_no_mlp": dict(
        config=dict(vocab_size=30, hidden_size=29, num_hidden_layers=3,
                    n_inner=0, tie_word_embeddings=False),
        pairs=7,
    ),
    "attention/learned_positions": dict(
        config=dict(vocab_size=39, hidden_size=28, num_hidden_layers=2,
                    n_inner=67, num_attention_heads=4,
                    max_position_embeddings=163),
    ),
    "attention/rotary": dict(
        config=dict(vocab_size=37, hidden_size=30, num_hidden_layers=2,
                    n_inner=53, num_attention_heads=3, rotary_emb_dim=10,
                    tie_word_embeddings=False),
    ),
    "attention/plain": dict(
        config=dict(vocab_size=41, hidden_size=26, num_hidden_layers=3,
                    n_inner=58, num_attention_heads=2),
    ),
}


def config_json(family, fields):
    content = {"model_type": family, "tie_word_embeddings": True,
               "layer_norm_epsilon": 1e-5}
    if family != "attention":
        content["ssm_mode"] = "diag"
    if family == "h3":
        content["ssm_measure"] = "diag-lin"
    if family == "s4d":
        content["ssm_disc"] = "zoh"
    return {**content, **fields, "bos_token_id": None, "eos_token_id": None,
            "pad_token_id": None}


# --- weights ---


def linear(tensors, name, rows, columns):
    tensors[name + ".weight"] = torch.randn(rows, columns) / math.sqrt(columns)
    tensors[name + ".bias"] = 0.3 * torch.randn(rows)


def norm(tensors, name, d):
    tensors[name + ".weight"] = 1 + 0.3 * torch.randn(d)
    tensors[name + ".bias"] = 0.3 * torch.randn(d)


def diagonal(tensors, prefix, d, channels, pairs):
    """Time constants from a few tokens to more than there are."""
    tensors[prefix + "C"] = 2 * torch.randn(1, d, pairs, 2)
    tensors[prefix + "log_dt"] = math.log(1e-3) + math.log(300) * torch.rand(d)
    tensors[prefix + "inv_A_real"] = (math.log(0.5)
                                      + 0.7 * torch.randn(channels, pairs))
    tensors[prefix + "A_imag"] = math.pi * (
        torch.arange(pairs) + 0.5 * torch.randn(channels, pairs))


def h3_mixer(tensors, prefix, config, shift_order, pairs):
    d = config["hidden_size"]
    for name in ("q_proj", "k_proj", "v_proj", "output_linear"):
        linear(tensors, prefix + name, d, d)
    scale = shift_order ** -0.25
    tensors[prefix + "ssm_k_D"] = torch.randn(d)
    tensors[prefix + "ssm_k_kernel.kernel.B"] = scale * torch.randn(
        d, shift_order)
    tensors[prefix + "ssm_k_kernel.kernel.C"] = scale * torch.randn(
        1, d, shift_order)
    tensors[prefix + "D"] = torch.randn(d)
    tensors[prefix + "kernel.kernel.B"] = torch.randn(d, pairs, 2)
    diagonal(tensors, prefix + "kernel.kernel.", d, d, pairs)


def s4d_mixer(tensors, prefix, config, pairs):
    d = config["hidden_size"]
    tensors[prefix + "D"] = torch.randn(d)
    diagonal(tensors, prefix + "kernel.kernel.", d, 1, pairs)
    linear(tensors, prefix + "output_linear", d, d)


def attention_mixer(tensors, prefix, config):
    d, rotary = config["hidden_size"], config.get("rotary_emb_dim", 0)
    linear(tensors, prefix + "Wqkv", 3 * d, d)
    linear(tensors, prefix + "out_proj", d, d)
    # Scores that choose: softmax of small ones is a mean.
    tensors[prefix + "Wqkv.weight"][:2 * d] *= 1.7
    if rotary:
        tensors[prefix + "rotary_emb.inv_freq"] = (
            plain_h3.ROTARY_BASE ** (-torch.arange(0, rotary, 2) / rotary))


def make_tensors(config, dtype, shift_order, pairs):
    """A model whose weights, norms and dynamics all are far from trivial."""
    d, inner = config["hidden_size"], config["n_inner"]
    tensors = {"backbone.embeddings.word_embeddings.weight":
               0.7 * torch.randn(config["vocab_size"], d)}
    positions = config.get("max_position_embeddings", 0)
    if positions:
        tensors["backbone.embeddings.position_embeddings.weight"] = (
            0.7 * torch.randn(positions, d))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"backbone.layers.{layer}."
        kind = plain_h3.mixer_kind(config, layer)
        norm(tensors, prefix + "norm1", d)
        if kind == "h3":
            h3_mixer(tensors, prefix + "mixer.", config, shift_order, pairs)
        elif kind == "s4d":
            s4d_mixer(tensors, prefix + "mixer.", config, pairs)
        else:
            attention_mixer(tensors, prefix + "mixer.", config)
        if inner:
            norm(tensors, prefix + "norm2", d)
            linear(tensors, prefix + "mlp.fc1", inner, d)
            linear(tensors, prefix + "mlp.fc2", d, inner)
    norm(tensors, "backbone.ln_f", d)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = 0.7 * torch.randn(config["vocab_size"], d)
    # As upstream casts them: all but what the SSMs are made of.
    return {name: value.to(torch.float32 if is_ssm(name) else dtype)
            for name, value in tensors.items()}


def is_ssm(name):
    return "kernel" in name or name.endswith((".D", "_D", ".inv_freq"))


# --- checks ---


def check_agreement(name, what, one, other, limit):
    difference = (one - other).abs().max().item()
    print(f"{name}: {what} differ by {difference:.1e} of "
          f"{one.abs().max():.1f}")
    if not difference <= limit:
        raise SystemExit(f"{name}: {what} differ by {difference:.1e}, "
                         f"limit {limit:.0e}")


def rolled(tensors, name):
    """The same model with one tensor's values at wrong places."""
    moved = tensors[name].flatten().roll(1).view_as(tensors[name])
    return {**tensors, name: moved}


def check_sensitivity(name, config, tensors, tokens, logits):
    """Every tensor and every choice of the config must show in the logits."""
    variants = {tensor: (rolled(tensors, tensor), config) for tensor in tensors
                if not tensor.endswith("inv_freq")}
    if config["model_type"] == "h3":
        other = {"zoh": "bilinear", "bilinear": "zoh"}[
            config.get("ssm_disc", "bilinear")]
        variants["ssm_disc"] = (tensors, {**config, "ssm_disc": other})
    if config.get("rotary_emb_dim", 0):
        for dims in (0, config["rotary_emb_dim"] - 2):
            variants[f"rotary_emb_dim {dims}"] = (
                tensors, {**config, "rotary_emb_dim": dims})
    moves = {what: (plain_h3.logits(*model, tokens) - logits).abs().max()
             for what, model in variants.items()}
    least = min(moves, key=moves.get)
    print(f"{name}: {least} moves the logits least, by {moves[least]:.2f}")
    if moves[least] < MOVES:
        raise SystemExit(f"{name}: {least} moves the logits by "
                         f"{moves[least]:.1e}, at least {MOVES} is expected")


def check_memory(name, tensors, tokens, config, logits):
    """Another first token must still show in the last logits."""
    other = tokens.clone()
    other[0] = (tokens[0] + 1) % tokens.max()
    moved = (plain_h3.logits(tensors, config, other) - logits)[-1].abs().max()
    print(f"{name}: the first token moves the last logits by {moved:.2f}")
    if moved < MOVES:
        raise SystemExit(f"{name}: the first token moves the last logits by "
                         f"{moved:.1e}, at least {MOVES} is expected")


def load_renamed(model, pairs):
    """Loads a class of transformers with tensors under its own names."""
    model.double().load_state_dict(pairs)
    return model.eval()


def gpt2(config, tensors):
    """GPT-2 keeps its matrices transposed, and always has positions."""
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=config["vocab_size"], n_positions=TOKENS,
        n_embd=config["hidden_size"], n_layer=config["num_hidden_layers"],
        n_head=config["num_attention_heads"], n_inner=config["n_inner"],
        activation_function="gelu_new", bos_token_id=0, eos_token_id=0,
        layer_norm_epsilon=config["layer_norm_epsilon"], use_cache=False))
    places = {"norm1": "ln_1", "norm2": "ln_2", "mixer.Wqkv": "attn.c_attn",
              "mixer.out_proj": "attn.c_proj", "mlp.fc1": "mlp.c_fc",
              "mlp.fc2": "mlp.c_proj"}
    embeddings = plain_h3.under(tensors, "backbone.embeddings.")
    positions = embeddings.get("position_embeddings.weight")
    pairs = {"wte.weight": embeddings["word_embeddings.weight"],
             "wpe.weight": (torch.zeros(TOKENS, config["hidden_size"])
                            if positions is None else positions[:TOKENS]),
             "ln_f.weight": tensors["backbone.ln_f.weight"],
             "ln_f.bias": tensors["backbone.ln_f.bias"]}
    for layer in range(config["num_hidden_layers"]):
        part = plain_h3.under(tensors, f"backbone.layers.{layer}.")
        for old, new in places.items():
            for end in ("weight", "bias"):
                value = part[f"{old}.{end}"]
                turned = end == "weight" and not old.startswith("norm")
                pairs[f"h.{layer}.{new}.{end}"] = value.T if turned else value
    pairs = {f"transformer.{name}": value for name, value in pairs.items()}
    return load_renamed(model, {
        **pairs, "lm_head.weight": embeddings["word_embeddings.weight"]})


def gpt_neox(config, tensors):
    """GPT-NeoX keeps q, k and v of one head beside each other."""
    d, heads = config["hidden_size"], config["num_attention_heads"]
    rotary = config["rotary_emb_dim"] / (d // heads)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=config["vocab_size"], hidden_size=d,
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads, intermediate_size=config["n_inner"],
        hidden_act="gelu_new", use_parallel_residual=False, bos_token_id=0,
        eos_token_id=0, max_position_embeddings=TOKENS, attention_bias=True,
        rope_parameters={"rope_type": "default", "partial_rotary_factor":
                         rotary, "rope_theta": plain_h3.ROTARY_BASE},
        layer_norm_eps=config["layer_norm_epsilon"], use_cache=False,
        tie_word_embeddings=False))
    places = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm",
              "mixer.Wqkv": "attention.query_key_value",
              "mixer.out_proj": "attention.dense",
              "mlp.fc1": "mlp.dense_h_to_4h", "mlp.fc2": "mlp.dense_4h_to_h"}
    pairs = {"gpt_neox.embed_in.weight":
             tensors["backbone.embeddings.word_embeddings.weight"],
             "gpt_neox.final_layer_norm.weight":
             tensors["backbone.ln_f.weight"],
             "gpt_neox.final_layer_norm.bias": tensors["backbone.ln_f.bias"],
             "lm_head.weight": tensors["lm_head.weight"]}
    for layer in range(config["num_hidden_layers"]):
        part = plain_h3.under(tensors, f"backbone.layers.{layer}.")
        for old, new in places.items():
            for end in ("weight", "bias"):
                value = part[f"{old}.{end}"]
                if old == "mixer.Wqkv":
                    value = value.view(3, heads, d // heads, -1).transpose(
                        0, 1).reshape(value.shape)
                pairs[f"gpt_neox.layers.{layer}.{new}.{end}"] = value
    return load_renamed(model, pairs)


def check_transformers(name, config, tensors, tokens, logits):
    rotary = config.get("rotary_emb_dim", 0)
    model = (gpt_neox if rotary else gpt2)(config, tensors)
    theirs = model(input_ids=tokens[None]).logits[0]
    check_agreement(name, f"{type(model).__name__} and the plain model",
                    theirs, logits, CLASSES_AGREE)


def write(folder, name, config, dtype=torch.float32, ids=None,
          shift_order=64, pairs=32):
    family = name.split("/")[0]
    config = config_json(family, config)
    tensors = make_tensors(config, dtype, shift_order, pairs)
    tokens = torch.randint(ids or config["vocab_size"], (TOKENS,))
    logits = plain_h3.logits(tensors, config, tokens)
    check_agreement(name, "convolutions and steps", logits,
                    plain_h3.logits_by_steps(tensors, config, tokens),
                    FORMS_AGREE)
    if family == "attention":
        check_transformers(name, config, tensors, tokens, logits)
    check_sensitivity(name, config, tensors, tokens, logits)
    check_memory(name, tensors, tokens, config, logits)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"tokens": tokens.float(), "logits": logits.float()},
              folder / "expected.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(tensors, folder / "model.safetensors",
              metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(221214052)
    with torch.no_grad():
        for name, settings in MODELS.items():
            write(arguments.folder / name, name, **settings)


if __name__ == "__main__":
    main()
