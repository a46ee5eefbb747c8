"""Writes tests/tools/data with real PyTorch: small checkpoints as torch.save makes them, and what they must become.

Run: python3 tools/convert/make_test_data.py tests/tools/data   (needs torch and safetensors; the tests need neither)
The same PyTorch writes the same files again, but for mamba_legacy.bin, which holds addresses of memory.
expected.json tells for each checkpoint the names, dtypes, shapes and SHA-256 of the row-major bytes after conversion.
"""

import argparse
import collections
import functools
import hashlib
import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn

GOLDENS = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
GOLDEN = GOLDENS / "h3" / "hybrid_rotary"
HYBRID = GOLDENS / "mamba2" / "hybrid_biased"


class Node(nn.Module):
    """A module with parameters at given dotted names, so that state_dict() is a real one, _metadata included."""

    def __init__(self, tensors=(), tied=()):
        super().__init__()
        for name, tensor in dict(tensors).items():
            self._place(name, nn.Parameter(tensor))
        for alias, name in tied:
            self._place(alias, self.get_parameter(name))

    def _place(self, name, parameter):
        *path, last = name.split(".")
        node = self
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, Node())
            node = getattr(node, part)
        node.register_parameter(last, parameter)


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype)


def mamba(layers=2, d=8, inner=16, state=4, rank=1, vocab=24, embedding="embedding", dtype=torch.float32):
    tensors = {f"backbone.{embedding}.weight": normal(vocab, d, dtype=dtype)}
    for i in range(layers):
        shapes = {"norm.weight": [d], "mixer.in_proj.weight": [2 * inner, d], "mixer.conv1d.weight": [inner, 1, 4],
                  "mixer.conv1d.bias": [inner], "mixer.x_proj.weight": [rank + 2 * state, inner],
                  "mixer.dt_proj.weight": [inner, rank], "mixer.dt_proj.bias": [inner],
                  "mixer.A_log": [inner, state], "mixer.D": [inner], "mixer.out_proj.weight": [d, inner]}
        tensors.update({f"backbone.layers.{i}.{name}": normal(*shape, dtype=dtype) for name, shape in shapes.items()})
    tensors["backbone.norm_f.weight"] = normal(d, dtype=dtype)
    return tensors


def mamba2(layers=2, d=16, inner=32, state=8, heads=4, groups=1, vocab=32):
    """Half precision, D in float32, as the released files mix them."""
    channels = inner + 2 * groups * state
    half = torch.float16
    tensors = {"backbone.embedding.weight": normal(vocab, d, dtype=half)}
    for i in range(layers):
        prefix = f"backbone.layers.{i}."
        shapes = {"norm.weight": [d], "mixer.dt_bias": [heads], "mixer.A_log": [heads], "mixer.D": [heads],
                  "mixer.in_proj.weight": [inner + channels + heads, d], "mixer.conv1d.weight": [channels, 1, 4],
                  "mixer.conv1d.bias": [channels], "mixer.norm.weight": [inner], "mixer.out_proj.weight": [d, inner]}
        for name, shape in shapes.items():
            tensors[prefix + name] = normal(*shape, dtype=torch.float32 if name == "mixer.D" else half)
    tensors["backbone.norm_f.weight"] = normal(d, dtype=half)
    return tensors


