"""Properties of chunk mode: blocks, batches, padding, families, methods, logits."""

import math

import pytest
import torch

from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from modeling_srlm.assembly_srlm import ModelInput
from modeling_srlm.scoring_srlm import _batches
from tests.support import quick_first
from tests.support.srlm import ByteCounter
from tests.support.tiny import DECODERS, random_ids, tiny_backbone, tiny_tokenizer

SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "chunk_batch_size": 3}
METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid", "oracle")


def build(family: str = "llama", **settings: object) -> SelfRetrievalLM:
    defaults = {"tokenizer": tiny_tokenizer(), "retriever": ByteCounter(), **SETTINGS}
    return SelfRetrievalLM.from_components(tiny_backbone(family), **{**defaults, **settings})


def last_labels(input_ids: torch.Tensor, count: int) -> torch.Tensor:
    labels = input_ids.clone()
    labels[:, :-count] = -100
    return labels


def plain_loss(model: SelfRetrievalLM, tokens: torch.Tensor, first_scored: int) -> torch.Tensor:
    """Sum of the losses of tokens[first_scored:] in one ordinary pass over `tokens`."""
    logits = model.language_model(tokens[None]).logits[0]
    return torch.nn.functional.cross_entropy(logits[first_scored - 1 : -1], tokens[first_scored:], reduction="sum")


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("integrate_method", ["concat", "replace"])
def test_loss_is_that_of_the_assembled_inputs(family, integrate_method):
    model = build(family, integrate_method=integrate_method, key_num=1, retrieval_method="dense")
    ids = random_ids(1, 200)
    output = model(ids, labels=last_labels(ids, 16))
    chunks = torch.nn.functional.pad(ids[0], (8, 0), value=-1).view(-1, 16)  # 13 chunks, the first of 8 tokens
    key = output.retrieved_indices[0, 0, 0]
    value = chunks[key : key + 2].flatten()
    window = ids[0, -64:] if integrate_method == "concat" else ids[0, -32:]
    tokens = torch.cat([value[value >= 0], window])
    assert output.loss.item() == pytest.approx(plain_loss(model, tokens, len(tokens) - 16).item() / 16, rel=1e-5)


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", METHODS)
def test_whole_document_is_scored_block_by_block(method):
    model = build(retrieval_method=method, target_size=32)
    ids = random_ids(1, 150)
    output = model(ids, labels=ids)
    total, count = 0.0, 0
    for end in range(150, 0, -32):
        labels = ids[:, :end].clone()
        labels[:, : max(end - 32, 0)] = -100
        block = model(ids[:, :end], labels=labels)
        total, count = total + block.loss.item() * block.num_scored_tokens, count + block.num_scored_tokens
    assert count == output.num_scored_tokens == 149
    assert output.loss.item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", quick_first(["gpt2", "llama", "opt"]))
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", METHODS)
def test_a_row_does_not_feel_its_batch(family, side, method):
    model = build(family, retrieval_method=method)
    rows = [random_ids(length, seed=length) for length in (9, 50, 130, 201)]
    pad = model.tokenizer.eos_token_id
    batch, mask = torch.full((4, 201), pad), torch.zeros(4, 201, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(201 - len(row), 201) if side == "left" else slice(len(row))
        batch[number, place], mask[number, place] = row, 1
    labels = batch.masked_fill(mask == 0, -100)
    together = model(batch, mask, labels)
    alone = [model(row[None], labels=row[None]) for row in rows]
    losses = sum(output.loss.item() * output.num_scored_tokens for output in alone)
    assert together.loss.item() == pytest.approx(losses / together.num_scored_tokens, rel=1e-5)
    for number, output in enumerate(alone):
        shape = output.retrieved_indices.shape[1]
        assert torch.equal(together.retrieved_indices[number, :shape], output.retrieved_indices[0])
        assert (together.retrieved_indices[number, shape:] == -1).all()


def test_chunk_batch_size_changes_nothing():
    ids = random_ids(2, 300)
    losses = [build(chunk_batch_size=size)(ids, labels=last_labels(ids, 40)).loss.item() for size in (1, 2, 7, 64)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", quick_first(DECODERS))
@pytest.mark.parametrize("method", METHODS)
def test_logits_without_labels_are_those_that_labels_are_scored_by(family, method):
    model = build(family, retrieval_method=method)
    ids, mask = random_ids(2, 151), torch.ones(2, 151, dtype=torch.long)
    mask[0, :30] = 0
    logits = model(ids[:, :-1], mask[:, :-1]).logits
    assert logits.shape == (2, 150, model.config.text_config.vocab_size)
    assert logits[:, -1].abs().sum() > 0
    shifted = torch.nn.functional.cross_entropy(logits[0, 30:], ids[0, 31:], reduction="sum")
    shifted += torch.nn.functional.cross_entropy(logits[1], ids[1, 1:], reduction="sum")
    output = model(ids, mask, ids.masked_fill(mask == 0, -100))
    if method == "oracle":  # it knows the last token with labels alone
        assert shifted.item() / output.num_scored_tokens == pytest.approx(output.loss.item(), rel=1e-2)
    else:
        assert shifted.item() / output.num_scored_tokens == pytest.approx(output.loss.item(), rel=1e-5)


def test_batches_hold_every_input_once_and_pad_no_long_one():
    lengths = [1500, 30, 1500, 1400, 70, 1500, 20, 1400, 1500, 10]
    inputs = [
        ModelInput(row, random_ids(length), torch.arange(length - 5 - row % 2, length), torch.arange(5 + row % 2))
        for row, length in enumerate(lengths)
    ]
    inputs.append(ModelInput(99, random_ids(40), torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)))
    batches = list(_batches(iter(inputs), 3))
    assert sorted(item.row for batch in batches for item in batch) == list(range(10))
    for batch in batches:
        if len(batch[0].tokens) > 1000:
            assert len({(len(item.tokens), len(item.positions)) for item in batch}) == 1
    assert sorted(len(batch) for batch in batches) == [1, 1, 2, 3, 3]


@pytest.mark.cases(2)
@pytest.mark.parametrize("method", METHODS)
def test_a_row_without_labels_keeps_its_place(method):
    model, ids = build(retrieval_method=method), random_ids(2, 150)
    labels = last_labels(ids, 32)
    labels[0] = -100
    output = model(ids, labels=labels)
    alone = model(ids[1:], labels=labels[1:])
    assert output.loss.item() == pytest.approx(alone.loss.item(), rel=1e-5)
    assert torch.equal(output.retrieved_indices[1], alone.retrieved_indices[0])
    assert (output.retrieved_indices[0] == -1).all()
    assert output.target_losses[0].isnan().all()


def test_feedback_does_not_depend_on_the_configured_method():
    ids, scores = random_ids(1, 200), []
    for method in ("no", "oracle"):
        model = build(retrieval_method=method, integrate_method="replace", key_num=1)
        scores.append(model.score_candidates(ids, labels=last_labels(ids, 16)))
    assert torch.equal(*scores)


def test_short_document_is_the_plain_model():
    model = build(retrieval_method="dense")
    ids = random_ids(1, 40)
    output = model(ids, labels=ids)
    assert output.loss.item() == pytest.approx(model.language_model(ids, labels=ids).loss.item(), rel=1e-5)
    assert (output.retrieved_indices == -1).all()


def test_oracle_takes_the_best_candidate_and_is_best():
    ids = random_ids(1, 320)
    labels = last_labels(ids, 32)
    oracle = build(retrieval_method="oracle", key_num=1)
    feedback = oracle.score_candidates(ids, labels=labels)
    output = oracle(ids, labels=labels)
    assert torch.equal(feedback.argmax(-1), output.retrieved_indices[:, :, 0])
    assert output.loss.item() == pytest.approx(-feedback.max(-1).values.sum().item() / 32, rel=1e-5)
    others = [build(retrieval_method=m, key_num=1)(ids, labels=labels).loss for m in ("recent", "random", "dense")]
    assert all(output.loss <= other for other in others)
    subset = oracle.score_candidates(ids, labels=labels, candidates=torch.tensor([[3, 0, 99, -1]]))
    assert torch.allclose(subset[..., :2], feedback[..., [3, 0]], rtol=1e-5)
    assert torch.isinf(subset[..., 2:]).all()


def test_perplexity_and_gradient():
    model = build(retrieval_method="bm25")
    ids = random_ids(2, 150)
    batches = [{"input_ids": ids, "labels": last_labels(ids, 16)}, {"input_ids": ids, "labels": last_labels(ids, 64)}]
    losses = [model(**batch).loss.item() for batch in batches]
    mean, by_batch = (losses[0] * 16 + losses[1] * 64) / 80, sum(losses) / 2
    assert model.compute_perplexity(batches, show_progress=False) == pytest.approx(math.exp(mean), rel=1e-5)
    found = model.compute_perplexity(batches, show_progress=False, average="batches")
    assert found == pytest.approx(math.exp(by_batch), rel=1e-5) and abs(mean - by_batch) > 1e-3
    with pytest.raises(ValueError, match="average='rows' is not known"):
        model.compute_perplexity(batches, average="rows")
    model.train()
    model(**batches[0]).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.language_model.parameters())


