"""Writes hybrids of Mamba-2 and attention in state-spaces' layout, and their logits.

    python tools/golden/make_hybrid_golden.py tests/golden/mamba2

Each folder is a checkpoint as state-spaces publishes mamba2attn-2.7b, plus
expected.safetensors: `tokens` [n] as float32 and `logits` [n, vocab]. They are
the answers of `plain_logits` below in float64, on the weights as stored; where
a model can be written as one of transformers' BambaForCausalLM, that must give
the same, and the tool prints how far they differ. Source of the layout and of
its mathematics: state-spaces/mamba e9594ce, modules/mha.py, block.py, mlp.py.
Needs torch, transformers and safetensors; the tests need none of them.
"""

import argparse
import json
import pathlib
import types

import torch
import torch.nn.functional as functional
from make_mamba2_golden import plain_mixer, rms_norm
from safetensors.torch import save_file
from transformers import BambaConfig, BambaForCausalLM

TOKENS = 75  # more than two blocks of keys and values
AGREEMENT = 2e-5  # of the largest logit: Bamba runs in float32
EPSILON = 1e-5
MLP_MULTIPLE = 128

MODELS = {
    # As mamba2attn-2.7b: a convolution over q, k and v, part of each head
    # rotated, heads that do not fill d_model, no MLP.
    "hybrid": dict(d_model=30, layers=4, ids=53, heads=5, head_dim=12, d_state=16, attention=[1, 3],
                   attn_cfg=dict(causal=True, d_conv=4, head_dim=14, num_heads=3, out_proj_bias=False,
                                 qkv_proj_bias=False, rotary_emb_dim=6)),
    # What the layout may have besides: shared keys and values, a gated MLP,
    # biases, another base and scale, another width of the convolution.
    "hybrid_biased": dict(d_model=24, layers=3, ids=40, heads=6, head_dim=8, d_state=9, attention=[0],
                          d_intermediate=100, tied=False,
                          attn_cfg=dict(causal=True, d_conv=3, num_heads=4, num_heads_kv=1, rotary_emb_dim=6,
                                        rotary_emb_base=500.0, softmax_scale=0.21)),
    # What Bamba is, too.
    "hybrid_grouped": dict(d_model=32, layers=4, ids=48, heads=8, head_dim=8, d_state=11, attention=[2],
                           d_intermediate=128, tied=False, bamba=True,
                           attn_cfg=dict(causal=True, num_heads=4, num_heads_kv=2, out_proj_bias=False,
                                         qkv_proj_bias=False, rotary_emb_dim=4)),
}


