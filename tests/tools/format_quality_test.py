"""tools/quality/format_quality.py, with programs that tell numbers instead of asking a server."""
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/quality"))
import format_quality  # noqa: E402

# Each token of a chapter has a probability of a quarter, after a newline that has none.
ENGRAM = """#!/usr/bin/env python3
import json, math, sys
text = open(sys.argv[sys.argv.index("--text-file") + 1]).read()
assert text[0] == "\\n" and text.count("\\n") == 2, text
print(json.dumps({"tokens": [{"id": 0}] + [{"id": 1, "logprob": math.log(0.25)}] * 3}))
"""
EVAL = """#!/usr/bin/env python3
import json, sys
count = int(sys.argv[sys.argv.index("--count") + 1])
print(json.dumps({"count": count, "right": count - len(sys.argv[2]), "interval_low": 0.5, "interval_high": 1}))
"""


def measured(perplexity=20.0, right=90, low=0.85):
    accuracy = {"count": 100, "right": right, "interval_low": low, "interval_high": 0.95}
    return {"perplexity": perplexity, "tokens": 23682, "accuracy": {model: accuracy for model in format_quality.TASKS}}


class FormatQualityTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_verb(self, *words):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            options = format_quality.read_options(list(words))
            options.run(options)
        return printed.getvalue()

    def table_of(self, **formats):
        paths = []
        for name, found in formats.items():
            paths.append(self.folder / f"{name}.json")
            paths[-1].write_text(json.dumps(found))
        return self.run_verb("table", *map(str, paths))

    def test_every_model_of_the_zoo_is_measured(self):
        zoo = {path.parent.name for path in ROOT.glob("model/zoo/*/config.json")}
        self.assertEqual(zoo, {format_quality.ENGLISH, *format_quality.TASKS})

    def test_the_chapters_are_those_of_the_model_card(self):
        text = format_quality.CHAPTERS.read_text()
        self.assertEqual((text.count("\n"), len(text.encode())), (22, 87820))

    def test_it_measures_what_the_programs_tell(self):
        for name, program in (("engram", ENGRAM), ("engram-eval", EVAL)):
            (self.folder / name).write_text(program)
            (self.folder / name).chmod(0o755)
        with unittest.mock.patch.dict(os.environ, PATH=f"{self.folder}:{os.environ['PATH']}"):
            found = json.loads(self.run_verb("measure", "--count", "100"))
        self.assertAlmostEqual(found["perplexity"], 4)
        self.assertEqual(found["tokens"], 6)
        self.assertEqual(found["accuracy"]["h3-recall"]["right"], 100 - len("h3-recall"))

    def test_the_table_tells_each_format_beside_float32(self):
        text = self.table_of(f32=measured(), int8=measured(20.01), int4=measured(21, right=70))
        rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")]
                                                  for line in text.splitlines() if line.startswith("|"))}
        self.assertEqual(rows["perplexity of a token"], ["20.000", "20.010", "21.000"])
        self.assertEqual(rows["% worse"], ["-", "0.05", "5.00"])
        self.assertEqual(rows["`h3-recall`, associative recall, 10 symbols, length 20"], ["90.00", "90.00", "70.00"])
        self.assertIn("23,682 tokens", text)

    def test_a_perplexity_worse_than_promised_of_int8_is_told(self):
        with self.assertRaisesRegex(SystemExit, "int8's perplexity is 1.00 % worse, limit 0.5 %"):
            self.table_of(f32=measured(), int8=measured(20.2))

    def test_an_accuracy_that_int8_loses_is_told(self):
        with self.assertRaisesRegex(SystemExit, "int8's accuracy of h3-recall is 84.00 %, limit 85.00 %"):
            self.table_of(f32=measured(), int8=measured(right=84))

    def test_the_readme_has_a_table_of_every_format_and_model(self):
        text = (ROOT / "README.md").read_text()
        text = text[text.index("<!-- formats:begin -->"):text.index("<!-- formats:end -->")]
        for model in format_quality.TASKS:
            self.assertIn(f"\n| `{model}`, ", text)
        self.assertRegex(text, r"\| +f32 \| +bf16 \| +f16 \| +int8 \| +int4 \|")


if __name__ == "__main__":
    unittest.main()
