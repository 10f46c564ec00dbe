"""What the bi-encoder rows compute: a step's loss and gradients, in sub-batches, by several sides on one backbone."""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from modeling_biencoder import BiEncoderModel

from .reference import load_biencoder_reference
from .shapes import SHAPES, random_document, random_text_backbone, word_tokenizer

QUERIES, SUB_BATCH = 64, 8  # rows of a batch, and those embedded at a time
MEAN_LENGTH, SPREAD, LONGEST = 80, 0.6, 512  # tokens; SPREAD is the standard deviation of a length's logarithm

Loss = Callable[[], torch.Tensor]
Tokens = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """A batch of queries, with a passage each and the others' as negatives, and a model on a random backbone."""

    model: BiEncoderModel
    query: Tokens  # (B, length of the longest), padded on the right
    passage: Tokens
    sub_batch_size: int

    @property
    def weights(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.model.backbone.named_parameters())


def build_task(size: str, device: torch.device, queries: int = QUERIES, sub_batch_size: int = SUB_BATCH) -> Task:
    """Lengths log-normal, words by Zipf's law. Embeddings are normalised."""
    vocabulary = SHAPES[size].vocabulary
    model = random_biencoder(size, device)
    query, passage = (_random_texts(queries, vocabulary, seed, device) for seed in (0, 1))
    return Task(model.train(), query, passage, sub_batch_size)


def random_biencoder(size: str, device: torch.device) -> BiEncoderModel:
    """A decoder whose last token is pooled, or an encoder whose mean is."""
    pooling = "mean" if SHAPES[size].encoder else "last_token"
    tokenizer = word_tokenizer(SHAPES[size].vocabulary)
    return BiEncoderModel.from_backbone(random_text_backbone(size, device), tokenizer, pooling=pooling)


def random_lengths(count: int, seed: int) -> torch.Tensor:
    """(count,) log-normal numbers of tokens."""
    normal = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    return (normal * SPREAD + math.log(MEAN_LENGTH) - SPREAD**2 / 2).exp().round().long().clamp(1, LONGEST)


def _random_texts(count: int, vocabulary: int, seed: int, device: torch.device) -> Tokens:
    lengths = random_lengths(count, seed)
    longest = int(lengths.max())
    ids = random_document(count * longest, vocabulary, seed).view(count, longest)
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_ids": (ids * mask).to(device), "attention_mask": mask.to(device)}


def our_loss(task: Task, whole: bool = False) -> Loss:
    """The model's own, in sub-batches or of the whole batch."""
    size = None if whole else task.sub_batch_size
    return lambda: task.model(query=task.query, passage=task.passage, sub_batch_size=size).loss


def parts(task: Task, tokens: Tokens) -> list[Tokens]:
    """Sub-batches as they come, each as long as its longest row, as the original's collator makes them."""
    found = []
    for start in range(0, len(tokens["input_ids"]), task.sub_batch_size):
        rows = {name: tensor[start : start + task.sub_batch_size] for name, tensor in tokens.items()}
        longest = int(rows["attention_mask"].sum(1).max())
        found.append({name: tensor[:, :longest] for name, tensor in rows.items()})
    return found


def plain_loss(task: Task) -> Loss:
    """Sub-batches that keep their graphs, as one would write it down."""
    texts = [parts(task, tokens) for tokens in (task.query, task.passage)]

    def embed(rows: Tokens) -> torch.Tensor:
        states = task.model.backbone(**rows).last_hidden_state
        lengths = rows["attention_mask"].sum(1)
        if task.model.config.pooling == "mean":
            pooled = (states * rows["attention_mask"][..., None]).sum(1) / lengths[:, None]
        else:
            pooled = states[torch.arange(len(states)), lengths - 1]
        return functional.normalize(pooled.float(), dim=-1)

    def loss() -> torch.Tensor:
        queries, passages = (torch.cat([embed(rows) for rows in several]) for several in texts)
        scores = queries @ passages.T / task.model.config.temperature
        return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    return loss


def reference_loss(task: Task, checkout: Path) -> Loss:
    """The original's sub-batches and loss, on the same backbone."""
    original = load_biencoder_reference(checkout)(
        task.model.backbone, temperature=task.model.config.temperature, sub_batch_size=task.sub_batch_size,
        sentence_pooling_method=task.model.config.pooling, normalize_embeddings=True,
    ).train()  # fmt: skip
    queries, passages = parts(task, task.query), parts(task, task.passage)
    return lambda: original(queries, passages).loss


def other_loss(task: Task, checkout: Path | None) -> tuple[str, Loss]:
    """Name and loss of the side that keeps every graph."""
    if checkout is None:
        return "sub-batches that keep their graphs", plain_loss(task)
    return "FlagEmbedding", reference_loss(task, checkout)


def cached_loss(task: Task) -> Loss:
    """The gradient cache of sentence-transformers, on the same backbone.

    Raises ImportError where it is not installed.
    """
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = as_sentence_transformer(task.model)
    loss = CachedMultipleNegativesRankingLoss(
        model.train(), scale=1 / task.model.config.temperature, mini_batch_size=task.sub_batch_size
    )
    return lambda: loss([dict(task.query), dict(task.passage)], None)


def whole_loss(task: Task) -> Loss:
    """The plain loss of sentence-transformers, the whole batch at once, on the same backbone.

    Raises ImportError where it is not installed.
    """
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = as_sentence_transformer(task.model)
    loss = MultipleNegativesRankingLoss(model.train(), scale=1 / task.model.config.temperature)
    return lambda: loss([dict(task.query), dict(task.passage)], None)


def as_sentence_transformer(model: BiEncoderModel) -> Any:
    """A SentenceTransformer on the same backbone.

    Raises ImportError where sentence-transformers is not installed.
    """
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        model.export_sentence_transformers(folder)
        exported = SentenceTransformer(folder, device=str(model.device))
    exported[0].model = model.backbone  # not a copy
    return exported


@torch.enable_grad()
def step(task: Task, loss: Loss) -> dict[str, Any]:
    """The loss and the gradient of every weight."""
    task.model.zero_grad()
    value = loss()
    value.backward()
    gradients = {name: weight.grad for name, weight in task.weights.items() if weight.grad is not None}
    return {"loss": value.detach(), **gradients}
