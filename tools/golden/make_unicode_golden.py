#!/usr/bin/env python3
"""Writes what Unicode is to Hugging Face's `tokenizers`: model/unicode_tables.cc and a golden file.

Ids must not depend on a machine's libraries, so that Engram has tables of its own. They are not taken from a version of
Unicode: the reference is asked about every code point, since its parts stand on several versions. The golden file asks
the same questions in another way (the ByteLevel splitter instead of regular expressions, and so on).

  pip install tokenizers==0.23.3
  tools/golden/make_unicode_golden.py
"""

import json
import pathlib
import random
import unicodedata  # only for a mark of each combining class, all of them older than Unicode 9

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

ROOT = pathlib.Path(__file__).parents[2]
TABLES = ROOT / "model/unicode_tables.cc"
GOLDEN = ROOT / "tests/golden/tokenizers/unicode.json"

CHARACTERS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
LETTER, NUMBER, WHITE_SPACE, WORD = 1, 2, 4, 8
HANGUL = range(0xAC00, 0xAC00 + 11172)

NFC, NFD = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str


def matching(pattern):
    """The characters that a regular expression of one character takes."""
    splitter = pre_tokenizers.Split(Regex(pattern), "isolated")
    found = set()
    for character in CHARACTERS:
        # With another such character beside it, one that is taken stands alone.
        if len(splitter.pre_tokenize_str(character * 2)) == 2:
            found.add(character)
    return found


def single_word_probe():
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "[X]": 1}, unk_token="?"))
    tokenizer.add_tokens([AddedToken("[X]", single_word=True, normalized=False)])
    return lambda text: 1 not in tokenizer.encode(text, add_special_tokens=False).ids


# --- the tables ---


def kinds():
    letters, numbers, spaces = (matching(p) for p in (r"\p{L}", r"\p{N}", r"\s"))
    is_word = single_word_probe()
    found = {}
    for character in CHARACTERS:
        found[character] = (LETTER * (character in letters) | NUMBER * (character in numbers) |
                            WHITE_SPACE * (character in spaces) | WORD * is_word(character + "[X]"))
        assert found[character] & 7 in (0, LETTER, NUMBER, WHITE_SPACE), hex(ord(character))
    return found


def swaps(pairs):
    """Of pairs of characters that decompose to themselves: which does NFD exchange?"""
    ordered = NFD("".join("a" + first + second for first, second in pairs))
    assert len(ordered) == 3 * len(pairs)
    return [ordered[3 * i + 1] != first for i, (first, second) in enumerate(pairs)]


def combining_classes():
    """The class of every mark, told by the marks of known classes that it changes places with."""
    plain = [c for c in CHARACTERS if NFD(c) == c]
    low, high = "\u0334", "\u0345"  # of the least class and the greatest
    marks = [c for c, below, above in zip(plain, swaps([(c, low) for c in plain]), swaps([(high, c) for c in plain]))
             if below or above]
    known = {}
    for mark in marks:
        if unicodedata.combining(mark):
            known.setdefault(unicodedata.combining(mark), mark)
    classes = {}
    for value, mark in known.items():
        after, before = swaps([(c, mark) for c in marks]), swaps([(mark, c) for c in marks])
        for character, is_after, is_before in zip(marks, after, before):
            if not is_after and not is_before:
                assert character not in classes, hex(ord(character))
                classes[character] = value
    assert set(classes) == set(marks), "a combining class without a known mark"
    return classes


def decompositions():
    """Two lists of (character, first, second): those that NFC makes again, and those that it only takes apart."""
    full = {c: NFD(c) for c in CHARACTERS if ord(c) not in HANGUL and NFD(c) != c}
    whole = {d: c for c, d in full.items() if NFC(c) == c}
    parted = {}
    for character, parts in full.items():
        parted.setdefault(parts, character)
    both, only = [], []
    for character, parts in full.items():
        if len(parts) == 1:
            only.append((character, parts, "\0"))
            continue
        prefix, second = parts[:-1], parts[-1]
        first = prefix if len(prefix) == 1 else whole.get(prefix) or parted[prefix]
        if NFC(character) == character:
            assert NFC(first + second) == character, hex(ord(character))
            both.append((character, first, second))
        else:
            only.append((character, first, second))
    for syllable in map(chr, HANGUL):
        assert NFC(NFD(syllable)) == syllable
    return both, only


