"""A self-retrieval LM by its definition: one input at a time, lists of token ids, loops."""

import math
from collections import Counter
from typing import Any

import torch

Ids = list[int]
NONE = -100


def logits_of(language_model: Any, ids: Ids) -> list[list[float]]:
    with torch.no_grad():
        return language_model(input_ids=torch.tensor([ids])).logits[0].tolist()


def loss_of(logits: list[float], label: int) -> float:
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[label]


def state_of(language_model: Any, ids: Ids, bos: Ids) -> list[float]:
    """The normalised mean of the last hidden states over a text that is read by itself."""
    with torch.no_grad():
        output = language_model(input_ids=torch.tensor([bos + ids]), output_hidden_states=True)
    states = output.hidden_states[-1][0, len(bos) :].tolist()
    mean = [sum(column) / len(states) for column in zip(*states, strict=True)]
    length = math.sqrt(sum(value * value for value in mean))
    return [value / length for value in mean]


def bm25(query: Ids, keys: list[Ids], k1: float, b: float) -> list[float]:
    """BM25 with Lucene's idf, of texts that are token ids."""
    average = sum(map(len, keys)) / len(keys)
    scores = [0.0] * len(keys)
    for token in query:
        containing = sum(token in key for key in keys)
        idf = math.log(1 + (len(keys) - containing + 0.5) / (containing + 0.5))
        for number, key in enumerate(keys):
            frequency = Counter(key)[token]
            if frequency:
                norm = k1 * (1 - b + b * len(key) / average)
                scores[number] += idf * frequency / (frequency + norm)
    return scores


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


