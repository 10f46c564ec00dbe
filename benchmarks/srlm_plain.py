"""The definition written down as it is read: each target is a pass of its own over its full input, with logits at
every position, and the oracle tries each key for each target."""

import torch

from .shapes import TextHash
from .srlm_task import Scored, Task


class PlainSide:
    """A straightforward implementation of the task."""

    name = "straightforward implementation"

    def __init__(self, task: Task):
        self.task = task
        self.encoder = TextHash()

    def perplexity(self) -> Scored:
        """One pass a target."""
        task, chunks = self.task, self.task.input_ids[0].view(-1, self.task.chunk)
        queries, keys = chunks[-task.num_targets - 1 : -1], chunks[: task.num_keys]
        similarity = self._encode(queries) @ self._encode(keys).T
        retrieved = similarity.topk(task.keys, dim=-1).indices.tolist()
        losses = [self._loss(target, sorted(keys)) for target, keys in enumerate(retrieved)]
        return Scored(sum(losses) / len(losses), retrieved)

    def oracle(self) -> Scored:
        """One pass a target and key."""
        losses, best = [], []
        for target in range(self.task.num_targets):
            tried = [self._loss(target, [key]) for key in range(self.task.num_keys)]
            losses.append(min(tried))
            best.append([tried.index(min(tried))])
        return Scored(sum(losses) / len(losses), best)

    def _encode(self, chunks: torch.Tensor) -> torch.Tensor:
        return self.encoder.encode(self.task.tokenizer.batch_decode(chunks, skip_special_tokens=True))

    def _loss(self, target: int, keys: list[int]) -> float:
        """Mean loss of a target chunk in [values | last W tokens]."""
        task = self.task
        document = task.input_ids[0]
        values = [document[key * task.chunk : (key + 2) * task.chunk] for key in keys]
        input_ids = torch.cat([*values, document[-task.window :]])[None]
        start = input_ids.shape[1] - task.target + target * task.chunk
        labels = torch.full_like(input_ids, -100)
        labels[:, start : start + task.chunk] = input_ids[:, start : start + task.chunk]
        return task.backbone(input_ids=input_ids, labels=labels, use_cache=False).loss.item()