def h3(layers=3, attention=(1,), d=4, vocab=24, rotary=0, mlp=16, shift=64, pairs=32):
    def linear(name, rows, columns):
        return {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}

    norms = {f"{name}.{part}": [d] for name in ("norm1", "norm2")[:2 if mlp else 1] for part in ("weight", "bias")}
    mlp = {**linear("mlp.fc1", mlp, d), **linear("mlp.fc2", d, mlp)} if mlp else {}
    attention_mixer = {**linear("mixer.Wqkv", 3 * d, d), **linear("mixer.out_proj", d, d)}
    h3_mixer = {"mixer.ssm_k_D": [d], "mixer.ssm_k_kernel.kernel.B": [d, shift],
                "mixer.ssm_k_kernel.kernel.C": [1, d, shift], "mixer.D": [d],
                "mixer.kernel.kernel.C": [1, d, pairs, 2], "mixer.kernel.kernel.B": [d, pairs, 2],
                "mixer.kernel.kernel.log_dt": [d], "mixer.kernel.kernel.inv_A_real": [d, pairs],
                "mixer.kernel.kernel.A_imag": [d, pairs]}
    for name in ("q_proj", "k_proj", "v_proj", "output_linear"):
        h3_mixer.update(linear(f"mixer.{name}", d, d))
    tensors = {"backbone.embeddings.word_embeddings.weight": normal(vocab, d)}
    for i in range(layers):
        shapes = {**norms, **mlp, **(attention_mixer if i in attention else h3_mixer)}
        tensors.update({f"backbone.layers.{i}.{name}": normal(*shape) for name, shape in shapes.items()})
        if i in attention and rotary:
            tensors[f"backbone.layers.{i}.mixer.rotary_emb.inv_freq"] = 10000 ** (-torch.arange(0, rotary, 2) / rotary)
    tensors.update({"backbone.ln_f.weight": normal(d), "backbone.ln_f.bias": normal(d)})
    return tensors


def old_h3(new, layers):
    """The same model under the old names, its norms at the old places: one first, then one after each part."""
    place = {"backbone.layers.0.norm1": "backbone.norm", "backbone.ln_f": f"backbone.layers.{layers - 1}.norm2"}
    for i in range(layers):
        place[f"backbone.layers.{i}.norm2"] = f"backbone.layers.{i}.norm1"
        if i > 0:
            place[f"backbone.layers.{i}.norm1"] = f"backbone.layers.{i - 1}.norm2"
    old = collections.OrderedDict()
    for name, tensor in new.items():
        owner, _, last = name.rpartition(".")
        name = f"{place.get(owner, owner)}.{last}"
        name = name.replace("backbone.embeddings.word_embeddings.", "embedding.")
        old[name.replace("backbone.", "s4seq.encoder.", 1)] = tensor
    return old


def lightning(tensors, foreign, embedding="backbone.embeddings.word_embeddings.weight",
              trained="backbone.ln_f.weight", rate=1e-3):
    module = Node({f"model.{name}": tensor for name, tensor in tensors.items()},
                  [("model.lm_head.weight", f"model.{embedding}")])
    optimizer = torch.optim.Adam([module.get_parameter(f"model.{trained}")], lr=rate)
    module.get_parameter(f"model.{trained}").sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3, "global_step": 12345678901, "pytorch-lightning_version": "1.8.6",
        "state_dict": collections.OrderedDict(module.state_dict(), **{"loss_fn.counts": torch.arange(3)}),
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [{"last_lr": [1e-3], "base": -1, "on": True}],
        "callbacks": {"ModelCheckpoint": {"best": None, "monitor": ("val", "loss", 1.5, 70000, False, (1, 2, 3, 4))}},
    }
    if foreign:
        checkpoint["hyper_parameters"] = argparse.Namespace(lr=1e-3, path=pathlib.PurePosixPath("a/b"))
        checkpoint["callbacks"][functools.partial(print, "x")] = {"set": {1, 2}, "bytes": b"\x00\xff", "big": 1 << 200}
        checkpoint["rest"] = [torch.float32, torch.device("cpu"), torch.Size([1]), collections.Counter("aab"),
                              collections.defaultdict(list, a=[1]), complex(1, 2)]
    return checkpoint


def tell(tensors):
    dtypes = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

    def raw(tensor):
        return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()

    return {name: [dtypes[tensor.dtype], list(tensor.shape), hashlib.sha256(raw(tensor)).hexdigest()]
            for name, tensor in tensors.items()}


