"""Checks the training data: induction prompts and the cleaned King James text.

Run: python3 data_test.py
"""

import unittest

import torch

from english import join_books, read_chapters, split_chapters, train_tokenizer
from induction import NORMAL, SYMBOLS, TRIGGER, make_prompts

VERSES = """Ge1:1 In the beginning God created the heaven and the earth.
Ge1:2 And the earth was without form, and void.
Ge2:1 Thus the heavens and the earth were finished.
1Jn1:1 That which was from the beginning.
"""


class InductionPromptsTest(unittest.TestCase):
    def test_symbols_are_sorted_as_text(self):
        self.assertEqual(SYMBOLS[:4] + SYMBOLS[-1:], [".", "0", "1", "10", "=>"])
        self.assertEqual((len(SYMBOLS), len(NORMAL), TRIGGER), (16, 14, 15))

    def test_the_answer_follows_the_first_of_two_triggers(self):
        ids, answers = make_prompts(500, 12, torch.Generator().manual_seed(0))
        self.assertEqual(ids.shape, (500, 13))
        places = []
        for row, answer in zip(ids.tolist(), answers.tolist()):
            first = row.index(TRIGGER)
            places.append(first)
            self.assertEqual((row.count(TRIGGER), row[-1], row[first + 1]), (2, TRIGGER, answer))
            self.assertNotIn(SYMBOLS.index("."), row)
        self.assertEqual(set(places), set(range(10)))  # 0 to T-3, as in the original task


class EnglishTextTest(unittest.TestCase):
    def test_verses_become_one_paragraph_per_chapter(self):
        chapters = read_chapters(VERSES)
        self.assertEqual([book for book, _ in chapters], ["Ge", "Ge", "1Jn"])
        self.assertEqual(chapters[0][1], "In the beginning God created the heaven and the earth. "
                                         "And the earth was without form, and void.\n")

    def test_a_line_that_is_no_verse_is_refused(self):
        with self.assertRaisesRegex(ValueError, "not a verse"):
            read_chapters("In the beginning\n")

    def test_held_out_chapters_are_not_trained_on(self):
        chapters = [("Ge", f"Chapter {i}.\n") for i in range(200)]
        train, held = split_chapters(chapters)
        self.assertEqual(sorted(train + held), sorted(chapters))
        self.assertEqual(len(held), 4)

    def test_books_are_parted_by_the_end_token_and_any_text_survives(self):
        tokenizer = train_tokenizer(read_chapters(VERSES), vocab=300)
        ids = join_books(read_chapters(VERSES), tokenizer)
        self.assertEqual((ids == 0).nonzero().flatten().tolist()[0], 0)
        self.assertEqual((ids == 0).sum().item(), 3)
        text = "Zürich \n\n漢字\x00 ~"
        self.assertEqual(tokenizer.decode(tokenizer.encode(text).ids), text)


if __name__ == "__main__":
    unittest.main()
