"""The objectives as pure functions over score matrices.

Layout contract: query i owns passages i * group_size to (i + 1) * group_size - 1, its positive first.
Scores are similarities already divided by the temperature. Each loss is the mean over the queries, but for
`pair_ranking_loss`, which is over pairs of rows.
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
    return scores.gather(1, _own(positives, group_size))


def without_own(left_out: torch.Tensor, positives: torch.Tensor, group_size: int) -> torch.Tensor:
    """(B, N) bool without each query's own passages, which the teacher ranks among themselves."""
    return left_out.scatter(1, _own(positives, group_size), False)


def contrastive_loss(
    scores: torch.Tensor, positives: torch.Tensor, left_out: torch.Tensor | None = None
) -> torch.Tensor:
    """InfoNCE: -log softmax(scores)[positive] (arXiv:1807.03748, eq. 4).

    Args:
        scores: (B, N), N passages in the competition.
        positives: (B,) the column of each query's positive.
        left_out: (B, N) bool, passages that take no part for a query (false negatives); never its positive.

    >>> contrastive_loss(torch.zeros(2, 4), torch.tensor([0, 2]))  # all alike: log N
    tensor(1.3863)
    """
    if left_out is not None:
        scores = scores.masked_fill(left_out, float("-inf"))
    return F.cross_entropy(scores, positives)


def distillation_loss(
    scores: torch.Tensor,
    teacher_scores: torch.Tensor,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> torch.Tensor:
    """-sum softmax(teacher) * log softmax(student) over each query's own passages (LLM-Embedder, arXiv:2310.07554).

    Its gradient is that of the KL divergence from the student to the teacher; both softmaxes take logarithms without
    ever forming small probabilities.

    Args:
        scores: (B, G) the student's, divided by the temperature; here once more by `student_temperature`.
        teacher_scores: (B, G), divided by `teacher_temperature` alone.
    """
    target = (teacher_scores.to(scores.dtype) / teacher_temperature).softmax(dim=-1)
    return -(target * (scores / student_temperature).log_softmax(dim=-1)).sum(dim=-1).mean()


def ranked_distillation_loss(
    scores: torch.Tensor,
    teacher_scores: torch.Tensor,
    positives: torch.Tensor,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> torch.Tensor:
    """sum over own passages of softmax(teacher) * InfoNCE against all that the teacher does not rank above it.

    The stable form of LLM-Embedder (arXiv:2310.07554, eq. 6): a passage competes with those ranked below it and with
    the other queries' passages, never with better ones, so that teachers that hardly tell candidates apart, or whose
    scores come from different scales, still give a useful order.

    Args:
        scores: (B, N) the student's, divided by the temperature.
        teacher_scores: (B, G) of the own passages.
        positives: (B,) the column of each query's first own passage.
    """
    scores = scores / student_temperature
    group_size = teacher_scores.shape[1]
    own = _own(positives, group_size)  # (B, G)
    others = scores.scatter(1, own, float("-inf")).logsumexp(dim=1, keepdim=True)  # (B, 1), -inf if there are none
    teacher_scores = teacher_scores.to(scores.dtype)
    order = teacher_scores.argsort(dim=1, descending=True, stable=True)
    ranked = scores.gather(1, own).gather(1, order)  # (B, G), the teacher's best first
    from_here = ranked.flip(1).logcumsumexp(dim=1).flip(1)  # over a passage and those ranked below it
    target = (teacher_scores / teacher_temperature).softmax(dim=-1).gather(1, order)
    return (target * (torch.logaddexp(from_here, others) - ranked)).sum(dim=-1).mean()


def margin_mse_loss(
    scores: torch.Tensor, teacher_scores: torch.Tensor, teacher_temperature: float = 1.0
) -> torch.Tensor:
    """Mean squared difference of the student's and the teacher's margins between positive and negatives.

    Margin-MSE, arXiv:2010.02666, eq. 4, averaged over the negatives of a query.

    Args:
        scores: (B, G) of the own passages, G of 2 or more, the positive first; divided by the temperature, so that
            margins of cosines reach a teacher's scale. (Embeddings that are not normalised have temperature 1.)
        teacher_scores: (B, G), divided by `teacher_temperature`.
    """
    teacher_scores = teacher_scores.to(scores.dtype) / teacher_temperature
    return F.mse_loss(scores[:, :1] - scores[:, 1:], teacher_scores[:, :1] - teacher_scores[:, 1:])


def pair_ranking_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log(1 + sum over pairs of rows of exp(score of the lower-labelled - score of the higher-labelled)).

    CoSENT: rows (text, text, label) of any scale of labels, for which only the order counts. 0 where all labels agree.

    Args:
        scores: (B,) of each row's two texts, divided by the temperature.
        labels: (B,), more is more alike.
    """
    lower = labels[:, None] < labels[None, :]  # row i should score below row j
    differences = (scores[:, None] - scores[None, :]).masked_fill(~lower, float("-inf"))
    return torch.cat([scores.new_zeros(1), differences.flatten()]).logsumexp(dim=0)


def _own(positives: torch.Tensor, group_size: int) -> torch.Tensor:
    """(B,) -> (B, G): the columns of each query's own passages."""
    return positives[:, None] + torch.arange(group_size, device=positives.device)
