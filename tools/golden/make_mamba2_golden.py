"""Writes tests/golden/mamba2: small random Mamba-2 models and their logits.

    python tools/golden/make_mamba2_golden.py tests/golden/mamba2

Each folder is a checkpoint as Hugging Face or state-spaces would publish it,
plus expected.safetensors: `tokens` [n] as float32 and `logits` [n, vocab], in
float32 on the weights as stored. They are the answers of transformers'
Mamba2ForCausalLM, and of `plain_logits` below where that class has no such
model. Both must agree wherever both can answer, and the tool prints how far
they do: older releases of transformers normalised all groups together and fail
here. Needs torch, transformers and safetensors; the tests need none of them.
"""

import argparse
import json
import pathlib

import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from transformers import Mamba2Config, Mamba2ForCausalLM

TOKENS = 37
AGREEMENT = 1e-4

# Odd widths, none of which follows from another by the usual rules, so that no
# two of them can be mistaken for each other.
MODELS = {
    "odd": dict(
        config=dict(vocab_size=61, hidden_size=35, state_size=11, expand=3,
                    conv_kernel=3, num_heads=7, head_dim=15, n_groups=1,
                    num_hidden_layers=2, tie_word_embeddings=True),
    ),
    "untied_biased": dict(
        config=dict(vocab_size=50, hidden_size=27, state_size=9, expand=2,
                    num_heads=9, head_dim=6, n_groups=1, num_hidden_layers=2,
                    use_bias=True, tie_word_embeddings=False,
                    layer_norm_epsilon=1e-3, time_step_limit=[0.1, 1.5]),
    ),
    "two_groups": dict(
        config=dict(vocab_size=48, hidden_size=24, state_size=17, expand=2,
                    num_heads=6, head_dim=8, n_groups=2, num_hidden_layers=3,
                    tie_word_embeddings=True),
    ),
    "three_groups_bf16": dict(
        config=dict(vocab_size=40, hidden_size=36, state_size=8, expand=2,
                    num_heads=3, head_dim=24, n_groups=3, num_hidden_layers=2,
                    use_conv_bias=False, tie_word_embeddings=True),
        dtype=torch.bfloat16,
    ),
    "original": dict(
        config=dict(vocab_size=64, hidden_size=30, state_size=16, expand=2,
                    num_heads=5, head_dim=12, n_groups=1, num_hidden_layers=2,
                    tie_word_embeddings=True),
        original_ids=53,
    ),
    # The original layout may leave the norm behind the gate out.
    "no_gated_norm": dict(
        config=dict(vocab_size=32, hidden_size=20, state_size=6, expand=2,
                    num_heads=5, head_dim=8, n_groups=5, num_hidden_layers=2,
                    tie_word_embeddings=True),
        original_ids=30,
        gated_norm=False,
    ),
}


def make_model(fields, dtype):
    """A model whose weights, norms and dynamics all are far from trivial."""
    config = Mamba2Config(**fields, use_cache=False, pad_token_id=0,
                          bos_token_id=0, eos_token_id=0, chunk_size=8)
    model = Mamba2ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn_like(value)
            if name.endswith("A_log"):
                value.copy_(1.5 * noise)
            elif name.endswith("dt_bias"):
                value.copy_(1.5 * noise - 1)
            elif name.endswith(".D") or "norm" in name:
                value.copy_(1 + 0.3 * noise)
            elif "embeddings" in name or "lm_head" in name:
                value.copy_(noise)
            else:
                value.copy_(noise * (0.5 if "conv1d" in name else 0.25))
            # The expected logits are those of the weights as stored.
            value.copy_(value.to(dtype))
    return model