def runs(value_of, default):
    """Where the value changes, over all code points: (first, value)."""
    changes, last = [], None
    for code in range(0x110000):
        value = value_of.get(chr(code), default)
        if value != last:
            changes.append((code, value))
            last = value
    return changes


def rows(items, width=116):
    lines, line = [], "   "
    for item in items:
        if len(line) + 2 + len(item) > width:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line])


def write_tables():
    both, only = decompositions()
    kind_rows = rows(f"{{0x{code:X}, {value}}}" for code, value in runs(kinds(), 0))
    class_rows = rows(f"{{0x{code:X}, {value}}}" for code, value in runs(combining_classes(), 0))

    def triples(entries):
        return rows("{" + ", ".join(f"0x{ord(part):X}" for part in entry) + "}" for entry in entries)

    TABLES.write_text(f"""\
// Made by tools/golden/make_unicode_golden.py from `tokenizers` {tokenizers.__version__}. Do not edit.

#include "model/unicode_tables.h"

namespace engram {{
namespace {{

constexpr UnicodeRun kKinds[] = {{
{kind_rows}
}};

constexpr UnicodeRun kCombiningClasses[] = {{
{class_rows}
}};

constexpr UnicodeDecomposition kCompositions[] = {{
{triples(both)}
}};

constexpr UnicodeDecomposition kDecompositions[] = {{
{triples(only)}
}};

}}  // namespace

absl::Span<const UnicodeRun> UnicodeKinds() {{ return kKinds; }}

absl::Span<const UnicodeRun> UnicodeCombiningClasses() {{ return kCombiningClasses; }}

absl::Span<const UnicodeDecomposition> UnicodeCompositions() {{ return kCompositions; }}

absl::Span<const UnicodeDecomposition> UnicodeDecompositionsOnly() {{ return kDecompositions; }}

}}  // namespace engram
""")


# --- the golden file ---


def split_kinds():
    """What each character is to GPT-2's splitter, told by the words that it makes."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

    def words(text):
        return [text[begin:end] for _, (begin, end) in splitter.pre_tokenize_str(text)]

    found = {}
    for character in CHARACTERS:
        if words(f"あ{character}5") == [f"あ{character}", "5"]:
            found[character] = "letter"
        elif words(f"あ{character}5") == ["あ", f"{character}5"] and character != " ":
            found[character] = "number"
        elif words(f"あ{character}{character}!")[1] == character:
            found[character] = "space"
        else:
            assert words(f"あ{character}{character}!") == ["あ", f"{character}{character}!"], hex(ord(character))
            found[character] = "other"
    return found


def random_texts():
    """Texts of what normalisation has to do with, mostly marks in an odd order."""
    choice = random.Random(7)
    composed = [c for c in CHARACTERS if NFD(c) != c and ord(c) not in HANGUL]
    marks = sorted({part for c in composed for part in NFD(c)[1:]})
    young = [chr(c) for c in (0x8D4, 0x1CF2, 0x1DF6, 0x1E4EC, 0x10EAB, 0x11F41, 0x1E130, 0x10D24, 0x16D68, 0x113C2)]
    jamo = [chr(c) for c in (*range(0x1100, 0x1115), *range(0x1161, 0x1178), *range(0x11A6, 0x11C4), 0xAC00, 0xAC01, 0xD788)]
    pools = [composed, marks, marks, young, jamo, list("aeiouAEIOU <=>")]
    return ["".join(choice.choice(choice.choice(pools)) for _ in range(choice.randint(2, 12))) for _ in range(4000)]


def write_golden():
    is_word = single_word_probe()
    words = {c: is_word("[X]" + c) for c in CHARACTERS}
    golden = {
        "tokenizers": tokenizers.__version__,
        "splitter": runs(split_kinds(), "other"),
        "word": runs(words, False),
        "nfc": [[c, NFC(c)] for c in CHARACTERS if NFC(c) != c],
        "nfc_texts": [[text, NFC(text)] for text in random_texts()],
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}"
                       for name, value in golden.items())
    GOLDEN.write_text("{" + lines + "}\n")


if __name__ == "__main__":
    write_tables()
    write_golden()
