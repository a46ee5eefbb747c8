#!/usr/bin/env python3
"""Writes tests/golden/tokenizers: small tokenizers and what they must give.

The expected ids and texts come from Hugging Face's `tokenizers`, the sampler's
from the logits processors of `transformers`. The tokenizers have the shape of
the well-known ones but are trained here, on text that is made here, so that
nothing of others is copied.

  pip install tokenizers transformers torch
  tools/golden/make_tokenizer_golden.py
  tools/golden/make_tokenizer_golden.py --compare real/tokenizer.json PROGRAM

The second form writes nothing: it compares PROGRAM (which reads one text per
line in hexadecimal and prints its ids) on every text with a real tokenizer.
"""

import argparse
import copy
import json
import pathlib
import random
import subprocess
import sys
import unicodedata

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

FOLDER = pathlib.Path(__file__).parents[2] / "tests/golden/tokenizers"
END, PADDING = "<|endoftext|>", "<|padding|>"
# These bytes occur in no UTF-8; GPT-NeoX has no symbols for them.
NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}

SENTENCES = """
The quick brown fox jumps over the lazy dog, and they're both happy that it's spring.
We've seen that I'll go where you'd rather not; she said: "don't worry, I'm fine!"
A state-space model reads a sequence of 1,000,000 tokens with memory that does not grow.
Der Fuchs läuft über die Wiese, während die Sonne hinter den Bäumen aufgeht.
Größe, Straße, Übermut und Äpfel: 12,50 € für 3 Stück.
Le garçon a mangé une crêpe près de la forêt où l'été était très chaud.
El niño pequeño corrió mañana por la calle; ¿cómo estás? ¡Muy bien!
Os cães não são maus, são só crianças com muita atenção.
Il cane è già lì, perché la città è più bella così.
Быстрая лиса прыгает через ленивую собаку и бежит домой к своим детям.
Київ — столиця України, її мешканці люблять своє місто.
Η γρήγορη αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
敏捷的棕色狐狸跳过了懒狗。今天天气很好,我们去公园吧。
素早い茶色の狐がのろまな犬を飛び越える。カタカナとひらがな。
빠른 갈색 여우가 게으른 개를 뛰어넘는다. 오늘은 날씨가 좋습니다.
الثعلب البني السريع يقفز فوق الكلب الكسول، واليوم جميل جدا.
השועל החום המהיר קופץ מעל הכלב העצלן.
तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ
Con cáo nâu nhanh nhẹn nhảy qua con chó lười biếng ở Việt Nam.
Hızlı kahverengi tilki tembel köpeğin üzerinden atlar; ığüşöç İstanbul.
Příliš žluťoučký kůň úpěl ďábelské ódy, zażółć gęślą jaźń.
for (int i = 0; i < 10; ++i) { sum += values[i] * weights[i]; }
    if x is None:\n        return {"key": [1, 2, 3], 'other': 0.5e-3}
#include <vector>\nstd::vector<int> make(size_t n) { return std::vector<int>(n, -1); }
SELECT name, COUNT(*) FROM users WHERE id >= 42 GROUP BY name ORDER BY 2 DESC;
https://example.org/path/to/page?query=state+space&lang=en#top — see also www.example.com
def forward(self, x):\n\t\"\"\"One step.\"\"\"\n\treturn self.norm(x) @ self.weight.T
""".strip().split("\n")
SENTENCES = [sentence.replace("\\n", "\n").replace("\\t", "\t")
             for sentence in SENTENCES]

# White_Space, and characters that look like it but are not.
SPACES = [chr(c) for c in (
    *range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
    0x2028, 0x2029, 0x202F, 0x205F, 0x3000)]
NOT_SPACES = [chr(c) for c in (
    0x1C, 0x1D, 0x1E, 0x1F, 0x180E, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF,
    0x00AD, 0x034F)]


