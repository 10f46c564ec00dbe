"""Drawn rows and settings against LLaRA by its definition (tests/support/plain/llara.py)."""

import math
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from modeling_llara import LlaraForPreTraining, build_row
from modeling_llara.loss_llara import LossWeighting
from tests.support.cases import drawn, tiny
from tests.support.plain import llara as plain
from tests.support.tiny import tiny_backbone

FAMILIES = ("llama", "qwen", "gpt2", "opt", "mistral")
WORDS = st.integers(3, 39)  # 40 to 49 are the prompts' special tokens
SPECIAL = tuple(range(40, 50))


@lru_cache
def _model(family: str) -> LlaraForPreTraining:
    window = {"sliding_window": 4} if family == "mistral" else {}
    backbone = tiny_backbone(family, **tiny(family, layers=2), **window).double()
    return LlaraForPreTraining.from_backbone(
        backbone, num_summary_tokens=1, num_predict_tokens=1, summarize_prompt_ids=[40], predict_prompt_ids=[41]
    )


def _weighting(log_variances: list[float] | None) -> LossWeighting | None:
    """Learned weights as they are after some steps."""
    if log_variances is None:
        return None
    weighting = LossWeighting(1.0, 1.0)
    weighting.log_variances.data.copy_(torch.tensor(log_variances))
    return weighting


def _drawn_model(draw: Any) -> LlaraForPreTraining:
    """A model with drawn prompts, prefix, weights and ignored words."""
    model = _model(draw(st.sampled_from(FAMILIES)))
    config, order = model.config, draw(st.permutations(SPECIAL))
    config.num_summary_tokens, config.num_predict_tokens = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    texts = [draw(st.lists(WORDS, max_size=3)) for _ in range(2)]
    config.summarize_prompt_ids = texts[0] + order[: config.num_summary_tokens]
    config.predict_prompt_ids = texts[1] + order[5 : 5 + config.num_predict_tokens]
    config.prefix_ids = draw(st.lists(st.integers(0, 39), max_size=2))
    config.ar_loss_weight, config.bow_loss_weight = (draw(st.sampled_from((0.0, 0.1, 1.0, 2.5))) for _ in range(2))
    model.loss_weighting = _weighting(draw(st.one_of(st.none(), st.lists(st.floats(-2, 2), min_size=3, max_size=3))))
    config.ignored_target_ids = draw(st.lists(st.integers(0, 49), max_size=6, unique=True))
    config.predict_sees_summarize = draw(st.booleans())
    return model


@drawn
@given(st.data())
def test_rows(data: st.DataObject) -> None:
    draw = data.draw
    config = _drawn_model(draw).config
    passage = draw(st.lists(st.integers(0, 49), max_size=12))
    summarize, predict = draw(st.booleans()), draw(st.booleans())
    prompts = [config.summarize_prompt_ids] * summarize + [config.predict_prompt_ids] * predict
    fixed = len(config.prefix_ids) + sum(map(len, prompts))
    most = draw(st.one_of(st.none(), st.integers(1, fixed + 14)))
    if most is not None and most <= fixed:
        with pytest.raises(ValueError, match="max_length"):
            build_row(config, passage, most, summarize, predict)
        return
    special = {*config.summarize_token_ids, *config.predict_token_ids}
    ids, labels = plain.row_of(passage, prompts, special, config.prefix_ids, most)
    assert build_row(config, passage, most, summarize, predict) == {"input_ids": ids, "labels": labels}


def _pad(draw: Any, rows: list[list[int]], values: Any) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """The rows between drawn numbers of padding, and how many stand (before, behind) each."""
    longest = max(map(len, rows)) + draw(st.integers(0, 2))
    pads = []
    for row in rows:
        left = draw(st.integers(0, longest - len(row)))
        pads.append((left, longest - len(row) - left))
    return _put(draw, rows, pads, values), pads


def _put(draw: Any, rows: list[list[int]], pads: list[tuple[int, int]], values: Any) -> torch.Tensor:
    padded = [
        [draw(values) for _ in range(before)] + row + [draw(values) for _ in range(behind)]
        for row, (before, behind) in zip(rows, pads, strict=True)
    ]
    return torch.tensor(padded)


