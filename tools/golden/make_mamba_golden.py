"""Writes tests/golden/mamba: small random Mamba models and their logits.

    python tools/golden/make_mamba_golden.py tests/golden/mamba

Each folder is a checkpoint as Hugging Face or state-spaces would publish it,
plus expected.safetensors: `tokens` [n] as float32 and `logits` [n, vocab], the
answers of transformers' MambaForCausalLM in float32 on the weights as stored.
Needs torch, transformers and safetensors; the tests need none of them.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import MambaConfig, MambaForCausalLM

TOKENS = 37

# The widths are odd and none follows from another by the usual rules, so that
# no two of them can be mistaken for each other.
MODELS = {
    "odd": dict(
        config=dict(vocab_size=61, hidden_size=37, state_size=5, expand=3,
                    conv_kernel=3, time_step_rank=7, num_hidden_layers=2),
    ),
    "usual": dict(
        config=dict(vocab_size=64, hidden_size=32, state_size=16, expand=2,
                    conv_kernel=4, time_step_rank="auto", num_hidden_layers=3),
    ),
    "biased_untied": dict(
        config=dict(vocab_size=50, hidden_size=24, state_size=4, expand=2,
                    time_step_rank=5, num_hidden_layers=2, use_bias=True,
                    tie_word_embeddings=False, layer_norm_epsilon=1e-3),
    ),
    "fractional_bf16": dict(
        config=dict(vocab_size=72, hidden_size=34, state_size=8, expand=1.5,
                    time_step_rank="auto", num_hidden_layers=2,
                    use_conv_bias=False),
        dtype=torch.bfloat16,
    ),
    "sharded_f16": dict(
        config=dict(vocab_size=48, hidden_size=40, state_size=7, expand=2,
                    conv_kernel=2, time_step_rank=3, num_hidden_layers=3),
        dtype=torch.float16,
        shards=3,
    ),
    "original": dict(
        config=dict(vocab_size=56, hidden_size=33, state_size=6, expand=2,
                    time_step_rank="auto", num_hidden_layers=2),
        original_ids=53,
    ),
}


def make_model(fields, dtype):
    """A model whose weights, norms and dynamics all are far from trivial."""
    fields = dict(fields)
    expand = fields.pop("expand")
    config = MambaConfig(**fields, expand=1, use_cache=False, pad_token_id=0,
                         bos_token_id=0, eos_token_id=0)
    # The class wants a whole number here; published files have fractions too.
    config.intermediate_size = int(expand * config.hidden_size)
    model = MambaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn_like(value)
            if name.endswith("A_log"):
                value.add_(0.5 * noise)
            elif name.endswith("dt_proj.bias"):
                value.copy_(1.5 * noise - 2)
            elif name.endswith(".D") or "norm" in name:
                value.copy_(1 + 0.3 * noise)
            elif "embeddings" in name or "lm_head" in name:
                value.copy_(noise)
            else:
                value.copy_(noise * (0.5 if "conv1d" in name else 0.25))
            # The expected logits are those of the weights as stored.
            value.copy_(value.to(dtype))
    return model


def config_json(fields):
    """The config of Hugging Face, with the traps that published files have."""
    content = {"model_type": "mamba", "architectures": ["MambaForCausalLM"],
               "use_bias": False, "d_inner": 160, "n_layer": 99}
    return {**content, **fields}


def original_config_json(fields, ids):
    return {
        "d_model": fields["hidden_size"],
        "n_layer": fields["num_hidden_layers"],
        "vocab_size": ids,
        "ssm_cfg": {"d_state": fields["state_size"]},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }


def save_sharded(folder, tensors, shards):
    weight_map = {}
    names = sorted(tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write(folder, config, dtype=torch.float32, shards=1, original_ids=0):
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(config, dtype)
    tensors = {name: value.detach().to(dtype).contiguous()
               for name, value in model.state_dict().items()}
    if config.get("tie_word_embeddings", True):
        head = tensors.pop("lm_head.weight", None)
    if original_ids:
        # The original layout: another name, and the head stored once more.
        embedding = tensors.pop("backbone.embeddings.weight")
        tensors["backbone.embedding.weight"] = embedding
        tensors["lm_head.weight"] = (embedding if head is None else head).clone()
        content = original_config_json(config, original_ids)
    else:
        content = config_json(config)
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n")
    if shards > 1:
        save_sharded(folder, tensors, shards)
    else:
        save_file(tensors, folder / "model.safetensors",
                  metadata={"format": "pt"})

    tokens = torch.randint(config["vocab_size"], (1, TOKENS))
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0].float()
    expected = {"tokens": tokens[0].float(), "logits": logits.contiguous()}
    save_file(expected, folder / "expected.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.manual_seed(231200752)
    for name, settings in MODELS.items():
        write(arguments.folder / name, **settings)


if __name__ == "__main__":
    main()