def made_words(chance, count):
    """Words of syllables, some of them far more common than others."""
    syllables = [
        "ta ri mo en st er lo in qu ak pre ing ed tion al ve ster un".split(),
        "на ро сть по ли ка де тель ный ов ра при ст".split(),
        "σε λο μα τι κα ρη νο πε".split(),
        "é è ç ão ñe ü ß å ø ž č ł".split(),
    ]
    words = ["".join(chance.choices(chance.choice(syllables),
                                    k=chance.randint(1, 4)))
             for _ in range(400)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return chance.choices(words, weights, k=count)


def training_text():
    chance = random.Random(1)
    lines = SENTENCES * 6
    for _ in range(600):
        lines.append(" ".join(made_words(chance, 10)) + chance.choice(".?!"))
    return lines


def byte_symbols():
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def symbols_in_utf8():
    """The 243 symbols of bytes that can occur."""
    names = {symbol: byte for byte, symbol in enumerate(symbols_by_byte())}
    return [s for s in byte_symbols() if names[s] not in NEVER_IN_UTF8]


def symbols_by_byte():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in range(256)]
    for place, byte in enumerate(b for b in range(256) if b not in printable):
        symbols[byte] = chr(256 + place)
    return symbols


def byte_level(model):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def gpt_neox_like():
    tokenizer = byte_level(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=1500, special_tokens=[END, PADDING], show_progress=False,
        initial_alphabet=symbols_in_utf8()))
    tokenizer.add_tokens([AddedToken(" " * length, normalized=True)
                          for length in range(24, 1, -1)])
    return json.loads(tokenizer.to_str())


def gpt2_like():
    tokenizer = byte_level(models.BPE())
    tokenizer.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=1400, show_progress=False, initial_alphabet=byte_symbols()))
    tokenizer.add_special_tokens([END])
    content = json.loads(tokenizer.to_str())
    # Older files write a merge as one string, "none" as "", and no type.
    model = content["model"]
    model["merges"] = [" ".join(merge) for merge in model["merges"]]
    model["continuing_subword_prefix"] = model["end_of_word_suffix"] = ""
    del model["type"]
    return content