def attention_shape(model):
    cfg = model["attn_cfg"]
    heads = cfg["num_heads"]
    return heads, cfg.get("num_heads_kv", heads), cfg.get("head_dim", model["d_model"] // heads)


def mlp_width(model):
    return -(-model.get("d_intermediate", 0) // MLP_MULTIPLE) * MLP_MULTIPLE


def ssm_tensors(model):
    d_inner = model["heads"] * model["head_dim"]
    convolved = d_inner + 2 * model["d_state"]
    return {
        "in_proj.weight": 0.25 * torch.randn(d_inner + convolved + model["heads"], model["d_model"]),
        "conv1d.weight": 0.5 * torch.randn(convolved, 1, 4),
        "conv1d.bias": 0.25 * torch.randn(convolved),
        "dt_bias": 1.5 * torch.randn(model["heads"]) - 1,
        "A_log": 1.5 * torch.randn(model["heads"]),
        "D": 1 + 0.3 * torch.randn(model["heads"]),
        "norm.weight": 1 + 0.3 * torch.randn(d_inner),
        "out_proj.weight": 0.25 * torch.randn(model["d_model"], d_inner),
    }


def attention_tensors(model):
    cfg, d_model = model["attn_cfg"], model["d_model"]
    heads, kv_heads, head_dim = attention_shape(model)
    width = (heads + 2 * kv_heads) * head_dim
    tensors = {"in_proj.weight": 0.4 * torch.randn(width, d_model),
               "out_proj.weight": 0.4 * torch.randn(d_model, heads * head_dim)}
    if cfg.get("qkv_proj_bias", True):
        tensors["in_proj.bias"] = 0.3 * torch.randn(width)
    if cfg.get("out_proj_bias", True):
        tensors["out_proj.bias"] = 0.3 * torch.randn(d_model)
    if cfg.get("d_conv", 0):
        tensors["conv1d.weight"] = 0.5 * torch.randn(width, 1, cfg["d_conv"])
        tensors["conv1d.bias"] = 0.3 * torch.randn(width)
    return tensors


def make_tensors(model):
    d_model, vocab = model["d_model"], -(-model["ids"] // 16) * 16
    tensors = {"backbone.embedding.weight": torch.randn(vocab, d_model),
               "backbone.norm_f.weight": 1 + 0.3 * torch.randn(d_model)}
    tensors["lm_head.weight"] = (tensors["backbone.embedding.weight"].clone() if model.get("tied", True)
                                 else torch.randn(vocab, d_model))
    for layer in range(model["layers"]):
        prefix = f"backbone.layers.{layer}."
        tensors[prefix + "norm.weight"] = 1 + 0.3 * torch.randn(d_model)
        make = attention_tensors if layer in model["attention"] else ssm_tensors
        for name, value in make(model).items():
            tensors[f"{prefix}mixer.{name}"] = value
        if mlp_width(model):
            tensors[prefix + "norm2.weight"] = 1 + 0.3 * torch.randn(d_model)
            tensors[prefix + "mlp.fc1.weight"] = 0.3 * torch.randn(2 * mlp_width(model), d_model)
            tensors[prefix + "mlp.fc2.weight"] = 0.1 * torch.randn(d_model, mlp_width(model))
    return tensors


def rotated(x, cfg):
    """x [tokens, heads, head_dim]: each pair of dimensions as a complex number."""
    half = cfg.get("rotary_emb_dim", 0) // 2
    if not half:
        return x
    base = cfg.get("rotary_emb_base", 10000.0)
    angles = torch.arange(x.shape[0], dtype=x.dtype)[:, None] * base ** (-torch.arange(half, dtype=x.dtype) / half)
    turned = torch.complex(x[..., :half], x[..., half:2 * half]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag, x[..., 2 * half:]], dim=-1)


def plain_attention(tensors, prefix, model, u):
    """One attention mixer on u [tokens, d_model], token by token."""
    cfg, tokens = model["attn_cfg"], u.shape[0]
    heads, kv_heads, head_dim = attention_shape(model)
    qkv = functional.linear(u, tensors[prefix + "in_proj.weight"], tensors.get(prefix + "in_proj.bias"))
    if cfg.get("d_conv", 0):
        taps = tensors[prefix + "conv1d.weight"][:, 0]
        padded = functional.pad(qkv, (0, 0, taps.shape[1] - 1, 0))
        qkv = sum(padded[j:j + tokens] * taps[:, j] for j in range(taps.shape[1])) + tensors[prefix + "conv1d.bias"]
    q, k, v = (part.view(tokens, -1, head_dim) for part in qkv.split(
        [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=-1))
    q, k = rotated(q, cfg), rotated(k, cfg)
    scale = cfg.get("softmax_scale", head_dim ** -0.5)
    y = torch.empty_like(q)
    for t in range(tokens):
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = scale * (k[:t + 1, shared] @ q[t, head])
            y[t, head] = torch.softmax(scores, dim=0) @ v[:t + 1, shared]
    return functional.linear(y.reshape(tokens, -1), tensors[prefix + "out_proj.weight"],
                             tensors.get(prefix + "out_proj.bias"))


def plain_logits(model, tensors, tokens):
    """The whole model in float64."""
    tensors = {name: value.double() for name, value in tensors.items()}
    ssm = types.SimpleNamespace(num_heads=model["heads"], head_dim=model["head_dim"], n_groups=1,
                                state_size=model["d_state"], time_step_limit=(0.0, float("inf")),
                                layer_norm_epsilon=EPSILON)
    residual = tensors["backbone.embedding.weight"][tokens]
    for layer in range(model["layers"]):
        prefix = f"backbone.layers.{layer}."
        normed = rms_norm(residual, tensors[prefix + "norm.weight"], EPSILON)
        if layer in model["attention"]:
            mixed = plain_attention(tensors, prefix + "mixer.", model, normed)
        else:
            mixed = plain_mixer(tensors, prefix + "mixer.", ssm, normed)
        residual = residual + mixed
        if mlp_width(model):
            normed = rms_norm(residual, tensors[prefix + "norm2.weight"], EPSILON)
            value, gate = (normed @ tensors[prefix + "mlp.fc1.weight"].T).chunk(2, dim=-1)
            residual = residual + (value * functional.silu(gate)) @ tensors[prefix + "mlp.fc2.weight"].T
    return rms_norm(residual, tensors["backbone.norm_f.weight"], EPSILON) @ tensors["lm_head.weight"].T


def bamba_tensors(model, tensors):
    """The same weights under the names of Bamba's class."""
    heads, kv_heads, head_dim = attention_shape(model)
    renamed = {"model.embed_tokens.weight": tensors["backbone.embedding.weight"],
               "model.final_layernorm.weight": tensors["backbone.norm_f.weight"],
               "lm_head.weight": tensors["lm_head.weight"]}
    for layer in range(model["layers"]):
        here, there = f"backbone.layers.{layer}.", f"model.layers.{layer}."
        renamed[there + "input_layernorm.weight"] = tensors[here + "norm.weight"]
        renamed[there + "pre_ff_layernorm.weight"] = tensors[here + "norm2.weight"]
        up, gate = tensors[here + "mlp.fc1.weight"].chunk(2)
        renamed[there + "feed_forward.up_proj.weight"] = up
        renamed[there + "feed_forward.gate_proj.weight"] = gate
        renamed[there + "feed_forward.down_proj.weight"] = tensors[here + "mlp.fc2.weight"]
        if layer not in model["attention"]:
            for name in ssm_tensors(model):
                renamed[f"{there}mamba.{name}"] = tensors[f"{here}mixer.{name}"]
            continue
        parts = tensors[here + "mixer.in_proj.weight"].split(
            [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim])
        for name, part in zip("qkv", parts):
            renamed[f"{there}self_attn.{name}_proj.weight"] = part
        renamed[there + "self_attn.o_proj.weight"] = tensors[here + "mixer.out_proj.weight"]
    return renamed


def bamba_logits(model, tensors, tokens):
    heads, kv_heads, head_dim = attention_shape(model)
    d_inner = model["heads"] * model["head_dim"]
    config = BambaConfig(
        vocab_size=tensors["lm_head.weight"].shape[0], hidden_size=model["d_model"],
        intermediate_size=mlp_width(model), num_hidden_layers=model["layers"], num_attention_heads=heads,
        num_key_value_heads=kv_heads, attn_layer_indices=model["attention"], rms_norm_eps=EPSILON,
        mamba_n_heads=model["heads"], mamba_d_head=model["head_dim"], mamba_n_groups=1,
        mamba_d_state=model["d_state"], mamba_d_conv=4, mamba_expand=d_inner // model["d_model"],
        mamba_chunk_size=16, tie_word_embeddings=False, use_cache=False, pad_token_id=0)
    assert 2 * model["attn_cfg"]["rotary_emb_dim"] == head_dim  # Bamba turns half of a head
    bamba = BambaForCausalLM(config).float().eval()
    bamba.load_state_dict(bamba_tensors(model, tensors), strict=True)
    return bamba(input_ids=tokens[None]).logits[0]


def config_json(model):
    return {"d_model": model["d_model"], "d_intermediate": model.get("d_intermediate", 0),
            "n_layer": model["layers"], "vocab_size": model["ids"],
            "ssm_cfg": {"layer": "Mamba2", "d_state": model["d_state"], "headdim": model["head_dim"],
                        "expand": model["heads"] * model["head_dim"] / model["d_model"]},
            "attn_layer_idx": model["attention"], "attn_cfg": model["attn_cfg"], "rms_norm": True,
            "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
            "tie_embeddings": model.get("tied", True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.manual_seed(240521061)
    for name, model in MODELS.items():
        folder = arguments.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        tensors = make_tensors(model)
        tokens = torch.randint(model["ids"], (TOKENS,))
        with torch.no_grad():
            logits = plain_logits(model, tensors, tokens)
            if model.get("bamba"):
                difference = (bamba_logits(model, tensors, tokens) - logits).abs().max()
                print(f"{name}: Bamba and the plain model differ by {difference:.1e} of {logits.abs().max():.1f}")
                if difference > AGREEMENT * logits.abs().max():
                    raise SystemExit(f"{name}: transformers computes something else")
        save_file({"tokens": tokens.float(), "logits": logits.float()}, folder / "expected.safetensors")
        (folder / "config.json").write_text(json.dumps(config_json(model), indent=1) + "\n")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