def rms_norm(x, weight, epsilon):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def plain_mixer(tensors, prefix, config, u):
    """One mixer on u [tokens, d_model], token by token as the paper says."""
    heads, head_dim = config.num_heads, config.head_dim
    groups, d_state = config.n_groups, config.state_size
    d_inner, tokens = heads * head_dim, u.shape[0]
    convolved = d_inner + 2 * groups * d_state

    def get(name):
        return tensors.get(prefix + name)

    z, xbc, dt = functional.linear(
        u, get("in_proj.weight"), get("in_proj.bias")
    ).split([d_inner, convolved, heads], dim=-1)
    taps = get("conv1d.weight")[:, 0]
    padded = functional.pad(xbc, (0, 0, taps.shape[1] - 1, 0))
    xbc = sum(padded[j:j + tokens] * taps[:, j] for j in range(taps.shape[1]))
    if get("conv1d.bias") is not None:
        xbc = xbc + get("conv1d.bias")
    x, b, c = functional.silu(xbc).split(
        [d_inner, groups * d_state, groups * d_state], dim=-1)
    x = x.view(tokens, heads, head_dim)
    b, c = (part.view(tokens, groups, d_state).repeat_interleave(
        heads // groups, dim=1) for part in (b, c))
    delta = functional.softplus(dt + get("dt_bias")).clamp(
        *config.time_step_limit)
    decay = torch.exp(-torch.exp(get("A_log")) * delta)
    state = torch.zeros(heads, head_dim, d_state, dtype=u.dtype)
    y = torch.empty_like(x)
    for t in range(tokens):
        written = (delta[t, :, None] * x[t])[:, :, None] * b[t][:, None]
        state = decay[t, :, None, None] * state + written
        y[t] = (state @ c[t][:, :, None])[:, :, 0] + get("D")[:, None] * x[t]
    v = y.reshape(tokens, d_inner) * functional.silu(z)
    if get("norm.weight") is not None:
        v = rms_norm(v.view(tokens, groups, -1),
                     get("norm.weight").view(groups, -1),
                     config.layer_norm_epsilon).reshape(tokens, d_inner)
    return functional.linear(v, get("out_proj.weight"), get("out_proj.bias"))


def plain_logits(model, tensors, tokens):
    """The whole model in float64, without any code of transformers."""
    config = model.config
    tensors = {name: value.double() for name, value in tensors.items()}
    residual = tensors["backbone.embeddings.weight"][tokens]
    for layer in range(config.num_hidden_layers):
        prefix = f"backbone.layers.{layer}."
        normed = rms_norm(residual, tensors[prefix + "norm.weight"],
                          config.layer_norm_epsilon)
        residual = residual + plain_mixer(tensors, prefix + "mixer.", config,
                                          normed)
    hidden = rms_norm(residual, tensors["backbone.norm_f.weight"],
                      config.layer_norm_epsilon)
    return hidden @ tensors["lm_head.weight"].T


def config_json(fields):
    """The config of Hugging Face, with the traps that published files have."""
    content = {"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"],
               "use_bias": False, "norm_before_gate": True, "rms_norm": True,
               # Python writes this bare, which is not JSON.
               "time_step_limit": [0.0, float("inf")]}
    return {**content, **fields, "expand": 99}


def original_config_json(fields, ids, gated_norm):
    ssm = {"layer": "Mamba2", "d_state": fields["state_size"],
           "headdim": fields["head_dim"],
           "dt_limit": [0.0, {"__float__": "Infinity"}]}
    if fields["n_groups"] > 1:
        ssm["ngroups"] = fields["n_groups"]
    if not gated_norm:
        ssm["rmsnorm"] = False
    return {
        "d_model": fields["hidden_size"],
        "d_intermediate": 0,
        "n_layer": fields["num_hidden_layers"],
        "vocab_size": ids,
        "ssm_cfg": ssm,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }


def expected_logits(name, model, tensors, tokens, gated_norm):
    if not gated_norm:
        without = {key: value for key, value in tensors.items()
                   if not key.endswith("mixer.norm.weight")}
        return plain_logits(model, without, tokens).float()
    logits = model(input_ids=tokens[None]).logits[0]
    difference = (logits - plain_logits(model, tensors, tokens)).abs().max()
    print(f"{name}: transformers and the plain model differ by "
          f"{difference:.1e} of {logits.abs().max():.1f}")
    if difference > AGREEMENT:
        raise SystemExit(f"{name}: transformers computes something else")
    return logits


def write(folder, config, dtype=torch.float32, original_ids=0,
          gated_norm=True):
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(config, dtype)
    tokens = torch.randint(config["vocab_size"], (TOKENS,))
    tensors = model.state_dict()
    with torch.no_grad():
        logits = expected_logits(folder.name, model, tensors, tokens,
                                 gated_norm)
    save_file({"tokens": tokens.float(), "logits": logits.contiguous()},
              folder / "expected.safetensors")

    stored = {name: value.to(dtype).clone() for name, value in tensors.items()
              if gated_norm or not name.endswith("mixer.norm.weight")}
    if original_ids:
        # The original layout: another name, and the head stored once more.
        stored["backbone.embedding.weight"] = stored.pop(
            "backbone.embeddings.weight")
        content = original_config_json(config, original_ids, gated_norm)
    else:
        if config["tie_word_embeddings"]:
            del stored["lm_head.weight"]
        content = config_json(config)
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.manual_seed(240521060)
    for name, settings in MODELS.items():
        write(arguments.folder / name, **settings)


if __name__ == "__main__":
    main()