def plain_bytes():
    vocabulary = {symbol: byte for byte, symbol in enumerate(symbols_by_byte())}
    tokenizer = byte_level(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.post_processor = None
    tokenizer.add_special_tokens([END])
    return json.loads(tokenizer.to_str())


def symbols():
    words = [END, "<noise>", "<copy>", *"abcdefghijklmnop", "0", "1", "Größe"]
    tokenizer = Tokenizer(models.WordLevel(
        {word: id for id, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([END])
    return json.loads(tokenizer.to_str())


def added(id, content, **flags):
    token = dict(id=id, content=content, single_word=False, lstrip=False,
                 rstrip=False, normalized=False, special=False)
    return token | flags


def variants():
    """Other settings: name to (base, JSON merge patch)."""
    splitter = {"type": "ByteLevel", "add_prefix_space": True,
                "trim_offsets": True, "use_regex": True}
    tokens = [
        added(1400, END, special=True),
        added(1401, "the", single_word=True, normalized=True),
        added(1402, "[L]", lstrip=True),
        added(1403, "[R]", rstrip=True, normalized=True),
        added(1404, "[LR]", lstrip=True, rstrip=True, special=True),
        added(1405, "[L]ong", lstrip=True),
        added(1406, "α\u0301", normalized=True),
        added(1407, "e\u0301_", normalized=False),
        added(1408, "\n", normalized=False),
        added(1409, "  ", normalized=True, special=True),
    ]
    return {
        "prefix_space": ("gpt2_like", {"pre_tokenizer": splitter}),
        "one_word": ("gpt2_like",
                     {"pre_tokenizer": splitter | {"add_prefix_space": False,
                                                   "use_regex": False}}),
        "prefix_one_word": ("gpt_neox_like", {"pre_tokenizer": {
            **dict.fromkeys(splitter), "type": "Sequence",
            "pretokenizers": [splitter | {"use_regex": False}]},
            "normalizer": {"type": "Sequence",
                           "normalizers": [{"type": "NFC"}]}}),
        "added_tokens": ("gpt2_like", {"added_tokens": tokens}),
        "added_tokens_nfc": ("gpt2_like", {"added_tokens": tokens,
                                           "normalizer": {"type": "NFC"}}),
        "whole_words": ("gpt2_like", {"model": {"ignore_merges": True}}),
        "template": ("gpt2_like", {"post_processor": {
            **dict.fromkeys(splitter), "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {}}}),
    }


def merge_patch(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def script_texts(chance):
    """Some characters of every block of Unicode that has any."""
    for block in range(0, 0x110000, 0x80):
        if 0xD800 <= block < 0xE000:
            continue
        huge = (0x3400 <= block < 0xD7A4 or 0x17000 <= block < 0x18D00 or
                0x20000 <= block < 0x32000 or 0xE000 <= block < 0xF900 or
                block >= 0xF0000 or 0x12000 <= block < 0x17000)
        if huge and block % 0x800:
            continue
        assigned = [chr(c) for c in range(block, block + 0x80)
                    if unicodedata.category(chr(c)) != "Cn"]
        if not assigned:
            continue
        text = "".join(chance.choice(assigned) + chance.choice(["", "", " "])
                       for _ in range(12))
        yield text
        yield chance.choice(SENTENCES)[:9] + text[:4] + "1's" + text[4:8]


def space_texts(chance):
    for space in SPACES + NOT_SPACES:
        for form in ("a{0}b", "{0}", " {0}a", "{0} a", "{0}{0}x", "a{0}{0}",
                     "1{0}{0}{0}2", "'s{0}'s", "\n{0}\n", "a {0}  b"):
            yield form.format(space)
    for length in (*range(1, 30), 47, 48, 49, 50, 72, 73, 120):
        for form in ("{}", "a{}b", "{}x", "x{}", "\t{}x", "x{}\ny"):
            yield form.format(" " * length)
    for _ in range(200):
        yield "".join(chance.choice([" ", " ", "\n", "\t", "\r\n", "\u00a0",
                                     "\u3000", "x", "1", "."])
                      for _ in range(chance.randint(2, 20)))


def contraction_texts():
    for end in ("s", "t", "re", "ve", "m", "ll", "d", "S", "T", "RE", "Ve",
                "M", "LL", "D", "x", "", "st", "rev"):
        for form in ("it'{}", "it '{}", "'{}", " '{} 1", "it\u2019{}",
                     "it''{}'{}", "1'{}", "!'{}?", "\u00e9'{} it"):
            yield form.format(end, end)


def normalization_texts(chance):
    composed = [chr(c) for c in range(0x110000)
                if unicodedata.decomposition(chr(c)).split(" ")[0][:1] not in
                ("", "<")]
    for start in range(0, len(composed), 12):
        part = composed[start:start + 12]
        if start % 36 == 0:
            yield "".join(part)
        yield unicodedata.normalize("NFD", "".join(part))
    marks = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c))]
    for _ in range(150):
        yield "".join(chance.choice("aeiouAEOsd ᄀ가कא\u0915") +
                      "".join(chance.choices(marks, k=chance.randint(0, 4)))
                      for _ in range(4))
    jamo = ["ᄀ", "ᄒ", "ᅡ", "ᅵ", "ᆨ", "ᇂ", "가", "힣", "각", " ", "ᄓ", "ᆧ", "a"]
    for _ in range(60):
        yield "".join(chance.choices(jamo, k=8))


def added_token_texts(chance):
    parts = [END, PADDING, "<|endoftext|", "|endoftext|>", "<|", "|>", "<|end",
             " ", "  ", "   ", "\n", "a", "the", " the", "then", "[L]", "[R]",
             "[LR]", "[L]ong", "[", "]", "é", "ά", "e\u0301", "α\u0301",
             "_", "1", ".", "\u00a0", "the\u0301"]
    yield from parts
    for _ in range(300):
        yield "".join(chance.choices(parts, k=chance.randint(2, 8)))


def other_texts(chance):
    yield ""
    yield from SENTENCES
    for code in [*range(0x20), *range(0x7F, 0xA1)]:
        yield f"a{chr(code)}b {chr(code)}{chr(code)} c"
    yield from ("👩‍👩‍👧‍👦", "🇩🇪🇫🇷🇯🇵", "👍🏽👍🏿", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️‍🔥 1️⃣ #️⃣",
                "a👩‍🚀b", "🙂🙂🙂", "☕️ é☕︎", "\U0001FAE8\U0001FACF")
    yield from ("٠١٢٣٤٥٦٧٨٩", "०१२ ३४", "一二三 十百千", "Ⅷ ⅷ ½ ² ₃ ①②", "１２３",
                "𝟘𝟙𝟚 𝒜𝓑ℂ", "𒐀𒐁", "1,234.56e-7", "0x1F 0b10 1_000")
    yield from ("\ufffd", "\ufffe\uffff", "\U0010FFFF", "\ue000\U000F0000",
                "\u0000", "\u0000\u0000a", "\u200d\u200d", "\ufeffa")
    for unit, count in (("a", 400), ("ab", 200), ("the ", 80), (" a", 150),
                        ("é", 150), ("e\u0301", 120), ("1", 300), ("\n", 150),
                        ("!", 200), ("中", 100), ("👍", 80), ("\t ", 90),
                        ("the", 120), (" \u00a0", 70)):
        yield unit * count
    pool = "".join(SENTENCES) + "".join(SPACES) + "'’\u0301\u0308"
    for _ in range(250):
        yield "".join(chance.choices(pool, k=chance.randint(3, 25)))
    for _ in range(100):
        yield " ".join(made_words(chance, 6))


def all_texts():
    chance = random.Random(2)
    texts = [*other_texts(chance), *script_texts(chance), *space_texts(chance),
             *contraction_texts(), *normalization_texts(chance),
             *added_token_texts(chance)]
    return list(dict.fromkeys(texts))


def symbol_texts():
    chance = random.Random(3)
    words = ["a", "b", "p", "0", "1", "<noise>", "<copy>", END, "Größe", "ab",
             "A", "z", "Gro\u0308ße"]
    yield from ("", " ", "a", " a", "a ", "a\u3000b\u0085c", "a\u200bb")
    for _ in range(150):
        yield "".join(chance.choices(words, [9] * 9 + [1] * 4)[0] +
                      chance.choice([" ", " ", "  ", "\n", "\t", "\u00a0"])
                      for _ in range(chance.randint(1, 8)))


def encode(tokenizer, text, parse_special_tokens):
    tokenizer.encode_special_tokens = not parse_special_tokens
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except Exception:  # a word that the vocabulary lacks
        return None


def is_same_in_all_versions(text):
    """`tokenizers` knows no combining mark that is younger than Unicode 9."""
    return (normalizers.NFC().normalize_str(text) ==
            unicodedata.normalize("NFC", text))


def cases(content, places, texts):
    """What one tokenizer must give; results that repeat are left out."""
    tokenizer = Tokenizer.from_str(json.dumps(content))
    if content["normalizer"]:
        places = [p for p in places if is_same_in_all_versions(texts[p])]
    result = {"texts": places, "ids": [], "with_special": {}, "decoded": {}}
    for place in places:
        text = texts[place]
        plain = encode(tokenizer, text, False)
        special = encode(tokenizer, text, True)
        result["ids"].append(plain)
        if special != plain:
            result["with_special"][str(place)] = special
        if special is None:
            continue
        decoded = tokenizer.decode(special, skip_special_tokens=False)
        if decoded != text:
            result["decoded"][str(place)] = decoded
    return result


def random_id_cases(content):
    """Ids that no text gives: their bytes are mostly broken UTF-8."""
    chance = random.Random(4)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    result = []
    for _ in range(100):
        ids = [chance.randrange(tokenizer.get_vocab_size()) if
               chance.random() < 0.3 else chance.randrange(2, 245)
               for _ in range(chance.randint(1, 16))]
        result.append([ids, tokenizer.decode(ids, skip_special_tokens=False)])
    return result


def broken_texts():
    """Bytes that are not UTF-8: hexadecimal, and where the first fault is."""
    chance = random.Random(5)
    result = []
    while len(result) < 200:
        data = bytearray("aé中👍\u0800\uffff".encode() * chance.randint(1, 3))
        for _ in range(chance.randint(1, 3)):
            change = chance.randrange(3)
            place = chance.randrange(len(data))
            if change == 0:
                data[place] = chance.randrange(256)
            elif change == 1:
                del data[place]
            else:
                data[place:place] = chance.choice(
                    [b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xff",
                     b"\xe0\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xc2", b"\x80"])
        try:
            data.decode()
        except UnicodeDecodeError as error:
            result.append([data.hex(), error.start,
                           data.decode(errors="replace")])
    return result


def sampler_cases():
    """What may be drawn, and how probable it is, by `transformers`."""
    import torch
    from transformers.generation import logits_process as process
    torch.manual_seed(6)
    chance = random.Random(6)
    result = []
    while len(result) < 60:
        size = chance.choice([5, 20, 40, 120])
        # Multiples of 1/64 have ties, and survive JSON exactly.
        logits = torch.round(torch.randn(1, size) * 3 * 64) / 64
        settings = {
            "temperature": chance.choice([0.25, 0.5, 1.0, 1.5, 3.0]),
            "top_k": chance.choice([0, 0, 1, 3, 10, 1000]),
            "top_p": chance.choice([1.0, 1.0, 0.1, 0.5, 0.9, 0.99]),
            "min_p": chance.choice([0.0, 0.0, 0.02, 0.3, 1.0]),
            "repetition_penalty": chance.choice([1.0, 1.0, 1.5, 0.5]),
        }
        seen = chance.sample(range(size), chance.randint(1, 5))
        steps = []
        if settings["repetition_penalty"] != 1:
            steps.append(process.RepetitionPenaltyLogitsProcessor(
                settings["repetition_penalty"]))
        steps.append(process.TemperatureLogitsWarper(settings["temperature"]))
        if settings["top_k"]:
            steps.append(process.TopKLogitsWarper(settings["top_k"]))
        if settings["top_p"] < 1:
            steps.append(process.TopPLogitsWarper(settings["top_p"]))
        if settings["min_p"]:
            steps.append(process.MinPLogitsWarper(settings["min_p"]))
        scores = logits.clone()
        for step in steps:
            before = scores
            scores = step(torch.tensor([seen]), scores)
            if isinstance(step, process.TopPLogitsWarper):
                least = min(before[scores > -float("inf")])
                is_tie = ((before == least) & (scores != before)).any()
        if settings["top_p"] < 1 and is_tie:
            continue  # which of equals survives top_p is not defined there
        probabilities = torch.softmax(scores, -1)[0].tolist()
        kept = [id for id in range(size) if scores[0, id] > -float("inf")]
        result.append({
            **settings, "logits": logits[0].tolist(), "seen": seen,
            "ids": kept,
            "probabilities": [round(probabilities[id], 7) for id in kept]})
    return result


def compare(path, program):
    """Reports the first differences between `program` and a real tokenizer."""
    tokenizer = Tokenizer.from_file(path)
    texts = [text for text in all_texts() if tokenizer.normalizer is None or
             is_same_in_all_versions(text)]
    texts += [f"a{chr(c)} {chr(c)}{chr(c)}1" for c in range(0x110000)
              if not 0xD800 <= c < 0xE000]
    given = "".join(text.encode().hex() + "\n" for text in texts)
    lines = subprocess.run([program, path], input=given, text=True, check=True,
                           capture_output=True).stdout.splitlines()
    differences = 0
    for text, line in zip(texts, lines, strict=True):
        expected = encode(tokenizer, text, False)
        if [int(id) for id in line.split()] != expected:
            differences += 1
            if differences <= 20:
                print(f"{text!r}: {line}, expected {expected}")
    print(f"{len(texts)} texts, {differences} differences")
    return differences != 0


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compare", nargs=2, metavar=("FILE", "PROGRAM"))
    arguments = parser.parse_args()
    if arguments.compare:
        sys.exit(compare(*arguments.compare))
    contents = {"gpt_neox_like": gpt_neox_like(), "gpt2_like": gpt2_like(),
                "plain_bytes": plain_bytes(), "symbols": symbols()}
    for name, content in contents.items():
        write(name, content)
    texts = all_texts()
    everything = list(range(len(texts)))
    golden = {"texts": texts + list(symbol_texts()), "broken": broken_texts(),
              "random_ids": random_id_cases(contents["gpt2_like"]),
              "tokenizers": {}}
    golden["tokenizers"] = {
        "gpt_neox_like": cases(contents["gpt_neox_like"], everything, texts),
        "gpt2_like": cases(contents["gpt2_like"], everything[::2], texts),
        "plain_bytes": cases(contents["plain_bytes"], everything[::20], texts),
        "symbols": cases(contents["symbols"],
                         list(range(len(texts), len(golden["texts"]))),
                         golden["texts"]),
    }
    few = everything[::11] + everything[-329::2]
    for name, (base, patch) in variants().items():
        golden["tokenizers"][name] = {
            "base": base, "patch": patch,
            **cases(merge_patch(contents[base], patch), few, texts)}
    write("cases", golden)
    write("sampler_cases", sampler_cases())


if __name__ == "__main__":
    main()
