#!/usr/bin/env python3
"""What the formats of weights cost the models of model/zoo: `scripts/tables --formats` runs this.

    format_quality.py measure [--count N]    asks the server at $ENGRAM_SERVER, prints a JSON object
    format_quality.py table FILE...          makes README's table of such objects, the first one's format the
                                             measure of the others

Needs `engram` and `engram-eval` on the PATH. The perplexity is that of the chapters in held_out_chapters.txt (one a
line), which `mamba-english` was not trained on, each read from a zero state after a newline. The other models answer
prompts of the task that they were trained for, in every format the same.

`table` ends with 1 if int8 is worse than is promised: its perplexity by more than 0.5 %, or an accuracy below the 95 %
interval of what it is compared with.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

CHAPTERS = pathlib.Path(__file__).with_name("held_out_chapters.txt")
ENGLISH = "mamba-english"
COUNT = 5000
MOST_WORSE_PERCENT = 0.5
# Model: task, vocabulary, length.
TASKS = {
    **{model: ("induction-head", 20, 30) for model in (
        "s4d-induction", "h3-induction", "attention-induction", "mamba-induction-v20", "mamba2-induction")},
    **{model: ("associative-recall", 10, 20) for model in (
        "s4d-recall", "h3-recall", "attention-recall", "mamba-recall")},
    **{model: ("induction-head", 16, 256) for model in (
        "mamba-induction-t256", "mamba-induction", "h3-induction-t256", "attention-induction-t256")},
}


def run_json(*command):
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def perplexity(chapters):
    """Of a token, and how many there are."""
    logprobs = []
    for chapter in chapters:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("\n" + chapter)
            file.flush()
            tokens = run_json("engram", "score", "--model", ENGLISH, "--text-file", file.name, "--json")["tokens"]
        logprobs += [token["logprob"] for token in tokens[1:]]
    return math.exp(-math.fsum(logprobs) / len(logprobs)), len(logprobs)


def accuracy(model, count):
    task, vocabulary, length = TASKS[model]
    answers = run_json("engram-eval", "--model", model, "--task", task, "--vocabulary", str(vocabulary),
                       "--length", str(length), "--count", str(count), "--json")
    return {key: answers[key] for key in ("count", "right", "interval_low", "interval_high")}


def measure(options):
    chapters = CHAPTERS.read_text().splitlines(keepends=True)
    if options.count < COUNT:
        chapters = chapters[:2]
    found, tokens = perplexity(chapters)
    print(json.dumps({"perplexity": found, "tokens": tokens,
                      "accuracy": {model: accuracy(model, options.count) for model in TASKS}}))


def percent(accuracy):
    return f"{100 * accuracy['right'] / accuracy['count']:.2f}"


def markdown(rows):
    """The first row is the head; the first column is text, the others are numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))) + " |" for row in rows]
    rule = "| " + " | ".join("-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def worse_percent(found, exact):
    return 100 * (found["perplexity"] / exact["perplexity"] - 1)


def table(measured):
    """`measured`: by the name of the format."""
    exact, *others = measured.values()
    perplexities = [[f"`{ENGLISH}`", *measured],
                    ["perplexity of a token", *(f"{found['perplexity']:.3f}" for found in measured.values())],
                    ["% worse", "-", *(f"{round(worse_percent(found, exact), 2) + 0:.2f}" for found in others)]]
    accuracies = [["accuracy, %", *measured]]
    for model, (task, vocabulary, length) in TASKS.items():
        accuracies.append([f"`{model}`, {task.replace('-', ' ')}, {vocabulary} symbols, length {length}",
                           *(percent(found["accuracy"][model]) for found in measured.values())])
    count = exact["accuracy"][next(iter(TASKS))]["count"]
    return (f"What the formats of `--weights` cost the models of `model/zoo`: {exact['tokens']:,} tokens of chapters "
            "that `mamba-english` was not\ntrained on, and for each other model "
            f"{count:,} prompts, the same in every format.\n\n{markdown(perplexities)}\n\n{markdown(accuracies)}\n\n"
            f"Promised is that int8 makes the perplexity at most {MOST_WORSE_PERCENT} % worse, and leaves every accuracy "
            "within the 95 % interval of\nfloat32's. int4 is as it is.")


def broken_promises(measured):
    exact, int8 = next(iter(measured.values())), measured.get("int8")
    if int8 is None:
        return []
    broken = []
    if worse_percent(int8, exact) > MOST_WORSE_PERCENT:
        broken.append(f"int8's perplexity is {worse_percent(int8, exact):.2f} % worse, limit {MOST_WORSE_PERCENT} %")
    for model in TASKS:
        got, had = int8["accuracy"][model], exact["accuracy"][model]
        if got["right"] / got["count"] < had["interval_low"]:
            broken.append(f"int8's accuracy of {model} is {percent(got)} %, limit "
                          f"{100 * had['interval_low']:.2f} %, where float32's interval begins")
    return broken


def print_table(options):
    """The names of the files are those of the formats."""
    measured = {path.stem: json.loads(path.read_text()) for path in options.files}
    print(table(measured))
    broken = broken_promises(measured)
    if broken:
        sys.exit("\n".join(broken))


def read_options(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("measure")
    verb.add_argument("--count", type=int, default=COUNT, metavar="N",
                      help=f"prompts for each model ({COUNT}); fewer also read two chapters only")
    verb.set_defaults(run=measure)
    verb = verbs.add_parser("table")
    verb.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE", help="FORMAT.json, float32's first")
    verb.set_defaults(run=print_table)
    return parser.parse_args(words)


def main():
    options = read_options(sys.argv[1:])
    options.run(options)


if __name__ == "__main__":
    main()
