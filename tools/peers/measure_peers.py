#!/usr/bin/env python3
"""Measures decoding and prompts of other implementations, to stand beside `engram-bench engine`.

Each peer runs models of the published shapes with random weights, as many rows at a time as told:

  transformers   Hugging Face's classes, with what kernels they find
  mamba-ssm      the authors' package, with CUDA graphs (needs Triton and a GPU)

What is not installed is told and passed over. A step's time is what 33 tokens take less what one takes,
by 32; a prompt's is what one token after it takes. Medians of several runs.

    tools/peers/measure_peers.py --shapes mamba-130m,mamba2-130m --rows 1,8 --json
"""
import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import time
import types

# d_model, layers
SHAPES = {
    "mamba-130m": (768, 24), "mamba-370m": (1024, 48), "mamba-790m": (1536, 48), "mamba-1.4b": (2048, 48),
    "mamba-2.8b": (2560, 64),
    "mamba2-130m": (768, 24), "mamba2-370m": (1024, 48), "mamba2-780m": (1536, 48), "mamba2-1.3b": (2048, 48),
    "mamba2-2.7b": (2560, 64),
}
STEPS = 32


class Transformers:
    name = "transformers"

    def __init__(self, torch, device, weights):
        self.torch, self.device = torch, device
        self.type = getattr(torch, {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[weights])
        self.library = importlib.import_module("transformers")

    def version(self):
        return self.library.__version__

    def load(self, shape):
        d_model, layers = SHAPES[shape]
        common = dict(hidden_size=d_model, num_hidden_layers=layers, tie_word_embeddings=True)
        if shape.startswith("mamba2"):
            config = self.library.Mamba2Config(vocab_size=50288, num_heads=2 * d_model // 64, head_dim=64, n_groups=1,
                                               state_size=128, **common)
            kind = self.library.Mamba2ForCausalLM
        else:
            config = self.library.MambaConfig(vocab_size=50280, use_bias=False, **common)
            kind = self.library.MambaForCausalLM
        # Random numbers for billions of weights take a CPU minutes.
        with self.torch.device(self.device):
            model = kind(config)
        model = model.to(self.type).eval()
        # No token ends a text that is measured.
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        return model

    def generate(self, model, prompt, tokens):
        return model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                              attention_mask=self.torch.ones_like(prompt))


class MambaSsm(Transformers):
    name = "mamba-ssm"

    def __init__(self, torch, device, weights):
        if device == "cpu":
            raise ImportError("needs a GPU")
        super().__init__(torch, device, weights)
        # Its package does not begin without an extension that only Mamba's prompts need: without it, what is
        # written in Triton can still be measured.
        if importlib.util.find_spec("selective_scan_cuda") is None:
            sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")
        # Names that it imports and newer transformers have no longer.
        generation = importlib.import_module("transformers.generation")
        for name in ("GreedySearchDecoderOnlyOutput", "SampleDecoderOnlyOutput"):
            if not hasattr(generation, name):
                setattr(generation, name, generation.GenerateDecoderOnlyOutput)
        self.library = importlib.import_module("mamba_ssm")
        self.models = importlib.import_module("mamba_ssm.models.mixer_seq_simple")

    def load(self, shape):
        d_model, layers = SHAPES[shape]
        config = self.models.MambaConfig(d_model=d_model, n_layer=layers, vocab_size=50277)
        if shape.startswith("mamba2"):
            config.ssm_cfg, config.pad_vocab_size_multiple = {"layer": "Mamba2"}, 16
        return self.models.MambaLMHeadModel(config, device=self.device, dtype=self.type).eval()

    def generate(self, model, prompt, tokens):
        return model.generate(prompt, max_length=prompt.shape[1] + tokens, cg=True)


def seconds(peer, run, at_least):
    """The median time of `run`, after one that is not counted."""
    synchronize = peer.torch.cuda.synchronize if peer.device == "cuda" else lambda: None
    times = []
    run()
    while len(times) < 3 or sum(times) < at_least:
        synchronize()
        before = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def measure(peer, shape, rows, prompts, at_least):
    """Results like those of `engram-bench engine --json`, one after the other."""
    model = peer.load(shape)

    def prompt(count, length):
        return peer.torch.randint(1, 50000, (count, length), device=peer.device)

    def result(count, length, taken):
        return {"model": shape, "rows": count, "tokens": length, "step_seconds": {"median": taken},
                "tokens_per_second": count * length / taken}

    for count in rows:
        one = prompt(count, 1)
        longer = seconds(peer, lambda: peer.generate(model, one, STEPS + 1), at_least)
        shorter = seconds(peer, lambda: peer.generate(model, one, 1), at_least)
        yield result(count, 1, max(longer - shorter, 1e-9) / STEPS)
    for length in prompts:
        text = prompt(1, length)
        yield result(1, length, seconds(peer, lambda: peer.generate(model, text, 1), at_least))


def run_peer(kind, torch, options):
    report = {"peer": kind.name, "results": []}
    try:
        peer = kind(torch, options.device, options.weights)
        report["version"] = peer.version()
    except Exception as error:  # Whatever a package does when it is imported.
        report["unavailable"] = f"{type(error).__name__}: {error}"
        return report
    for shape in options.shapes:
        print(f"measure_peers: {kind.name}: {shape}", file=sys.stderr)
        try:
            with torch.inference_mode():
                for result in measure(peer, shape, options.rows, options.prompt_tokens, options.time):
                    report["results"].append({**result, "weights": options.weights})
        except Exception as error:
            report["results"].append({"model": shape, "error": f"{type(error).__name__}: {error}"})
    return report


def read_options(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def numbers(text):
        return [int(part) for part in text.split(",") if part]

    parser.add_argument("--shapes", default="mamba-130m", type=lambda text: text.split(","),
                        help="of " + ", ".join(SHAPES))
    parser.add_argument("--rows", default=[1], type=numbers, help="sequences that decode together (default: 1)")
    parser.add_argument("--prompt-tokens", default=[], type=numbers, help="lengths of prompts (default: none)")
    parser.add_argument("--weights", default="bf16", choices=["f32", "bf16", "f16"])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is one")
    parser.add_argument("--time", default=1.0, type=float, help="seconds that each is measured for at least")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    unknown = [shape for shape in options.shapes if shape not in SHAPES]
    if unknown:
        parser.error(f"unknown shape {unknown[0]!r}; there are {', '.join(SHAPES)}")
    return options


def text_of(report):
    if "unavailable" in report:
        return f"{report['peer']}: not measured: {report['unavailable']}\n"
    lines = [f"{report['peer']} {report['version']}"]
    for result in report["results"]:
        if "error" in result:
            lines.append(f"  {result['model']:<16} {result['error']}")
            continue
        lines.append(f"  {result['model']:<16} {result['rows']:>5} rows {result['tokens']:>6} tokens "
                     f"{1e3 * result['step_seconds']['median']:>10.3f} ms {result['tokens_per_second']:>10.0f} tokens/s")
    return "\n".join(lines) + "\n"


def main():
    options = read_options(sys.argv[1:])
    try:
        import torch
    except ImportError as error:
        torch, missing = None, f"ImportError: {error}"
    if torch is None:
        reports = [{"peer": kind.name, "results": [], "unavailable": missing} for kind in (Transformers, MambaSsm)]
    else:
        options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        reports = [run_peer(kind, torch, options) for kind in (Transformers, MambaSsm)]
    print(json.dumps(reports, indent=2) if options.json else "".join(map(text_of, reports)), end="")


if __name__ == "__main__":
    main()
