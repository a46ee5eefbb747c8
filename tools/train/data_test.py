"""Checks the training data: the prompts of the tasks and the cleaned King James text.

Run: python3 data_test.py
"""

import unittest

import torch

from english import join_books, read_chapters, split_chapters, train_tokenizer
from tasks import AssociativeRecall, InductionHead, draw_distinct, sorted_symbols

VERSES = """Ge1:1 In the beginning God created the heaven and the earth.
Ge1:2 And the earth was without form, and void.
Ge2:1 Thus the heavens and the earth were finished.
1Jn1:1 That which was from the beginning.
"""


class TasksTest(unittest.TestCase):
    def test_symbols_are_sorted_as_text(self):
        symbols = sorted_symbols(20)
        self.assertEqual(symbols[:5], [".", "0", "1", "10", "11"])
        self.assertEqual(symbols[10:13] + symbols[18:], ["17", "2", "3", "9", "=>"])
        self.assertEqual(len(symbols), 20)

    def test_the_same_seed_draws_the_same_prompts(self):
        for task in (InductionHead(20, 30), AssociativeRecall(10, 20)):
            one, two, other = (task.draw(50, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
            self.assertTrue(torch.equal(one, two))
            self.assertFalse(torch.equal(one, other))

    def test_the_induction_answer_follows_the_first_of_two_triggers(self):
        task = InductionHead(16, 12)
        ids, answers = task.draw(500, torch.Generator().manual_seed(0))
        self.assertEqual(ids.shape, (500, task.prompt_tokens))
        places, trigger = [], task.symbols.index("=>")
        for row, answer in zip(ids.tolist(), answers.tolist()):
            first = row.index(trigger)
            places.append(first)
            self.assertEqual((row.count(trigger), row[-1], row[first + 1]), (2, trigger, answer))
            self.assertNotIn(task.symbols.index("."), row)
        self.assertEqual(set(places), set(range(10)))  # 0 to T-3, as in the original task
        self.assertEqual(set(answers.tolist()), set(task.normal.tolist()))

    def test_the_recall_answer_is_the_value_of_the_last_key(self):
        task = AssociativeRecall(10, 20)
        ids, answers = task.draw(500, torch.Generator().manual_seed(0))
        self.assertEqual(ids.shape, (500, task.prompt_tokens))
        asked = []
        for row, answer in zip(ids.tolist(), answers.tolist()):
            words = [task.symbols[i] for i in row]
            bound = {}
            for key, value in zip(words[0:20:2], words[1:20:2]):
                self.assertIn(key, ("0", "1", "2", "3"))
                self.assertIn(value, ("4", "5", "6", "7"))
                self.assertEqual(bound.setdefault(key, value), value)
            self.assertEqual((words[20], bound[words[21]]), ("=>", task.symbols[answer]))
            asked.append(words[21])
        self.assertEqual(set(asked), {"0", "1", "2", "3"})

    def test_recall_of_an_odd_length_is_refused(self):
        with self.assertRaisesRegex(ValueError, "21, must be even"):
            AssociativeRecall(10, 21)

    def test_distinct_prompts_are_all_there_is_and_keep_their_answers(self):
        task = AssociativeRecall(6, 2)  # two keys, two values, one pair: 4 prompts
        ids, answers = draw_distinct(task, 4, torch.Generator().manual_seed(0))
        self.assertEqual(len({tuple(row) for row in ids.tolist()}), 4)
        self.assertTrue(torch.equal(ids[:, 1], answers))


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
