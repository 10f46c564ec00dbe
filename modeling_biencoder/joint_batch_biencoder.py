"""The batch that a loss is of: this process's queries among the texts of all processes that they meet."""

from dataclasses import dataclass

import torch

from .false_negatives_biencoder import Identity
from .gather_biencoder import gather_rows, gather_sizes
from .pooling_biencoder import finish


@dataclass(frozen=True)
class Batch:
    """This process's queries among the passages and queries that they meet.

    Args:
        queries, passages: (B, d) and (B * G, d) of this process.
        met_queries, met_passages: those of all processes, or the same again.
        first_query: the number of this process's first query among all.
        share: weight of this process's mean over its queries in the mean over all queries, times the processes.
        teacher_scores: (B, G), if any.
        identity, met_identity: of this process's texts and of all that are met, if known.
        across_processes: whether rows of other processes count.
        counted: whether this process's rows do (see `BiEncoderModel.forward`).
    """

    queries: torch.Tensor
    passages: torch.Tensor
    met_queries: torch.Tensor
    met_passages: torch.Tensor
    first_query: int = 0
    share: float = 1.0
    teacher_scores: torch.Tensor | None = None
    identity: Identity | None = None
    met_identity: Identity | None = None
    across_processes: bool = False
    counted: bool = True

    @property
    def group_size(self) -> int:
        return len(self.passages) // len(self.queries)

    def narrowed(self, width: int, normalize: bool) -> "Batch":
        """The batch with embeddings cut to their first `width` numbers."""
        names = ("queries", "passages", "met_queries", "met_passages")
        cut = {name: finish(getattr(self, name), normalize, width) for name in names}
        return Batch(**{**vars(self), **cut})


def joint_batch(
    queries: torch.Tensor,
    passages: torch.Tensor,
    teacher_scores: torch.Tensor | None,
    identity: Identity | None,
    across_processes: bool,
    in_batch_negatives: bool,
    counted: bool = True,
) -> Batch:
    """The batch of this process, or its part of the batch of all processes, which then all have to call this."""
    if not across_processes:
        return Batch(queries, passages, queries, passages, 0, 1.0, teacher_scores, identity, identity)
    sizes = gather_sizes(len(queries) * counted, queries.device)
    group_size = len(passages) // len(queries)
    passage_sizes = [size * group_size for size in sizes]
    rank = torch.distributed.get_rank()
    share = sizes[rank] * len(sizes) / sum(sizes)
    if not in_batch_negatives:
        return Batch(queries, passages, queries, passages, 0, share, teacher_scores, identity, identity, True, counted)
    return Batch(
        queries,
        passages,
        met_rows(queries, sizes, counted),
        met_rows(passages, passage_sizes, counted),
        sum(sizes[:rank] if counted else sizes),
        share,
        teacher_scores,
        identity,
        None if identity is None else _met_identity(identity, sizes, passage_sizes, counted),
        True,
        counted,
    )


def met_rows(rows: torch.Tensor, sizes: list[int], counted: bool) -> torch.Tensor:
    """The rows of all processes that count; rows that do not stand behind them, for this process alone."""
    return gather_rows(rows, sizes) if counted else torch.cat([gather_rows(rows[:0], sizes), rows])


def _met_identity(identity: Identity, sizes: list[int], passage_sizes: list[int], counted: bool) -> Identity:
    most = max(gather_sizes(identity.positives.shape[1], identity.positives.device))
    positives = torch.nn.functional.pad(identity.positives, (0, most - identity.positives.shape[1]))
    queries = met_rows(identity.query[:, None], sizes, counted)[:, 0]
    passages = met_rows(identity.passage[:, None], passage_sizes, counted)[:, 0]
    return Identity(queries, passages, met_rows(positives, sizes, counted))
