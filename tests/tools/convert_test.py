"""The converter on files written by real PyTorch (tools/convert/make_test_data.py)."""

import errno
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest
import zipfile
from unittest import mock

from convert_support import (DATA, EXPECTED, HERE, TOOL, ConvertCase, ConvertError, read_entries, read_safetensors,
                             write_archive)

GOLDEN = HERE.parent / "golden" / "h3" / "hybrid_rotary"
HYBRID = HERE.parent / "golden" / "mamba2" / "hybrid_biased"
HEADS = ("--attention-heads", "1")
MAMBA_CONFIG = {"d_model": 8, "n_layer": 2, "vocab_size": 21, "ssm_cfg": {"d_state": 4}, "pad_vocab_size_multiple": 8}
MAMBA2_CONFIG = {"d_model": 16, "n_layer": 1, "vocab_size": 32, "pad_vocab_size_multiple": 16,
                 "ssm_cfg": {"layer": "Mamba2", "d_state": 8, "ngroups": 2, "headdim": 8}}


def tokenizer(largest):
    return {"model": {"type": "BPE", "vocab": {"a": 0, "b": largest}, "merges": []}, "added_tokens": []}


class ConvertTest(ConvertCase):
    def check(self, name, *options, source=None, expected=None):
        """Converts and compares every tensor with what PyTorch said; returns the config and the notes."""
        notes = self.convert(source or DATA / name, *options)
        header, tensors = read_safetensors(self.target / "model.safetensors")
        config = json.loads((self.target / "config.json").read_text())
        expected = EXPECTED[name] if expected is None else expected
        if "model_type" in config:  # Hugging Face's layout: its name of the embedding matrix
            expected = {name.replace(".embedding.", ".embeddings."): told for name, told in expected.items()}
        self.assertEqual(tensors, expected)
        self.assertEqual(header["__metadata__"], {"format": "pt"})
        self.assertEqual([path for path in self.folder.iterdir() if path.name.startswith(".")], [])
        return config, notes

    def test_mamba(self):
        config, notes = self.check("mamba.bin")
        self.assertEqual({name: config[name] for name in (
            "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "state_size", "conv_kernel", "expand",
            "intermediate_size", "time_step_rank", "use_bias", "use_conv_bias", "tie_word_embeddings")}, {
                "model_type": "mamba", "vocab_size": 24, "hidden_size": 8, "num_hidden_layers": 2, "state_size": 4,
                "conv_kernel": 4, "expand": 2, "intermediate_size": 16, "time_step_rank": 1, "use_bias": False,
                "use_conv_bias": True, "tie_word_embeddings": True})
        self.assertIn("tied", notes)

    def test_bfloat16_is_kept(self):
        config, _ = self.check("mamba_bf16.bin")
        self.assertTrue(config["tie_word_embeddings"])

    def test_an_own_head_is_kept(self):
        config, _ = self.check("mamba_untied.bin")
        self.assertFalse(config["tie_word_embeddings"])

    def test_views_become_row_major(self):
        self.check("mamba_views.bin")

    def test_mamba2_keeps_the_dtype_of_every_tensor(self):
        config, _ = self.check("mamba2.bin")
        self.assertEqual((config["model_type"], config["num_heads"], config["head_dim"], config["n_groups"],
                          config["state_size"]), ("mamba2", 4, 8, 1, 8))
        self.assertEqual({told[0] for told in EXPECTED["mamba2.bin"].values()}, {"F16", "F32"})

    def test_h3(self):
        config, notes = self.check("h3.pt", *HEADS)
        self.assertIn("ssm_disc is taken to be bilinear", notes)
        self.assertEqual(config, {
            "architectures": ["H3ForCausalLM"], "model_type": "h3", "vocab_size": 24, "hidden_size": 4,
            "num_hidden_layers": 3, "attn_layer_idx": [1], "num_attention_heads": 1, "n_inner": 16, "ssm_mode": "diag",
            "ssm_measure": "diag-lin", "ssm_disc": "bilinear", "rotary_emb_dim": 0, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None})

    def test_h3_with_old_names_and_old_places_of_the_norms(self):
        config, notes = self.check("h3_old.pt", *HEADS)
        self.assertEqual(EXPECTED["h3_old.pt"], EXPECTED["h3.pt"])
        self.assertEqual(config["num_hidden_layers"], 3)
        self.assertRegex(notes, "old names[^\n]*\n[^\n]*norms")

    def test_h3_rotary(self):
        config, _ = self.check("h3_rotary.pt", *HEADS)
        self.assertEqual((config["rotary_emb_dim"], config["attn_layer_idx"]), (4, [0, 1]))

    def test_h3_of_other_sizes_without_mlp_and_with_its_own_head(self):
        config, _ = self.check("h3_toy.pt", "--attention-heads", "2")
        self.assertEqual({name: config[name] for name in (
            "attn_layer_idx", "num_attention_heads", "n_inner", "rotary_emb_dim", "tie_word_embeddings")}, {
                "attn_layer_idx": [0], "num_attention_heads": 2, "n_inner": 0, "rotary_emb_dim": 0,
                "tie_word_embeddings": False})
        _, tensors = read_safetensors(self.target / "model.safetensors")
        mixer = "backbone.layers.1.mixer."
        self.assertEqual([tensors[mixer + name][:2] for name in (
            "ssm_k_kernel.kernel.B", "kernel.kernel.C", "q_proj.weight")], [
                ["F32", [4, 6]], ["F32", [1, 4, 3, 2]], ["BF16", [4, 4]]])

    def test_h3_layers_have_states_of_one_size_and_all_an_mlp_or_none(self):
        entries = read_entries(DATA / "h3.pt")
        for old, new, problem in (
                (b"layers.0.mixer.kernel.kernel.A_imag", b"layers.0.mixer.kernel.kernel.A_imog", "A_imag' is missing"),
                (b"layers.1.mlp.fc1.weight", b"layers.1.mlp.fc3.weight", "layers.1.mlp.fc1.weight' is missing"),
                (b"layers.0.mlp.fc1.weight", b"layers.0.mlp.fc3.weight", "norm2.weight' does not belong")):
            pickled = entries["data.pkl"].replace(old, new)
            self.assertNotEqual(pickled, entries["data.pkl"])
            path = write_archive(self.folder / "changed.pt", {**entries, "data.pkl": pickled})
            self.assert_refused(problem, path, *HEADS)

    def test_h3_becomes_the_golden_model_that_it_was_made_from(self):
        config, notes = self.check("h3_golden.pt", "--attention-heads", "2")
        self.assertRegex(notes, "Lightning[^\n]*\n[^\n]*old names[^\n]*\n[^\n]*norms")
        _, tensors = read_safetensors(self.target / "model.safetensors")
        _, golden = read_safetensors(GOLDEN / "model.safetensors")
        self.assertEqual(tensors, golden)
        golden_config = json.loads((GOLDEN / "config.json").read_text())
        self.assertEqual({name: config.get(name, "missing") for name in golden_config}, golden_config)

    def test_h3_with_a_config_beside_it(self):
        golden_config = json.loads((GOLDEN / "config.json").read_text())
        source = self.source("h3_golden.pt", config={**golden_config, "ssm_disc": "zoh"})
        config, _ = self.check("h3_golden.pt", source=source)
        self.assertEqual((config["ssm_disc"], config["num_attention_heads"]), ("zoh", 2))
        shutil.rmtree(self.target)
        self.assert_refused("n_inner is 0, but the tensors have 37",
                            self.source("h3_golden.pt", config={**golden_config, "n_inner": 0}))

    def test_h3_heads_are_asked_for_where_no_table_tells_them(self):
        self.assert_refused("--attention-heads", DATA / "h3.pt")
        self.assert_refused("heads do not fit", DATA / "h3.pt", "--attention-heads", "3")

    def test_lightning(self):
        _, notes = self.check("h3_lightning.pt")
        self.assertIn("Lightning", notes)

    def test_lightning_with_foreign_objects(self):
        self.assert_refused("refused to load .*--allow-foreign-objects", DATA / "h3_lightning_foreign.pt")
        _, notes = self.check("h3_lightning_foreign.pt", "--allow-foreign-objects")
        self.assertIn("argparse.Namespace", notes)

    def test_the_old_format_is_refused_with_advice(self):
        self.assert_refused("before torch 1.6.*torch.save", DATA / "mamba_legacy.bin")

    def test_config_beside_the_source_is_copied_as_it_is(self):
        text = '{"time_step_limit": [0.0, Infinity],  ' + json.dumps(MAMBA_CONFIG)[1:]
        source = self.source("mamba.bin", config=text, generation_config={"eos_token_id": 3})
        self.check("mamba.bin", source=source)
        self.assertEqual((self.target / "config.json").read_text(), text)
        self.assertEqual(json.loads((self.target / "generation_config.json").read_text()), {"eos_token_id": 3})

    def test_config_of_another_model_is_refused(self):
        for field, value, problem in (
                ("n_layer", 3, "n_layer is 3, but the tensors have 2"), ("d_model", 9, "d_model is 9, but"),
                ("vocab_size", 25, r"vocab_size is 32 \(padded\), but"), ("n_layer", "2", "n_layer is '2', expected"),
                ("ssm_cfg", {"layer": "Mamba2"}, "of a 'mamba2' model, but the tensors are of a mamba"),
                ("model_type", "gpt2", "of a 'gpt2' model")):
            self.assert_refused(problem, self.source("mamba.bin", config={**MAMBA_CONFIG, field: value}))
        self.assert_refused("neither model_type nor", self.source("mamba.bin", config={}))
        self.assert_refused("not JSON", self.source("mamba.bin", config="[" * 100_000))
        self.assert_refused("not a JSON object", self.source("mamba.bin", config="[]"))

    def test_a_config_that_says_untied_keeps_both_names(self):
        source = self.source("mamba.bin", config={**MAMBA_CONFIG, "tie_embeddings": False})
        expected = {**EXPECTED["mamba.bin"], "lm_head.weight": EXPECTED["mamba.bin"]["backbone.embedding.weight"]}
        self.check("mamba.bin", source=source, expected=expected)

    def test_two_heads_that_a_config_calls_one_are_both_written(self):
        source = self.source("mamba_untied.bin", config=MAMBA_CONFIG)
        _, notes = self.check("mamba_untied.bin", source=source)
        self.assertIn("lm_head.weight has other values", notes)

    def test_a_config_that_says_untied_wants_two(self):
        config = {**MAMBA_CONFIG, "tie_embeddings": False}
        self.source("mamba_untied.bin", config=config)
        (self.folder / "source" / "config.json").write_text(json.dumps({**config, "n_layer": 1, "vocab_size": 24}))
        self.assert_refused("only one of the two", self.source("mamba_bf16.bin"))

    def test_wrappers_and_parts_of_training_are_taken_off(self):
        _, notes = self.check("mamba_parameters.bin")
        self.assertIn("took the part 'model_state_dict'", notes)
        self.assertIn("_orig_mod.module.", notes)

    def test_a_model_without_its_head_gets_the_usual_names(self):
        _, notes = self.check("mamba_headless.bin")
        self.assertIn("backbone.", notes)

    def shards(self, **index):
        """A folder of two shards and their index, as Hugging Face writes them."""
        folder = self.folder / "shards"
        folder.mkdir(exist_ok=True)
        places = {}
        for i in range(2):
            name = f"pytorch_model-0000{i + 1}-of-00002.bin"
            shutil.copy(DATA / f"mamba_shard_{i}.bin", folder / name)
            places.update({tensor: name for tensor in EXPECTED[f"mamba_shard_{i}.bin"]})
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {**places, **index}}))
        (folder / "training_args.bin").write_bytes(b"x")
        return folder

    def test_shards_become_one_file(self):
        expected = {**EXPECTED["mamba_shard_0.bin"], **EXPECTED["mamba_shard_1.bin"]}
        self.check("shards", source=self.shards() / "pytorch_model.bin.index.json", expected=expected)

    def test_a_folder_brings_its_config_and_tokenizer(self):
        folder = self.shards()
        config = {"d_model": 8, "n_layer": 1, "vocab_size": 12, "pad_vocab_size_multiple": 1, "ssm_cfg": {"d_state": 4}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer(11)))
        (folder / "generation_config.json").write_text("{}")
        self.convert(folder)
        self.assertEqual(json.loads((self.target / "config.json").read_text()), config)
        self.assertTrue((self.target / "tokenizer.json").is_file())
        self.assertTrue((self.target / "generation_config.json").is_file())

    def test_a_folder_of_one_file_of_any_name(self):
        folder = self.folder / "one"
        folder.mkdir()
        shutil.copy(DATA / "mamba.bin", folder / "model.pt")
        (folder / "optimizer.pt").write_bytes(b"x")
        self.check("mamba.bin", source=folder)
        shutil.rmtree(self.target)
        shutil.copy(DATA / "mamba.bin", folder / "other.pt")
        self.assert_refused("has 2 files of weights", folder)

    def test_a_folder_of_safetensors_needs_no_conversion(self):
        (self.folder / "model.safetensors").write_bytes(b"x")
        self.assert_refused("has safetensors already", self.folder)

    def test_indices_that_do_not_fit_are_refused(self):
        self.assert_refused("'lm_head.weight' is not in its shard",
                            self.shards(**{"lm_head.weight": "pytorch_model-00001-of-00002.bin"}))
        for place in ("../x.bin", "", 7, ".."):
            self.assert_refused("expected a file of the same folder", self.shards(**{"lm_head.weight": place}))
        self.assert_refused("is not there", self.shards(**{"lm_head.weight": "none.bin"}))
        folder = self.shards()
        shutil.copy(DATA / "mamba_shard_0.bin", folder / "pytorch_model-00002-of-00002.bin")
        self.assert_refused("is in another shard too", folder)
        for text in ("[", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'):
            (folder / "pytorch_model.bin.index.json").write_text(text)
            self.assert_refused("is no index", folder)

    def test_groups_of_mamba2_come_from_its_config(self):
        source = self.source("mamba2_groups.bin", config=MAMBA2_CONFIG)
        config, _ = self.check("mamba2_groups.bin", source=source)
        self.assertEqual(config, MAMBA2_CONFIG)
        shutil.rmtree(self.target)
        wrong = {**MAMBA2_CONFIG, "ssm_cfg": {"layer": "Mamba2", "d_state": 8}}
        self.assert_refused("1 groups of state size 8, but the tensors have 16",
                            self.source("mamba2_groups.bin", config=wrong))

    def test_a_hybrid_of_mamba2_and_attention_keeps_its_config(self):
        told = json.loads((HYBRID / "config.json").read_text())
        config, _ = self.check("mamba2_hybrid.bin", source=self.source("mamba2_hybrid.bin", config=told))
        self.assertEqual(config, told)

    def test_the_config_of_a_hybrid_must_agree_with_its_tensors(self):
        told = json.loads((HYBRID / "config.json").read_text())
        self.assert_refused("put its config.json beside", DATA / "mamba2_hybrid.bin")
        for wrong, message in (
                ({"attn_layer_idx": [1]}, "attn_layer_idx is [1], but the tensors have attention in [0]"),
                ({"attn_layer_idx": None}, "attn_layer_idx is [], but"),
                ({"attn_layer_idx": 7}, "attn_layer_idx is 7, but"),
                ({"attn_cfg": {}}, "attn_cfg tells None heads"),
                ({"attn_cfg": {**told["attn_cfg"], "num_heads_kv": 2}}, "4 heads (2 of keys and values)"),
                ({"attn_cfg": {**told["attn_cfg"], "num_heads": 0}}, "but the tensors have 36 outputs"),
                ({"attn_cfg": {**told["attn_cfg"], "head_dim": 12}}, "of width 12")):
            self.assert_refused(re.escape(message), self.source("mamba2_hybrid.bin", config={**told, **wrong}))

    def test_tokenizer(self):
        source = self.source("mamba.bin", tokenizer=tokenizer(23))
        self.check("mamba.bin", source=source)
        self.assertEqual(json.loads((self.target / "tokenizer.json").read_text()), tokenizer(23))
        shutil.rmtree(self.target)
        for other in (self.folder / "t", self.folder / "t" / "tokenizer.json"):
            (self.folder / "t").mkdir(exist_ok=True)
            (self.folder / "t" / "tokenizer.json").write_text(json.dumps(tokenizer(2)))
            self.check("mamba.bin", "--tokenizer", str(other), source=source)
            self.assertEqual(json.loads((self.target / "tokenizer.json").read_text()), tokenizer(2))
            shutil.rmtree(self.target)
        self.assert_refused("has token 24, but the model has 24 rows",
                            self.source("mamba.bin", tokenizer=tokenizer(24)))
        self.assert_refused("no such file", source, "--tokenizer", str(self.folder))
        (self.folder / "t" / "tokenizer.json").write_text(json.dumps(tokenizer(23)))
        self.check("h3.pt", *HEADS, "--tokenizer", str(self.folder / "t"))
        self.assertEqual(json.loads((self.target / "tokenizer.json").read_text()), tokenizer(23))

    def test_unknown_and_missing_tensors_are_named(self):
        entries = read_entries(DATA / "mamba.bin")
        for old, new, problem in (
                (b"layers.0.mixer.D", b"layers.0.mixer.E", "changed.bin: tensor 'backbone.layers.0.mixer.D' is miss"),
                (b"lm_head.weight", b"lm_heap.weight", "'lm_heap.weight' does not belong .*--drop lm_heap.weight")):
            pickled = entries["data.pkl"].replace(old, new)
            path = write_archive(self.folder / "changed.bin", {**entries, "data.pkl": pickled})
            self.assert_refused(problem, path)
        self.assert_refused("'backbone.norm_f.weight' is missing", DATA / "mamba.bin", "--drop", "*.norm_f.*")
        self.assert_refused("no tensor 'x' to drop", DATA / "mamba.bin", "--drop", "x")
        self.check("mamba.bin", "--drop", "lm_head.weight")

    def test_a_head_that_stands_for_the_embedding(self):
        _, notes = self.check("mamba.bin", "--drop", "backbone.embedding.weight")
        self.assertIn("lm_head.weight is written as backbone.embeddings.weight", notes)

    def test_a_gap_in_the_layers(self):
        self.assert_refused(r"'backbone.layers.0\S+ is missing", DATA / "mamba.bin", "--drop", "backbone.layers.0.*")

    def test_a_family_that_is_not_the_files(self):
        self.assert_refused("missing", DATA / "mamba.bin", "--family", "h3")
        self.check("mamba.bin", "--family", "mamba")

    def test_deflated_archives_and_old_ones_without_byte_order(self):
        entries = read_entries(DATA / "mamba.bin")
        del entries["byteorder"]
        path = write_archive(self.folder / "deflated.bin", entries, zipfile.ZIP_DEFLATED)
        self.check("mamba.bin", source=path)

    def test_the_other_byte_order_is_refused(self):
        entries = {**read_entries(DATA / "mamba.bin"), "byteorder": b"big"}
        self.assert_refused("byte order b'big'", write_archive(self.folder / "big.bin", entries))

    def test_other_files_are_refused_with_advice(self):
        for content, problem in ((b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
                                 (b"\x10\0\0\0\0\0\0\0{}", "safetensors already"), (b"<!DOCTYPE html>", "begins with"),
                                 (b"PK\x03\x04", "cannot be read")):
            path = self.folder / "other.bin"
            path.write_bytes(content)
            self.assert_refused(problem, path)
        (self.folder / "other.bin").unlink()
        self.assert_refused("has no pytorch_model.bin", self.folder)
        self.assert_refused("cannot be opened", self.folder / "missing.bin")
        os.mkfifo(self.folder / "pipe")
        self.assert_refused("not a regular file", self.folder / "pipe")
        self.assert_refused("expected a dictionary", write_archive(
            self.folder / "list.bin", {"data.pkl": b"\x80\x02]."}))
        self.assert_refused("no model that is known", write_archive(
            self.folder / "one.bin", {**read_entries(DATA / "mamba.bin"), "data.pkl": b"\x80\x02}X\1\0\0\0a" + (
                b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"1"
                b"X\3\0\0\0cpuK\x08tQK\0K\x08\x85K\1\x85\x89)tRs.")}))

    def test_an_existing_target_is_kept(self):
        self.target.mkdir()
        self.convert(DATA / "mamba.bin")
        before = sorted(path.name for path in self.target.iterdir())
        with self.assertRaisesRegex(ConvertError, "not empty"):
            self.convert(DATA / "mamba.bin")
        self.assertEqual(sorted(path.name for path in self.target.iterdir()), before)
        with self.assertRaisesRegex(ConvertError, "mkdir -p"):
            self.convert(DATA / "mamba.bin", target=self.folder / "a" / "b")

    def test_nothing_is_left_when_writing_ends_early(self):
        for problem, raised in ((OSError(errno.ENOSPC, "no space left"), ConvertError),
                                (KeyboardInterrupt, KeyboardInterrupt)):
            with mock.patch("os.fsync", side_effect=problem):
                with self.assertRaises(raised):
                    self.convert(DATA / "mamba.bin")
            self.assert_nothing_written()
        with mock.patch("shutil.disk_usage", return_value=mock.Mock(free=6623)):
            self.assert_refused("needs 6624 bytes, but 6623 are free", DATA / "mamba.bin")

    def test_nothing_is_left_when_the_weights_turn_out_damaged(self):
        content = bytearray((DATA / "mamba.bin").read_bytes())
        with zipfile.ZipFile(DATA / "mamba.bin") as archive:
            place = archive.infolist()[-4].header_offset + 500
        content[place] ^= 0xFF
        path = self.folder / "damaged.bin"
        path.write_bytes(content)
        self.assert_refused("damaged", path)


class CommandLineTest(ConvertCase):
    def run_tool(self, *arguments):
        return subprocess.run([sys.executable, "-B", str(TOOL / "convert.py"), *map(str, arguments)],
                              capture_output=True, text=True, timeout=60)

    def test_help_teaches(self):
        done = self.run_tool("--help")
        self.assertEqual(done.returncode, 0)
        for word in ("examples:", "--tokenizer", "--allow-foreign-objects", "scripts/serve", "Exit status"):
            self.assertIn(word, done.stdout)

    def test_exit_statuses(self):
        done = self.run_tool(DATA / "mamba.bin", self.target)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertIn("22 tensors", done.stderr)
        done = self.run_tool(DATA / "mamba.bin", self.target)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^convert: [^\n]*not empty[^\n]*\n$")
        self.assertEqual(self.run_tool("--family", "gpt").returncode, 2)

    def test_what_the_system_refuses_is_told_in_one_line(self):
        index = self.folder / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": 300 * "x"}}))
        for source in (self.folder / (300 * "x"), index):
            done = self.run_tool(source, self.target)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, r"^convert: [^\n]*: File name too long\n$")
        self.assert_nothing_written()

    def test_quiet(self):
        done = self.run_tool(DATA / "mamba.bin", self.target, "--quiet")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_the_converter_imports_the_standard_library_only(self):
        ours = {path.stem for path in TOOL.glob("*.py")}
        for path in TOOL.glob("*.py"):
            if path.name == "make_test_data.py":
                continue
            for line in path.read_text().splitlines():
                words = line.split()
                if words[:1] in (["import"], ["from"]):
                    name = words[1].split(".")[0].rstrip(",")
                    self.assertIn(name, sys.stdlib_module_names | ours, f"{path.name}: {line}")
                    self.assertNotIn(name, ("pickle", "marshal", "shelve"), path.name)

    def test_the_readme_names_real_options(self):
        text = pathlib.Path(TOOL / "README.md").read_text()
        known = self.run_tool("--help").stdout
        for option in set(word.strip("`.,:;)(") for word in text.split() if word.strip("`(").startswith("--")):
            if option not in ("--model",):
                self.assertIn(option, known)


if __name__ == "__main__":
    unittest.main()
