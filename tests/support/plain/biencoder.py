"""A bi-encoder by its definition: one text at a time, lists of numbers, loops."""

import math
from typing import Any

import torch

Vector = list[float]


def row_of(text: list[int], prefix: list[int], suffix: list[int], head: list[int], tail: list[int], most: int) -> list:
    """The text between its prompt and the special tokens; the text alone is cut."""
    room = most - len(head) - len(prefix) - len(suffix) - len(tail)
    return head + prefix + text[:room] + suffix + tail


def embed(backbone: Any, ids: list[int], pooling: str, k: int, normalize: bool, width: int | None) -> Vector:
    """The embedding of one row, which is not padded."""
    with torch.no_grad():
        states = backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].tolist()
    chosen = {"cls": states[:1], "last_token": states[-1:], "mean": states, "mean_last_k": states[-k:]}[pooling]
    pooled = [sum(numbers) / len(chosen) for numbers in zip(*chosen, strict=True)]
    return finish(pooled, normalize, width)


def finish(vector: Vector, normalize: bool, width: int | None) -> Vector:
    cut = vector if width is None else vector[:width]
    length = math.sqrt(sum(number * number for number in cut))
    return [number / length for number in cut] if normalize else cut


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def log_sum(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def softmax(values: list[float]) -> list[float]:
    return [math.exp(value - log_sum(values)) for value in values]


class Batch:
    """Queries with a group of passages each, and the texts that are known to be positives.

    `query_texts`, `passage_texts`: a name for each; `known[i]`: the names of the texts that answer query i.
    """

    def __init__(self, queries: list, passages: list, query_texts: list, passage_texts: list, known: list) -> None:
        self.queries, self.passages = queries, passages
        self.query_texts, self.passage_texts, self.known = query_texts, passage_texts, known
        self.size = len(passages) // len(queries)

    def own(self, query: int) -> list[int]:
        return list(range(query * self.size, (query + 1) * self.size))

    def narrowed(self, normalize: bool, width: int) -> "Batch":
        cut = [[finish(vector, normalize, width) for vector in part] for part in (self.queries, self.passages)]
        return Batch(*cut, self.query_texts, self.passage_texts, self.known)

    def answers(self, query: int, passage: int, in_batch: bool) -> bool:
        """Whether a passage is known to be no negative of a query."""
        text = self.passage_texts[passage]
        if text in self.known[query] or text == self.query_texts[query]:
            return True
        other, number = divmod(passage, self.size)
        return in_batch and number == 0 and self.query_texts[other] == self.query_texts[query]


class Undecided(Exception):
    """Rounding would decide what is a false negative."""


def _limit(positive: float, settings: dict) -> float:
    margin = settings["false_negative_margin"]
    if margin is None:
        return math.inf
    relative = settings["false_negative_margin_kind"] == "relative"
    return positive - (margin * abs(positive) if relative else margin)


def _info_nce(
    similarities: list[float], positive: int, left_out: list[bool], temperature: float, settings: dict
) -> float:
    limit = _limit(similarities[positive], settings)
    kept = []
    for number, value in enumerate(similarities):
        if number != positive and abs(value - limit) < 1e-6:
            raise Undecided
        if number == positive or not (left_out[number] or value > limit):
            kept.append(value / temperature)
    return log_sum(kept) - similarities[positive] / temperature


def _ranked(scores: list[float], own: list[int], teacher: list[float], competing: list[int], settings: dict) -> float:
    student = [value / settings["student_temperature"] for value in scores]
    weights = softmax([value / settings["teacher_temperature"] for value in teacher])
    loss = 0.0
    for place, passage in enumerate(own):
        worse = [
            other
            for number, other in enumerate(own)
            if teacher[number] < teacher[place] or (teacher[number] == teacher[place] and number >= place)
        ]
        against = [student[other] for other in [*worse, *competing]]
        loss += weights[place] * (log_sum(against) - student[passage])
    return loss


def losses(batch: Batch, teacher: list | None, in_batch: bool, temperature: float, settings: dict) -> dict[str, float]:
    """{name: loss} of all that the batch has what they need for, whatever their weights."""
    queries, everything = range(len(batch.queries)), range(len(batch.passages))
    found: dict[str, list[float]] = {}
    masks = settings["mask_false_negatives"]
    for i in queries:
        candidates = list(everything) if in_batch else batch.own(i)
        similarities = [dot(batch.queries[i], batch.passages[j]) for j in candidates]
        positive = candidates.index(batch.own(i)[0])
        left_out = [masks and batch.answers(i, j, in_batch) for j in candidates]
        if len(candidates) > 1 or in_batch:
            loss = _info_nce(similarities, positive, left_out, temperature, settings)
            found.setdefault("contrastive_loss", []).append(loss)
        if teacher is not None and batch.size > 1:
            own = [candidates.index(j) for j in batch.own(i)]
            scores = [value / temperature for value in similarities]
            others = [n for n in range(len(candidates)) if n not in own and not left_out[n]]
            _taught(found, scores, own, teacher[i], others, settings)
        if in_batch:
            answer = batch.own(i)[0]
            back = [dot(batch.passages[answer], query) for query in batch.queries]
            same = [
                masks
                and (batch.query_texts[i] == batch.query_texts[j] or batch.passage_texts[answer] in batch.known[j])
                for j in queries
            ]
            found.setdefault("symmetric_loss", []).append(_info_nce(back, i, same, temperature, settings))
    result = {name: sum(values) / len(values) for name, values in found.items()}
    if teacher is not None and not in_batch and batch.size == 1:
        result["pair_ranking_loss"] = _cosent(batch, [row[0] for row in teacher], temperature)
    return result


def _taught(found: dict, scores: list, own: list, teacher: list, others: list, settings: dict) -> None:
    if settings["distillation"] == "ranked":
        loss = _ranked(scores, own, teacher, others, settings)
    else:
        student = [scores[j] / settings["student_temperature"] for j in own]
        weights = softmax([value / settings["teacher_temperature"] for value in teacher])
        loss = -sum(weight * (value - log_sum(student)) for weight, value in zip(weights, student, strict=True))
    found.setdefault("distillation_loss", []).append(loss)
    margins = [
        (scores[own[0]] - scores[j] - (teacher[0] - teacher[n]) / settings["teacher_temperature"]) ** 2
        for n, j in enumerate(own)
        if n
    ]
    found.setdefault("margin_mse_loss", []).append(sum(margins) / len(margins))


def _cosent(batch: Batch, labels: list[float], temperature: float) -> float:
    scores = [dot(q, p) / temperature for q, p in zip(batch.queries, batch.passages, strict=True)]
    pairs = [
        scores[low] - scores[high]
        for low in range(len(labels))
        for high in range(len(labels))
        if labels[low] < labels[high]
    ]
    return log_sum([0.0, *pairs])
