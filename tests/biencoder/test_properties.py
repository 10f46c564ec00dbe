"""Drawn batches and settings against a bi-encoder by its definition (tests/support/plain/biencoder.py)."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from modeling_biencoder import BiEncoderModel, Objectives
from tests.support.cases import TOKENS, drawn, tiny
from tests.support.plain import biencoder as plain
from tests.support.tiny import tiny_backbone

FAMILIES = ("llama", "qwen", "gpt2", "opt", "bert")
POOLINGS = ("last_token", "cls", "mean", "mean_last_k")


@lru_cache
def _model(family: str) -> BiEncoderModel:
    backbone = tiny_backbone(family, lm_head=family != "bert", **tiny(family)).double()
    return BiEncoderModel.from_backbone(backbone, _tokenizer(False), max_length=100)


@lru_cache
def _tokenizer(wraps: bool) -> PreTrainedTokenizerFast:
    """Words "w3" to "w49" are their numbers; it puts <s> and </s> around a text where it `wraps`."""
    words = {"<s>": 0, "</s>": 1, "<pad>": 2, **{f"w{i}": i for i in range(3, 50)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if wraps:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _text(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


def _set(model: BiEncoderModel, **settings: object) -> None:
    for name, value in settings.items():
        setattr(model.config, name, value)


rows = st.lists(TOKENS, min_size=1, max_size=9)
embedding_settings = st.fixed_dictionaries(
    {"pooling": st.sampled_from(POOLINGS), "pooling_k": st.integers(1, 12), "normalize": st.booleans()}
)


def _padded(draw: Any, batch: list[list[int]]) -> dict[str, torch.Tensor]:
    """The rows with padding of any ids on either side or both."""
    longest = max(len(row) for row in batch) + draw(st.integers(0, 2))
    ids, mask = [], []
    for row in batch:
        missing = longest - len(row)
        left = draw(st.integers(0, missing))
        ids.append([draw(TOKENS)] * left + row + [2] * (missing - left))
        mask.append([0] * left + [1] * len(row) + [0] * (missing - left))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _embedded(model: BiEncoderModel, batch: list[list[int]], width: int | None = None) -> list[list[float]]:
    config = model.config
    return [
        plain.embed(model.backbone, row, config.pooling, config.pooling_k, config.normalize, width) for row in batch
    ]


def _close(ours: torch.Tensor, theirs: Any, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(
        ours.double(), torch.tensor(theirs, dtype=torch.float64), rtol=tolerance, atol=tolerance
    )


@drawn
@given(st.data())
def test_embeddings(data: st.DataObject) -> None:
    model = _model(data.draw(st.sampled_from(FAMILIES)))
    batch = data.draw(st.lists(rows, min_size=1, max_size=4))
    _set(model, **data.draw(embedding_settings))
    width = data.draw(st.one_of(st.none(), st.integers(1, 8)))
    _close(model.embed(**_padded(data.draw, batch), truncate_dim=width), _embedded(model, batch, width))


@drawn
@given(st.data())
def test_texts(data: st.DataObject) -> None:
    draw = data.draw
    model, wraps = _model(draw(st.sampled_from(FAMILIES))), draw(st.booleans())
    model.tokenizer = _tokenizer(wraps)
    short = st.lists(TOKENS, max_size=3)
    texts = draw(st.lists(st.lists(TOKENS, max_size=9), max_size=5))
    prompt = {name: draw(short) for name in ("query", "passage", "query_suffix", "passage_suffix")}
    role, eos = draw(st.sampled_from(("query", "passage"))), draw(st.booleans())
    prefix, suffix = prompt[role], prompt[f"{role}_suffix"]
    examples = draw(st.lists(st.tuples(short, short), max_size=2)) if role == "query" and suffix else []
    before = [i for query, answer in examples for i in [*prefix, *query, *suffix, *answer]] + prefix
    head, tail = ([0], [1]) if wraps else ([], [1] if eos else [])
    most = len(head) + len(tail) + len(before) + len(suffix) + draw(st.integers(1, 9))
    spaced = {name: f" {_text(ids)} " if ids else "" for name, ids in prompt.items()}
    task = draw(st.sampled_from(("default", "other")))
    _set(model, **draw(embedding_settings), append_eos=eos, separate_prompts=draw(st.booleans()), max_length=most)
    _set(model, prompts={task: spaced, "a third": {"query": "w3 "}})
    expected = [plain.row_of(text, before, suffix, head, tail, most) or [1] for text in texts]
    width = draw(st.one_of(st.none(), st.integers(1, 8)))
    named = None if task == "default" else task
    pairs = [(_text(query), _text(answer)) for query, answer in examples] or None
    found = model.encode(
        [_text(text) for text in texts], role, named, pairs, draw(st.integers(1, 3)), width, show_progress=False
    )
    assert found.shape == (len(texts), width or 8)
    if texts:
        tokens = model.tokenize([_text(text) for text in texts], role, named, pairs)
        assert [
            ids[mask.bool()].tolist() for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
        ] == expected
        _close(found, _embedded(model, expected, width), 1e-4)


weights = st.sampled_from((0.0, 0.5, 1.0))
temperatures = st.sampled_from((0.5, 1.0, 3.0))
objective_settings = st.fixed_dictionaries(
    {
        **{f"{name}_weight": weights for name in ("symmetric", "distillation", "margin_mse", "pair_ranking")},
        "contrastive_weight": st.sampled_from((0.0, 1.0, 2.0)),
        "distillation": st.sampled_from(("kl", "ranked")),
        "student_temperature": temperatures,
        "teacher_temperature": temperatures,
        "mask_false_negatives": st.booleans(),
        "false_negative_margin": st.sampled_from((None, 0.05, 0.3, -0.1)),
        "false_negative_margin_kind": st.sampled_from(("absolute", "relative")),
    }
)


def _objectives(draw: Any) -> tuple[dict, list[int] | None, list[float] | None]:
    settings = draw(objective_settings)
    assume(any(value for name, value in settings.items() if name.endswith("_weight")))
    dims = draw(st.one_of(st.none(), st.lists(st.integers(1, 8), min_size=1, max_size=2, unique=True)))
    cut = draw(st.one_of(st.none(), st.lists(weights, min_size=len(dims or ()), max_size=len(dims or ()))))
    return settings, dims, cut


def _batch(draw: Any) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """(queries, passages, of each query the texts that answer it) from few texts, so that some are equal."""
    texts = draw(st.lists(rows, min_size=2, max_size=6, unique_by=tuple))
    number, size = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    one = st.sampled_from(texts)
    queries = [draw(one) for _ in range(number)]
    passages = [draw(one) for _ in range(number * size)]
    known = [[passages[i * size], *draw(st.lists(one, max_size=2))] for i in range(number)]
    return queries, passages, known


def _identity(queries: list, passages: list, known: list) -> dict[str, torch.Tensor]:
    numbers: dict[tuple, int] = {}
    for text in [*queries, *passages, *(text for texts in known for text in texts)]:
        numbers.setdefault(tuple(text), len(numbers) + 1)
    most = max(len(texts) for texts in known)
    positives = [[numbers[tuple(text)] for text in texts] + [0] * (most - len(texts)) for texts in known]
    return {
        "query": torch.tensor([numbers[tuple(text)] for text in queries]),
        "passage": torch.tensor([numbers[tuple(text)] for text in passages]),
        "positives": torch.tensor(positives),
    }


def _expected(
    batch: plain.Batch, teacher: Any, in_batch: bool, temperature: float, normalize: bool, asked: Any
) -> dict:
    """{name: (weight, loss)} over all widths."""
    settings, dims, cut = asked
    widths = {8: 1.0, **dict(zip(dims or (), cut or [1.0] * len(dims or ()), strict=True))}
    found = {}
    for width, factor in widths.items():
        part = batch if width == 8 else batch.narrowed(normalize, width)
        for name, loss in plain.losses(part, teacher, in_batch, temperature, settings).items():
            weight = settings[name.removesuffix("loss") + "weight"]
            if weight:
                found[name if width == 8 else f"{name}_{width}"] = (factor * weight, loss)
    return found


@drawn
@given(st.data())
def test_losses(data: st.DataObject) -> None:
    draw = data.draw
    model = _model(draw(st.sampled_from(FAMILIES)))
    queries, passages, known = _batch(draw)
    _set(model, **draw(embedding_settings), temperature=draw(st.sampled_from((0.05, 0.2, 1.0))))
    asked, in_batch = _objectives(draw), draw(st.booleans())
    settings, dims, cut = asked
    _set(model, embedding_dims=dims)
    size = len(passages) // len(queries)
    scores = st.lists(st.sampled_from((-1.0, 0.0, 0.5, 2.0, 3.0)), min_size=size, max_size=size)
    teacher = draw(st.one_of(st.none(), st.lists(scores, min_size=len(queries), max_size=len(queries))))
    batch = plain.Batch(_embedded(model, queries), _embedded(model, passages), queries, passages, known)
    normalize = model.config.normalize
    try:
        expected = _expected(
            batch, teacher, in_batch, model.config.temperature if normalize else 1.0, normalize, asked
        )
    except plain.Undecided:
        assume(False)
    call: dict[str, Any] = {
        "query": _padded(draw, queries),
        "passage": _padded(draw, passages),
        "teacher_scores": None if teacher is None else torch.tensor(teacher),
        "in_batch_negatives": in_batch,
        "identity": _identity(queries, passages, known),
        "objectives": Objectives(**settings, matryoshka_weights=cut),
    }
    if not expected:
        with pytest.raises(ValueError, match="no objective with a weight"):
            model(**call)
        return
    output = model(**call, sub_batch_size=draw(st.one_of(st.none(), st.integers(1, 4))))
    assert set(output.losses) == set(expected)
    for name, (_, loss) in expected.items():
        _close(output.losses[name], loss, 1e-7)
    _close(output.loss, sum(weight * loss for weight, loss in expected.values()), 1e-7)


@drawn
@given(st.data())
def test_gradients_in_parts(data: st.DataObject) -> None:
    draw = data.draw
    model = _model(draw(st.sampled_from(FAMILIES)))
    queries, passages, known = _batch(draw)
    _set(model, **draw(embedding_settings), temperature=0.2, embedding_dims=draw(st.sampled_from((None, [4]))))
    call = {"query": _padded(draw, queries), "passage": _padded(draw, passages)}
    call["identity"] = _identity(queries, passages, known)
    gradients = []
    for size in (None, draw(st.integers(1, 5))):
        model.zero_grad(set_to_none=True)
        model(**call, sub_batch_size=size).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-7, atol=1e-9)
