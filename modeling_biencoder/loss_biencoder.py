"""The objectives as pure functions over score matrices.

Layout contract: query i owns passages i * group_size to (i + 1) * group_size - 1, its positive first.
Scores are similarities already divided by the temperature; each loss is the mean over the queries.
"""

import torch
from torch.nn import functional as F


def all_scores(queries: torch.Tensor, passages: torch.Tensor, temperature: float) -> torch.Tensor:
    """(B, d) and (N, d) -> (B, N): every query with every passage."""
    return queries @ passages.T / temperature


def own_scores(queries: torch.Tensor, passages: torch.Tensor, temperature: float) -> torch.Tensor:
    """(B, d) and (B * G, d) -> (B, G): every query with its own passages only."""
    grouped = passages.view(len(queries), -1, passages.shape[-1])  # (B, G, d)
    return torch.einsum("bd,bgd->bg", queries, grouped) / temperature


def own_columns(scores: torch.Tensor, positives: torch.Tensor, group_size: int) -> torch.Tensor:
    """(B, N) -> (B, G): from each row the `group_size` columns that start at its positive's."""
    columns = positives[:, None] + torch.arange(group_size, device=scores.device)  # (B, G)
    return scores.gather(1, columns)


def contrastive_loss(scores: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """InfoNCE: -log softmax(scores)[positive] (arXiv:1807.03748, eq. 4).

    Args:
        scores: (B, N), N passages in the competition.
        positives: (B,) the column of each query's positive.

    >>> contrastive_loss(torch.zeros(2, 4), torch.tensor([0, 2]))  # all alike: log N
    tensor(1.3863)
    """
    return F.cross_entropy(scores, positives)


def distillation_loss(scores: torch.Tensor, teacher_scores: torch.Tensor) -> torch.Tensor:
    """-sum softmax(teacher) * log softmax(student) over each query's own passages (LLM-Embedder, arXiv:2310.07554).

    Args:
        scores: (B, G) the student's, divided by the temperature.
        teacher_scores: (B, G), not divided by it.
    """
    target = teacher_scores.to(scores.dtype).softmax(dim=-1)
    return -(target * scores.log_softmax(dim=-1)).sum(dim=-1).mean()
