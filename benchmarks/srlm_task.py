"""The task that both sides of a self-retrieval row are given, and ours."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_srlm import SelfRetrievalLM

from .options import Options
from .outcome import Check
from .shapes import SHAPES, TextHash, random_backbone, random_document, word_tokenizer

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Task:
    """A model, a document and the lengths in tokens: W, C, k keys, and the last T tokens that are scored."""

    backbone: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    input_ids: torch.Tensor  # (1, length)
    window: int = 2048
    chunk: int = 128
    keys: int = 8
    target: int = 1024

    @property
    def num_targets(self) -> int:
        return self.target // self.chunk

    @property
    def num_keys(self) -> int:
        """Chunks that can be retrieved: those before the window whose continuation is before it as well."""
        return (self.input_ids.shape[1] - self.window) // self.chunk - 1

    def labels(self) -> torch.Tensor:
        """(1, length): the last T tokens, -100 before them."""
        labels = self.input_ids.clone()
        labels[:, : -self.target] = -100
        return labels


class Scored(NamedTuple):
    """Mean loss of the scored tokens, and the keys of each target."""

    loss: float
    keys: list[list[int]]


def build_task(size: str, length: int, options: Options, keys: int = 8) -> Task:
    """The task of a row: W 2048, C 128 and T 1024; with --quick a small one."""
    vocabulary = SHAPES[size].vocabulary
    document = random_document(1024 if options.quick else length, vocabulary).to(options.device)
    task = Task(random_backbone(size, options.device), word_tokenizer(vocabulary), document[None], keys=keys)
    return replace(task, window=256, chunk=32, keys=min(keys, 2), target=128) if options.quick else task


class OurSide:
    """`SelfRetrievalLM` on the task."""

    def __init__(self, task: Task):
        self.task = task
        self.dense = self._build(retrieval_method="dense", key_num=task.keys)
        self.tries_all = self._build(retrieval_method="oracle", key_num=1)

    def _build(self, **settings: Any) -> SelfRetrievalLM:
        task = self.task
        lengths: dict[str, Any] = {
            "context_window_size": task.window,
            "chunk_size": task.chunk,
            "target_size": task.target,
        }
        return SelfRetrievalLM.from_components(task.backbone, task.tokenizer, TextHash(), **lengths, **settings)

    def perplexity(self) -> Scored:
        """Retrieves k keys for each target by their embeddings and scores all targets."""
        return self._score(self.dense)

    def oracle(self) -> Scored:
        """Tries every key for each target and scores the target with the best of them."""
        return self._score(self.tries_all)

    def _score(self, model: SelfRetrievalLM) -> Scored:
        output = model(self.task.input_ids, labels=self.task.labels())
        return Scored(output.loss.item(), output.retrieved_indices[0].tolist())


def same_scores(ours: Scored, theirs: Scored) -> Check:
    """Loss within 1e-5 of its value, and the same keys."""
    apart = abs(ours.loss - theirs.loss) / abs(theirs.loss)
    if ours.keys != theirs.keys:
        target = next(i for i, keys in enumerate(theirs.keys) if ours.keys[i : i + 1] != [keys])
        return Check(False, f"target {target}: keys {ours.keys[target : target + 1]}, not {theirs.keys[target]}")
    if not apart <= TOLERANCE:  # written so that a NaN is not equal
        return Check(False, f"loss {ours.loss:.7g}, not {theirs.loss:.7g}")
    return Check(True, f"same keys, loss {apart:.0e} apart")
