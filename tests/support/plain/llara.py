"""LLaRA by its definition: each prompt in a row of its own behind the passage, plain causal attention, loops."""

import math
from typing import Any

import torch


def row_of(
    passage: list[int], prompts: list[list[int]], special: set[int], prefix: list[int], most: int | None
) -> tuple:
    """(ids, labels) of `[prefix | passage | prompts]`, the passage cut to what `most` leaves."""
    kept = [token for token in passage if token not in special]
    behind = [token for prompt in prompts for token in prompt]
    if most is not None:
        kept = kept[: most - len(prefix) - len(behind)]
    return prefix + kept + behind, [-100] * len(prefix) + kept + [-100] * len(behind)


class Read:
    """What the backbone says behind each token of a row: (length, V) logits, as lists.

    Two prompts are read in two passes, so that neither sees the other and both begin right behind the passage; with
    `together` in one.
    """

    def __init__(
        self, backbone: Any, ids: list[int], summarize: list[int], predict: list[int], together: bool
    ) -> None:
        passage = ids[: len(ids) - len(summarize) - len(predict)]
        if together:
            self.logits = _logits(backbone, ids)
        else:
            first = _logits(backbone, passage + summarize) if passage + summarize else []
            second = _logits(backbone, passage + predict) if predict else []
            self.logits = first + second[len(passage) :]
        end = len(passage) + len(summarize)
        self.summarize, self.predict = self.logits[len(passage) : end], self.logits[end:]


def _logits(backbone: Any, ids: list[int]) -> list[list[float]]:
    with torch.no_grad():
        return backbone(input_ids=torch.tensor([ids])).logits[0].tolist()


def log_softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    total = top + math.log(sum(math.exp(value - top) for value in logits))
    return [value - total for value in logits]


def next_token_loss(reads: list[Read], labels: list[list[int]]) -> float:
    """The mean over all labelled tokens of the batch that another token stands before; 0 where there is none."""
    losses = []
    for read, row in zip(reads, labels, strict=True):
        for place in range(1, len(row)):
            if row[place] != -100:
                losses.append(-log_softmax(read.logits[place - 1])[row[place]])
    return sum(losses) / len(losses) if losses else 0.0


def bag_of_words(prompts: list[list[list[float]]], targets: list[list[int]], ignored: set[int], count: int) -> tuple:
    """(the mean over the rows that have a target, how many have one).

    `prompts`: of each row the (prompt length, V) logits, of which the last `count` are at the special tokens.
    """
    losses = []
    for logits, words in zip(prompts, targets, strict=True):
        wanted = {word for word in words if word >= 0} - ignored
        if wanted:
            likely = log_softmax([max(column) for column in zip(*logits[-count:], strict=True)])
            losses.append(-sum(likely[word] for word in wanted) / len(wanted))
    return (sum(losses) / len(losses) if losses else 0.0), len(losses)