def _targets(draw: Any, rows: int) -> list[list[int]] | None:
    """Of each row the words that a prompt has to predict, repeats, padding and ignored ones among them."""
    width = draw(st.integers(1, 6))
    words = st.lists(st.one_of(st.integers(0, 49), st.just(-100)), min_size=width, max_size=width)
    return draw(st.one_of(st.none(), st.lists(words, min_size=rows, max_size=rows)))


@pytest.mark.slow
@drawn
@given(st.data())
def test_losses_and_logits(data: st.DataObject) -> None:
    draw = data.draw
    model = _drawn_model(draw)
    config = model.config
    shown = draw(st.tuples(st.booleans(), st.booleans()))
    passages = draw(st.lists(st.lists(WORDS, max_size=9), min_size=1, max_size=4))
    rows = [build_row(config, passage, None, *shown) for passage in passages]
    assume(all(row["input_ids"] for row in rows))
    summarize, predict = (
        ids if there else []
        for ids, there in zip((config.summarize_prompt_ids, config.predict_prompt_ids), shown, strict=True)
    )
    together = config.predict_sees_summarize
    reads = [plain.Read(model.backbone, row["input_ids"], summarize, predict, together) for row in rows]
    labels = [[-100 if draw(st.integers(0, 4)) == 0 else label for label in row["labels"]] for row in rows]
    targets = [_targets(draw, len(rows)) if there else None for there in shown]

    input_ids, pads = _pad(draw, [row["input_ids"] for row in rows], st.integers(0, 49))
    call: dict[str, Any] = {"input_ids": input_ids}
    call["attention_mask"] = _put(draw, [[1] * len(row["input_ids"]) for row in rows], pads, st.just(0))
    if draw(st.booleans()):
        call["labels"] = _put(draw, labels, pads, st.one_of(st.just(-100), WORDS))
    for name, ids in zip(("output_summarize_ids", "output_predict_ids"), targets, strict=True):
        if ids is not None:
            call[name] = torch.tensor(ids)
    with torch.no_grad():
        output = model(**call, output_logits=True)

    for logits, read, (before, _) in zip(output.logits, reads, pads, strict=True):
        expected = torch.tensor(read.logits, dtype=torch.float64)
        torch.testing.assert_close(logits[before : before + len(expected)], expected, rtol=1e-7, atol=1e-7)
    learned = None if model.loss_weighting is None else output.log_variances.tolist()
    _check_losses(output, config, reads, labels if "labels" in call else None, targets, learned)


def _check_losses(
    output: Any, config: Any, reads: list[plain.Read], labels: Any, targets: list, learned: list[float] | None
) -> None:
    total, terms = None, []  # the terms: (which of the three, loss, whether it is over anything)
    if labels is not None:
        loss = plain.next_token_loss(reads, labels)
        assert float(output.ar_loss) == pytest.approx(loss, abs=1e-5, rel=1e-5)
        total = config.ar_loss_weight * loss
        terms.append((0, loss, any(label != -100 for row in labels for label in row[1:])))
    else:
        assert output.ar_loss is None
    found = []
    for name, count, ids in zip(
        ("summarize", "predict"), (config.num_summary_tokens, config.num_predict_tokens), targets, strict=True
    ):
        ours = output[f"bow_{name}_loss"] if ids is not None else None
        if ids is not None:
            prompts = [getattr(read, name) for read in reads]
            loss, with_target = plain.bag_of_words(prompts, ids, set(config.ignored_target_ids), count)
            assert float(ours) == pytest.approx(loss, abs=1e-5, rel=1e-5)
            found.append((loss, with_target))
            terms.append((1 + (name == "predict"), loss, with_target > 0))
    if found:
        counted = [loss for loss, with_target in found if with_target]
        total = (total or 0.0) + config.bow_loss_weight * (sum(counted) / len(counted) if counted else 0.0)
    if learned is not None and terms:
        total = sum(math.exp(-learned[i]) * loss + learned[i] for i, loss, counted in terms if counted)
    assert (output.loss is None) == (total is None)
    if total is not None:
        assert float(output.loss) == pytest.approx(total, abs=1e-5, rel=1e-5)