class Reader:
    """One row of token ids under the settings of a model.

    Args:
        settings: a model's configuration, read by the names of its public settings.
        encode: token ids and "query" or "key" -> a vector, of the methods that compare them.
    """

    def __init__(self, language_model: Any, settings: Any, encode: Any = None) -> None:
        self.language_model, self.settings, self.encode = language_model, settings, encode
        self.size, self.k = settings.chunk_size, settings.key_num
        self.window = settings.context_window_size // self.size  # in chunks
        self.replace = settings.integrate_method == "replace" and settings.retrieval_method != "no"
        self.bos = [settings.bos_id] if settings.add_bos else []

    # Where things are. The grid ends where the row ends; the first chunk may be shorter.

    def start(self, length: int, chunk: int) -> int:
        return max(length - (self.count(length) - chunk) * self.size, 0)

    def count(self, length: int) -> int:
        return math.ceil(length / self.size)

    def chunk(self, ids: Ids, first: int, last: int) -> Ids:
        return ids[self.start(len(ids), first) : self.start(len(ids), last)]

    def room(self) -> int:
        """Chunks that one window can score: the first one's query stays in it, and what is put in its place."""
        return self.window - 1 - (2 * self.k if self.replace else 0)

    def half(self) -> int:
        return min(max(self.window // 2, 1), self.room())

    def keys(self, end: int) -> int:
        """How many of the first chunks may be retrieved for targets of a block that ends before chunk `end`."""
        return max(end - self.window - 1 + (2 if self.replace else 0), 0)

    def blocks(self, labels: Ids) -> list[tuple[int, int]]:
        """(first target chunk, the chunk after the last) of each block of a row that ends with its last label."""
        first = next(i for i, label in enumerate(labels) if label != NONE)
        last = self.count(len(labels))
        begin = next(c for c in range(last) if self.start(len(labels), c + 1) > first)
        if self.settings.target_size is not None:
            step = self.settings.target_size // self.size
        else:
            step = last - begin if last - begin <= self.room() else self.half()
        found, end = [], last
        while end > begin:
            found.insert(0, (max(begin, end - step), end))
            end -= step
        return found

    # What stands in an input.

    def input_of(self, ids: Ids, retrieved: Ids, end: int, stop: int) -> tuple[Ids, int]:
        """(the input up to the row's index `stop`, how much further right its window stands than in the row)."""
        chosen = [key for key in retrieved if key >= 0]
        chosen = sorted(chosen) if self.settings.order_method == "sequential" else chosen[::-1]
        values: Ids = []
        for key in chosen:
            value = self.chunk(ids, key, key + 2)
            separator = self.settings.add_sep
            values += value[: len(value) - len(separator)] + separator if separator else value
        chunks = self.window - (2 * len(chosen) if self.replace else 0)
        begin = self.start(len(ids), max(end - chunks, 0))
        whole = values + ids[begin:stop]
        if self.bos and whole[:1] != self.bos:
            whole = self.bos + whole
        return whole, len(whole) - stop

    # What is retrieved.

    def keys_of(self, ids: Ids, end: int) -> list[Ids]:
        width = 2 if self.settings.add_key_continuation else 1
        return [self.chunk(ids, key, key + width) for key in range(self.keys(end))]

    def scores(self, ids: Ids, target: int, end: int, method: str | None = None) -> list[float]:
        """Of each key, by a method that compares the target's query with it."""
        query, number, keys = self.chunk(ids, target - 1, target), self.keys(end), self.keys_of(ids, end)
        if not keys:
            return []
        method = method or self.settings.retrieval_method
        if method == "recent":
            return [float(key) for key in range(number)]
        if method == "bm25":
            return bm25(query, keys, self.settings.bm25_k1, self.settings.bm25_b)
        return [dot(self.encode(query, "query"), self.encode(key, "key")) for key in keys]

    def likelihood(self, ids: Ids, labels: Ids, target: int, end: int, retrieved: Ids) -> float:
        """The log-likelihood of a target chunk behind what is retrieved."""
        return -sum(self.losses(ids, labels, target, end, retrieved), 0.0)

    def losses(self, ids: Ids, labels: Ids, target: int, end: int, retrieved: Ids) -> list[float]:
        return [
            loss_of(logits, labels[place])
            for place, logits in self.logits(ids, labels, target, end, retrieved).items()
        ]

    def logits(self, ids: Ids, labels: Ids, target: int, end: int, retrieved: Ids) -> dict[int, list[float]]:
        """{index of a scored token of the target chunk: the logits that predict it}."""
        stop = self.start(len(ids), target + 1)
        scored = [i for i in range(max(self.start(len(ids), target), 1), stop) if labels[i] != NONE]
        whole, shift = self.input_of(ids, retrieved, end, stop)
        every = logits_of(self.language_model, whole)
        return {place: every[place + shift - 1] for place in scored}

    def oracle(self, ids: Ids, labels: Ids, target: int, end: int) -> list[float]:
        return [self.likelihood(ids, labels, target, end, [key]) for key in range(self.keys(end))]

    def fused(self, ids: Ids, target: int, end: int, close: float) -> list[tuple[float, float]]:
        """(least, most) of each key's sum of reciprocal ranks: where rounding ranks two keys, either may be first."""
        dense, words = (self.scores(ids, target, end, method) for method in ("dense", "bm25"))
        texts = [sorted(key) for key in self.keys_of(ids, end)]
        found = []
        for key in range(len(dense)):
            sure = 1 + sum((-dense[other], other) < (-dense[key], key) for other in range(len(dense)))
            before, unsure = 1, 0
            for other in range(len(words)):
                if texts[other] == texts[key] or words[other] == words[key] == 0:
                    before += other < key
                elif abs(words[other] - words[key]) < close:
                    unsure += 1
                else:
                    before += words[other] > words[key]
            constant = self.settings.fusion_constant
            found.append(tuple(1 / (constant + sure) + 1 / (constant + rank) for rank in (before + unsure, before)))
        return found

    def next_logits(self, prompt: Ids, new: Ids, retrieve: Any) -> list[float]:
        """What predicts the token behind `prompt` and `new`; `retrieve(ids, target, end)` gives the keys."""
        chunks = self.count(len(prompt))
        target = chunks + len(new) // self.size
        step = self.settings.target_size // self.size if self.settings.target_size else self.half()
        end = chunks + (target - chunks) // step * step + step
        filled = prompt + new + [0] * (-len(new) % self.size)  # the grid is the prompt's
        begun = filled[: len(prompt) + len(new) // self.size * self.size]  # what is retrieved by: whole chunks alone
        retrieved = retrieve(begun, target, end)
        whole, _ = self.input_of(filled, retrieved, end, len(prompt) + len(new))
        return logits_of(self.language_model, whole)[-1]

    def beams(self, prompt: Ids, count: int, width: int, retrieve: Any) -> list[tuple[float, Ids]]:
        """(log-probability, new tokens) of the continuations that a beam of this width ends with, the best first.

        Where rounding says which of two stays in the beam there are none.
        """
        beams: list[tuple[float, Ids]] = [(0.0, [])]
        for _ in range(count):
            longer = []
            for known, new in beams:
                logits = self.next_logits(prompt, new, retrieve)
                longer += [(known - loss_of(logits, token), [*new, token]) for token in range(len(logits))]
            ranked = sorted(longer, reverse=True)
            if ranked[width - 1][0] - ranked[width][0] < 1e-6:
                return []
            beams = ranked[:width]
        return beams