def test_separator_does_not_touch_the_callers_tensor():
    model, ids = build(retrieval_method="oracle", add_sep=[5, 6]), random_ids(1, 200)
    before = ids.clone()
    model(ids, labels=last_labels(ids, 32))
    assert torch.equal(before, ids)


IDS = random_ids(1, 100)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: SelfRetrievalConfig(chunksize=3), ValueError, "chunk_size"),
        (lambda: build(retrieval_method="bm52"), ValueError, "bm25"),
        (lambda: build(context_window_size=100), ValueError, "divide"),
        (lambda: build(context_window_size=2048, key_num=1), ValueError, "2080 positions"),
        (lambda: build(target_size=64), ValueError, "at most 48"),
        (lambda: build(integrate_method="replace", key_num=2), ValueError, "key_num"),
        (lambda: build(instruction={"query": "q"}), ValueError, "'query' and 'key'"),
        (lambda: build()(IDS.float()), TypeError, "integer"),
        (lambda: build()(IDS[0]), ValueError, "(batch, length)"),
        (lambda: build()(IDS[:0]), ValueError, "neither of them 0"),
        (lambda: build()(IDS, labels=IDS[:, 1:]), ValueError, "labels has shape"),
        (lambda: build()(IDS, labels=IDS * 0 - 100), ValueError, "all -100"),
        (lambda: build()(IDS, torch.zeros_like(IDS)), ValueError, "row 0"),
        (lambda: build()(IDS, (IDS % 2)), ValueError, "holes"),
        (lambda: build()(IDS + 600), ValueError, "tokens"),
        (lambda: build()(IDS.to("meta")), ValueError, "device"),
        (lambda: build(retrieval_method="bm25").compute_perplexity([]), ValueError, "no batch"),
        (lambda: build(tokenizer=None)(IDS), ValueError, "tokenizer"),
        (lambda: build(retriever=None)(IDS), ValueError, "retriever"),
        (lambda: build(retriever=object()), TypeError, "encode"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


def test_a_long_document_shows_its_progress_in_tokens(capsys):
    model, ids = build(retrieval_method="bm25", target_size=32), random_ids(1, 200)
    model.compute_perplexity([{"input_ids": ids, "labels": ids}])
    assert "/199" in capsys.readouterr().err
    model.compute_perplexity([{"input_ids": ids, "labels": last_labels(ids, 16)}])
    assert "/16" not in capsys.readouterr().err


@pytest.mark.parametrize("label", [-1, -99, 512, 10**9])
def test_a_label_that_is_no_token_is_named(label):
    ids = random_ids(2, 40)
    labels = last_labels(ids, 16)
    labels[1, 30] = label
    with pytest.raises(ValueError, match=rf"labels\[1, 30\]={label} must be a token id below 512, or -100"):
        build(retrieval_method="no")(ids, labels=labels)
