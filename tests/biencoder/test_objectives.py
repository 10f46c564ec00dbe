"""The objectives as the model puts them together: symmetric, false negatives, widths, scored pairs, weights."""

import re

import pytest
import torch

from modeling_biencoder import BiEncoderModel, Objectives
from modeling_biencoder.loss_biencoder import (
    contrastive_loss,
    margin_mse_loss,
    pair_ranking_loss,
    ranked_distillation_loss,
)
from modeling_biencoder.objectives_biencoder import LOSSES
from tests.support.pages import table_of
from tests.support.tiny import tiny_backbone

QUERIES = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
PASSAGES = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), dim=1)
TEACHER = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
ALONE = {"contrastive_weight": 0.0, "distillation_weight": 0.0, "pair_ranking_weight": 0.0}


def model(**config) -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(), temperature=0.1, **config)


def identity(query: list[int], passage: list[int], positives: list[list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in locals().items()}


def test_symmetric_loss_is_infonce_of_the_positives_over_the_queries() -> None:
    output = model().compute_loss(QUERIES, PASSAGES, objectives=Objectives(symmetric_weight=0.5))
    expected = contrastive_loss(PASSAGES[::2] @ QUERIES.T / 0.1, torch.arange(3))
    torch.testing.assert_close(output.losses["symmetric_loss"], expected)
    torch.testing.assert_close(output.loss, output.contrastive_loss + 0.5 * expected)


def test_weights_multiply_the_losses_and_zero_leaves_one_out() -> None:
    weights = Objectives(contrastive_weight=0.2, distillation_weight=3.0, margin_mse_weight=0.1)
    output = model().compute_loss(QUERIES, PASSAGES, TEACHER, objectives=weights)
    parts = output.losses
    expected = 0.2 * parts["contrastive_loss"] + 3 * parts["distillation_loss"] + 0.1 * parts["margin_mse_loss"]
    torch.testing.assert_close(output.loss, expected)
    own = torch.stack([output.scores[i, 2 * i : 2 * i + 2] for i in range(3)])
    torch.testing.assert_close(parts["margin_mse_loss"], margin_mse_loss(own, TEACHER))
    only = model().compute_loss(
        QUERIES, PASSAGES, TEACHER, objectives=Objectives(**{**ALONE, "distillation_weight": 1.0})
    )
    assert list(only.losses) == ["distillation_loss"]


def test_ranked_distillation_competes_with_what_the_query_meets() -> None:
    ranked = Objectives(**{**ALONE, "distillation_weight": 1.0}, distillation="ranked")
    in_batch = model().compute_loss(QUERIES, PASSAGES, TEACHER, objectives=ranked)
    own = model().compute_loss(QUERIES, PASSAGES, TEACHER, in_batch_negatives=False, objectives=ranked)
    positives = torch.tensor([0, 2, 4])
    torch.testing.assert_close(in_batch.loss, ranked_distillation_loss(in_batch.scores, TEACHER, positives))
    torch.testing.assert_close(own.loss, ranked_distillation_loss(own.scores, TEACHER, torch.zeros(3).long()))
    assert in_batch.loss > own.loss  # more to compete with


def test_ranked_distillation_leaves_known_positives_out_of_the_competition() -> None:
    # Passage 3, of query 1, has the text of query 0's positive; so has passage 1, query 0's own negative, which stays.
    numbers = identity([1, 2, 3], [10, 10, 12, 10, 14, 15], [[10], [12], [14]])
    ranked = Objectives(**{**ALONE, "distillation_weight": 1.0}, distillation="ranked")
    output = model().compute_loss(QUERIES, PASSAGES, TEACHER, identity=numbers, objectives=ranked)
    scores = output.scores.clone()
    scores[0, 3] = -torch.inf
    torch.testing.assert_close(output.loss, ranked_distillation_loss(scores, TEACHER, torch.tensor([0, 2, 4])))


def test_scored_pairs_are_ranked() -> None:
    labels = torch.tensor([[0.1], [0.9], [0.5]])
    output = model().compute_loss(QUERIES, PASSAGES[:3], labels, in_batch_negatives=False)
    scores = (QUERIES * PASSAGES[:3]).sum(1) / 0.1
    torch.testing.assert_close(output.loss, pair_ranking_loss(scores, labels[:, 0]))
    assert list(output.losses) == ["pair_ranking_loss"]


def test_known_positives_are_no_negatives() -> None:
    # Query 0's other positive is passage 2; passage 5 has the text of passage 0; query 2 is query 1 again, so that
    # each other's positives (2 and 4) are none; passage 3 is query 0's own text.
    numbers = identity([1, 2, 2], [10, 11, 12, 1, 14, 10], [[10, 12], [12, 0], [14, 0]])
    output = model().compute_loss(QUERIES, PASSAGES, identity=numbers)
    left_out = torch.zeros(3, 6, dtype=torch.bool)
    left_out[0, [2, 3, 5]] = True
    left_out[1, 4] = left_out[2, 2] = True
    torch.testing.assert_close(output.loss, contrastive_loss(output.scores, torch.tensor([0, 2, 4]), left_out))
    kept = model().compute_loss(QUERIES, PASSAGES, identity=numbers, objectives=Objectives(mask_false_negatives=False))
    torch.testing.assert_close(kept.loss, model().compute_loss(QUERIES, PASSAGES).loss)


def test_known_positives_in_a_querys_own_group_are_no_negatives() -> None:
    # Passage 1 is query 0's other positive, passage 5 is query 2's own text.
    numbers = identity([1, 2, 3], [10, 12, 11, 13, 14, 3], [[10, 12], [11, 0], [14, 0]])
    output = model().compute_loss(QUERIES, PASSAGES, in_batch_negatives=False, identity=numbers)
    left_out = torch.tensor([[False, True], [False, False], [False, True]])
    own = torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(output.loss, contrastive_loss(output.scores, own, left_out))
    kept = {"identity": numbers, "objectives": Objectives(mask_false_negatives=False)}
    output = model().compute_loss(QUERIES, PASSAGES, in_batch_negatives=False, **kept)
    torch.testing.assert_close(output.loss, contrastive_loss(output.scores, own))


def test_positives_of_an_equal_query_are_no_negatives_wherever_they_stand() -> None:
    # Queries 0 and 1 are one. Query 1 also knows 14, which is query 2's positive, and query 0's own negative 12 is the
    # positive that query 1 has drawn.
    numbers = identity([1, 1, 3], [10, 12, 12, 13, 14, 15], [[10, 0], [12, 14], [14, 0]])
    output = model().compute_loss(QUERIES, PASSAGES, identity=numbers)
    left_out = torch.zeros(3, 6, dtype=torch.bool)
    left_out[0, [1, 2, 4]] = left_out[1, [0, 1, 4]] = True
    torch.testing.assert_close(output.loss, contrastive_loss(output.scores, torch.tensor([0, 2, 4]), left_out))
    own = model().compute_loss(QUERIES, PASSAGES, in_batch_negatives=False, identity=numbers)
    of_own = torch.tensor([[False, True], [False, False], [False, False]])
    expected = contrastive_loss(own.scores, torch.zeros(3, dtype=torch.long), of_own)
    torch.testing.assert_close(own.loss, expected)
    both = model().compute_loss(QUERIES, PASSAGES, identity=numbers, objectives=Objectives(symmetric_weight=1.0))
    answers = PASSAGES[::2] @ QUERIES.T / 0.1
    known = torch.tensor([[0, 1, 0], [1, 0, 0], [1, 1, 0]]).bool()  # 14 is a positive of queries 0 and 1
    torch.testing.assert_close(both.losses["symmetric_loss"], contrastive_loss(answers, torch.arange(3), known))


@pytest.mark.parametrize("in_batch", [True, False])
def test_scores_keep_single_precision_under_autocast(in_batch: bool) -> None:
    objectives = Objectives(symmetric_weight=1.0, margin_mse_weight=1.0)
    nested = model(embedding_dims=[4])
    plain = nested.compute_loss(QUERIES, PASSAGES, TEACHER, in_batch, objectives=objectives)
    with torch.autocast("cpu", torch.bfloat16):
        cast = nested.compute_loss(QUERIES, PASSAGES, TEACHER, in_batch, objectives=objectives)
    assert cast.scores.dtype == torch.float32
    assert torch.equal(cast.scores, plain.scores) and torch.equal(cast.loss, plain.loss)


def test_queries_of_a_known_positive_are_no_negatives_of_it() -> None:
    numbers = identity([1, 2, 2], [10, 11, 12, 13, 14, 15], [[10, 12], [12, 0], [14, 0]])
    only = Objectives(**ALONE, symmetric_weight=1.0)
    loss = model().compute_loss(QUERIES, PASSAGES, identity=numbers, objectives=only).loss
    left_out = torch.zeros(3, 3, dtype=torch.bool)
    left_out[1, 0] = left_out[1, 2] = left_out[2, 1] = True  # positive 12 is query 0's too; queries 1 and 2 are one
    torch.testing.assert_close(loss, contrastive_loss(PASSAGES[::2] @ QUERIES.T / 0.1, torch.arange(3), left_out))
    numbers = identity([1, 2, 10], [10, 11, 12, 13, 14, 15], [[10], [12], [14]])  # query 2 has the text of positive 0
    loss = model().compute_loss(QUERIES, PASSAGES, identity=numbers, objectives=only).loss
    left_out = torch.zeros(3, 3, dtype=torch.bool)
    left_out[0, 2] = True
    torch.testing.assert_close(loss, contrastive_loss(PASSAGES[::2] @ QUERIES.T / 0.1, torch.arange(3), left_out))


@pytest.mark.parametrize(("kind", "margin"), [("absolute", 0.5), ("relative", 5.0)])
@pytest.mark.parametrize("in_batch", [True, False])
def test_passages_more_similar_than_the_margin_allows_are_no_negatives(
    kind: str, margin: float, in_batch: bool
) -> None:
    objectives = Objectives(false_negative_margin=margin, false_negative_margin_kind=kind)
    output = model().compute_loss(QUERIES, PASSAGES, None, in_batch, objectives=objectives)
    positives = torch.arange(3) * 2 if in_batch else torch.zeros(3, dtype=torch.long)
    similarity = output.scores * 0.1
    positive = similarity.gather(1, positives[:, None])
    left_out = similarity > (positive - (margin if kind == "absolute" else margin * positive.abs()))
    left_out.scatter_(1, positives[:, None], False)
    assert left_out.any()
    torch.testing.assert_close(output.loss, contrastive_loss(output.scores, positives, left_out))


def test_embedding_dims_train_every_width() -> None:
    nested = model(embedding_dims=[2, 4])
    output = nested.compute_loss(QUERIES, PASSAGES, TEACHER, objectives=Objectives(matryoshka_weights=[0.5, 2.0]))
    plain = model()
    total = 0.0
    for width, weight in ((8, 1.0), (2, 0.5), (4, 2.0)):
        cut = [torch.nn.functional.normalize(part[:, :width], dim=1) for part in (QUERIES, PASSAGES)]
        part = plain.compute_loss(*cut, TEACHER)
        total = total + weight * part.loss
        suffix = "" if width == 8 else f"_{width}"
        torch.testing.assert_close(output.losses[f"contrastive_loss{suffix}"], part.contrastive_loss)
    torch.testing.assert_close(output.loss, total)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"contrastive_weight": -1.0}, ValueError, "contrastive_weight=-1.0 must be a finite number of at least 0"),
        ({"teacher_temperature": 0}, ValueError, "teacher_temperature=0 must be a finite number above 0"),
        ({"symmetric_weight": "much"}, TypeError, "symmetric_weight='much' must be a finite number, not str"),
        ({"distillation": "listwise"}, ValueError, "it must be one of ['kl', 'ranked']"),
        ({"false_negative_margin_kind": "rel"}, ValueError, "Did you mean 'relative'?"),
        ({"matryoshka_weights": 0.5}, TypeError, "matryoshka_weights=0.5 must be None or a list of finite numbers"),
        (ALONE, ValueError, "are all 0: nothing is left to train for"),
    ],
)
def test_wrong_objectives(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Objectives(**settings)


def test_a_batch_without_any_objective() -> None:
    with pytest.raises(ValueError, match="1 passages a query, in_batch_negatives=False and no teacher scores"):
        model().compute_loss(QUERIES, PASSAGES[:3], in_batch_negatives=False)
    with pytest.raises(ValueError, match="1 matryoshka_weights for embedding_dims=None"):
        model().compute_loss(QUERIES, PASSAGES, objectives=Objectives(matryoshka_weights=[1.0]))
    with pytest.raises(ValueError, match=re.escape("it must hold query (3,), passage (6,)")):
        model().compute_loss(QUERIES, PASSAGES, identity=identity([1, 2], [1] * 6, [[1]] * 3))


def test_the_page_has_every_loss_and_its_weights_default():
    rows = table_of("docs/biencoder.md", "logged as")
    weights = [row["argument, default"].split() for row in rows]
    assert [row["logged as"].strip("`") for row in rows] == list(LOSSES)
    assert [name.strip("`") for name, _ in weights] == [f"{loss.removesuffix('loss')}weight" for loss in LOSSES]
    assert [float(value) for _, value in weights] == [Objectives().weight(loss) for loss in LOSSES]
