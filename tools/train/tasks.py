"""The synthetic tasks of the H3 and Mamba papers, for any vocabulary and length.

The symbols are the no-op ".", the trigger "=>" and the numbers from 0, numbered
in the order of their text: "1", "10", "11", "2". A prompt ends where the answer
is asked for; `draw` gives ids [rows, tokens] and the answers [rows].

Source: H3, arXiv 2212.14052, section 3.1, with the generator's details from
HazyResearch/safari 02220c69; Mamba, arXiv 2312.00752, section 4.1.2.
"""

import torch

NO_OP, TRIGGER = ".", "=>"


def sorted_symbols(vocab):
    return sorted([NO_OP, TRIGGER, *map(str, range(vocab - 2))])


class Task:
    def __init__(self, vocab, length):
        self.vocab, self.length = vocab, length
        self.symbols = sorted_symbols(vocab)
        self.trigger = self.symbols.index(TRIGGER)
        self.normal = torch.tensor([i for i, s in enumerate(self.symbols) if s not in (NO_OP, TRIGGER)])


class InductionHead(Task):
    """`length` random symbols, one of them replaced by the trigger; then the trigger once more.

    The answer is the symbol that followed the first trigger.
    """

    name = "induction"

    @property
    def prompt_tokens(self):
        return self.length + 1

    @property
    def chance(self):
        return 1 / len(self.normal)

    def random_symbols(self, rows, length, generator=None):
        return self.normal[torch.randint(len(self.normal), (rows, length), generator=generator)]

    def draw(self, rows, generator=None):
        ids = self.random_symbols(rows, self.length, generator)
        positions = torch.randint(self.length - 2, (rows, 1), generator=generator)
        answers = ids.gather(1, positions + 1)[:, 0]
        ids.scatter_(1, positions, self.trigger)
        return torch.cat([ids, torch.full((rows, 1), self.trigger)], dim=1), answers


class AssociativeRecall(Task):
    """`length` symbols of key and value in turn; then the trigger and a key that occurred.

    The first half of the normal symbols are keys, the second half values. A key
    has the same value throughout a prompt; two keys may share one.
    """

    name = "recall"

    def __init__(self, vocab, length):
        super().__init__(vocab, length)
        if length % 2:
            raise ValueError(f"length of associative recall is {length}, must be even")
        half = len(self.normal) // 2
        self.keys, self.values = self.normal[:half], self.normal[half:]

    @property
    def prompt_tokens(self):
        return self.length + 2

    @property
    def chance(self):
        return 1 / len(self.values)

    def draw(self, rows, generator=None):
        pairs = self.length // 2
        value_of = torch.randint(len(self.values), (rows, len(self.keys)), generator=generator)
        drawn = torch.randint(len(self.keys), (rows, pairs), generator=generator)
        occurred = torch.zeros(rows, len(self.keys)).scatter_(1, drawn, 1.0)
        asked = torch.multinomial(occurred, 1, generator=generator)  # uniform over the keys that occurred
        body = torch.stack([self.keys[drawn], self.values[value_of.gather(1, drawn)]], dim=2)
        end = torch.cat([torch.full((rows, 1), self.trigger), self.keys[asked]], dim=1)
        return torch.cat([body.flatten(1), end], dim=1), self.values[value_of.gather(1, asked)[:, 0]]


TASKS = {task.name: task for task in (InductionHead, AssociativeRecall)}


def draw_distinct(task, rows, generator):
    """As draw, but no prompt twice."""
    ids, answers, seen = [], [], set()
    while len(ids) < rows:
        for prompt, answer in zip(*task.draw(rows, generator)):
            key = tuple(prompt.tolist())
            if key not in seen and len(ids) < rows:
                seen.add(key)
                ids.append(prompt)
                answers.append(answer)
    return torch.stack(ids), torch.stack(answers)