def not_contiguous(tensors):
    """Transposed, strided and offset views of larger storages."""
    name = "backbone.layers.{}.mixer.{}"
    views = dict(tensors)
    for key in (name.format(0, "in_proj.weight"), name.format(1, "A_log")):
        views[key] = tensors[key].t().contiguous().t()
    key = name.format(0, "D")
    views[key] = torch.stack([tensors[key], torch.zeros_like(tensors[key])], dim=1)[:, 0]
    key = name.format(0, "conv1d.weight")
    views[key] = tensors[key].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    # All that is left of layer 1 lies in one storage, one after another.
    flat = [key for key in tensors if key.startswith("backbone.layers.1.") and key not in views or "norm" in key]
    storage = torch.cat([tensors[key].flatten() for key in flat])
    begin = 0
    for key in flat:
        views[key] = storage[begin:begin + tensors[key].numel()].view(tensors[key].shape)
        begin += tensors[key].numel()
    return views


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    torch.manual_seed(20240601)
    torch.set_num_threads(1)
    expected = {}

    def save(name, content, tensors, **options):
        torch.save(content, folder / name, **options)
        expected[name] = tell(tensors)

    tensors = mamba()
    save("mamba.bin", Node(tensors, [("lm_head.weight", "backbone.embedding.weight")]).state_dict(), tensors)
    save("mamba_legacy.bin", {"only": torch.zeros(2)}, {}, _use_new_zipfile_serialization=False)
    tensors = mamba(layers=1, embedding="embeddings", dtype=torch.bfloat16)
    save("mamba_bf16.bin", Node(tensors).state_dict(), tensors)
    tensors = mamba()
    head = {"lm_head.weight": normal(24, 8)}
    save("mamba_untied.bin", Node({**tensors, **head}).state_dict(), {**tensors, **head})
    tensors = mamba()
    save("mamba_views.bin", not_contiguous(tensors), tensors)
    tensors = mamba2()
    save("mamba2.bin", Node(tensors, [("lm_head.weight", "backbone.embedding.weight")]).state_dict(), tensors)
    tensors = mamba2(layers=1, groups=2)
    save("mamba2_groups.bin", Node(tensors).state_dict(), tensors)
    tensors = h3()
    tie = [("lm_head.weight", "backbone.embeddings.word_embeddings.weight")]
    save("h3.pt", Node(tensors, tie).state_dict(), tensors)
    save("h3_old.pt", old_h3(tensors, 3), tensors)
    tensors = h3(layers=2, attention=(0, 1), rotary=4)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save("h3_rotary.pt", Node(tensors, tie).state_dict(), tensors)
    tensors = h3(layers=1, attention=())
    save("h3_lightning.pt", lightning(tensors, foreign=False), tensors)
    save("h3_lightning_foreign.pt", lightning(tensors, foreign=True), tensors)
    tensors = h3(layers=2, attention=(0,), mlp=0, shift=6, pairs=3)
    # As upstream halves a model: all but the SSMs.
    tensors = {name: tensor if "kernel" in name or name.endswith("D") else tensor.to(torch.bfloat16)
               for name, tensor in {**tensors, "lm_head.weight": normal(24, 4)}.items()}
    save("h3_toy.pt", Node(tensors).state_dict(), tensors)
    # The golden weights, so the optimizer must leave them as they are.
    tensors = load_file(GOLDEN / "model.safetensors")
    old = lightning(old_h3(tensors, 3), False, "embedding.weight", "s4seq.encoder.layers.2.norm2.weight", rate=0.0)
    save("h3_golden.pt", old, tensors)
    tensors = mamba(layers=1, vocab=12)
    parameters = dict(nn.Module.named_parameters(Node({f"_orig_mod.module.{n}": t for n, t in tensors.items()})))
    save("mamba_parameters.bin", {"model_state_dict": parameters, "epoch": 3}, tensors)
    save("mamba_headless.bin", {n.removeprefix("backbone."): t for n, t in tensors.items()}, tensors)
    names = sorted(tensors)
    for i in range(2):
        save(f"mamba_shard_{i}.bin", {n: tensors[n] for n in names[i::2]}, {n: tensors[n] for n in names[i::2]})
    tensors = load_file(HYBRID / "model.safetensors")
    save("mamba2_hybrid.bin", Node(tensors).state_dict(), tensors)
    lines = [f"  {json.dumps(file)}: {{\n" + ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(told)}" for name, told in tensors.items()) + "\n  }"
        for file, tensors in expected.items()]
    (folder / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
