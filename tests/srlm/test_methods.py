"""Each retrieval method against its definition."""

import math

import bm25s
import pytest
import torch
from torch.nn.functional import normalize

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.bm25_srlm import Bm25Index
from modeling_srlm.encoding_srlm import EmbeddingCache
from modeling_srlm.retrieval_srlm import fuse_ranks, top_k
from tests.support.srlm import ByteCounter
from tests.support.tiny import DECODERS, random_ids, tiny_backbone, tiny_tokenizer

SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "target_size": 32}


def build(family: str = "llama", **settings: object) -> SelfRetrievalLM:
    defaults = {"tokenizer": tiny_tokenizer(), "retriever": ByteCounter(), **SETTINGS}
    return SelfRetrievalLM.from_components(tiny_backbone(family), **{**defaults, **settings})


def last_labels(input_ids: torch.Tensor, count: int) -> torch.Tensor:
    labels = input_ids.clone()
    labels[:, :-count] = -100
    return labels


def lucene(query: list[int], keys: list[list[int]], k1: float, b: float) -> list[float]:
    average = sum(map(len, keys)) / len(keys)
    scores = []
    for key in keys:
        score = 0.0
        for token in query:
            containing = sum(token in other for other in keys)
            idf = math.log(1 + (len(keys) - containing + 0.5) / (containing + 0.5))
            frequency = key.count(token)
            score += idf * frequency / (frequency + k1 * (1 - b + b * len(key) / average))
        scores.append(score)
    return scores


def test_bm25_is_the_lucene_formula_on_every_prefix():
    lengths = [12, 3, 7, 12, 1, 30]
    keys = [random_ids(length, seed=length) % 9 for length in lengths]
    queries = [random_ids(5, seed=1) % 11, torch.tensor([500, 501]), torch.tensor([3, 3, 3])]
    index = Bm25Index(keys, k1=1.2, b=0.6)
    for count in (1, 2, 4, 6):
        expected = [lucene(query.tolist(), [key.tolist() for key in keys[:count]], 1.2, 0.6) for query in queries]
        torch.testing.assert_close(index.scores(queries, count), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_bm25_is_that_of_bm25s():
    keys, queries = list(random_ids(200, 32) % 60), list(random_ids(8, 32, seed=1) % 60)
    theirs = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    theirs.index(([key.tolist() for key in keys], {token: token for token in range(60)}), show_progress=False)
    expected = torch.stack([torch.from_numpy(theirs.get_scores_from_ids(query.tolist())) for query in queries])
    scores = Bm25Index(keys, 1.5, 0.75).scores(queries)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(top_k(scores, 5)[0], top_k(expected, 5)[0])


def test_bm25_of_equal_keys_takes_the_earlier():
    keys = [random_ids(9, seed=seed) for seed in (1, 2, 1, 3, 1)]
    assert top_k(Bm25Index(keys, 1.5, 0.75).scores([keys[0]]), 3)[0].tolist() == [[0, 2, 4]]


def test_bm25_of_empty_keys():
    index = Bm25Index([torch.empty(0, dtype=torch.long)] * 3, 1.5, 0.75)
    assert index.scores([random_ids(4)]).tolist() == [[0, 0, 0]]


def test_fewer_keys_than_asked_for():
    indices, scores = top_k(torch.tensor([[0.5, 2.0, float("-inf")]]), 4)
    assert indices.tolist() == [[1, 0, -1, -1]]
    assert scores.tolist() == [[2.0, 0.5, float("-inf"), float("-inf")]]


def test_reciprocal_rank_fusion():
    dense, sparse = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[1.0, 30.0, 2.0]])
    expected = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]
    torch.testing.assert_close(fuse_ranks([dense, sparse], 60), torch.tensor([expected]))


def test_hybrid_is_the_fusion_of_dense_and_bm25():
    ids = random_ids(1, 300)
    labels = last_labels(ids, 32)
    parts = {}
    for method in ("dense", "bm25", "hybrid"):
        output = build(retrieval_method=method, key_num=12)(ids, labels=labels)
        parts[method] = output.retrieved_indices[0], output.retrieved_scores[0]
    for target in range(2):
        ranks = [{key: rank for rank, key in enumerate(parts[m][0][target].tolist())} for m in ("dense", "bm25")]
        for key, score in zip(*(part[target].tolist() for part in parts["hybrid"]), strict=True):
            if all(key in rank for rank in ranks):
                assert score == pytest.approx(sum(1 / (61 + rank[key]) for rank in ranks), rel=1e-5)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("add_bos", [False, True])
def test_self_compares_mean_states_of_chunks_read_alone(family, add_bos):
    model, ids = build(family, retrieval_method="self", retriever=None, add_bos=add_bos), random_ids(1, 201)
    output = model(ids, labels=last_labels(ids, 32))
    chunks = torch.nn.functional.pad(ids[0], (7, 0), value=-1).view(-1, 16)
    head = [0] if add_bos else []
    states = []
    for chunk in chunks:
        real = torch.tensor([head + chunk[chunk >= 0].tolist()])
        hidden = model.language_model.base_model(real).last_hidden_state[0, len(head) :]
        states.append(normalize(hidden.mean(0), dim=0))
    states = torch.stack(states)
    scores = states[[10, 11]] @ states[: 13 - 4 - 1].T
    expected = top_k(scores, 2)
    assert torch.equal(output.retrieved_indices[0], expected[0])
    torch.testing.assert_close(output.retrieved_scores[0], expected[1], rtol=1e-4, atol=1e-5)


class CountingEncoder(ByteCounter):
    def __init__(self):
        super().__init__()
        self.calls = []

    def encode(self, texts):
        self.calls += texts
        return super().encode(texts)


def test_a_chunk_is_encoded_once_a_document():
    encoder, ids = CountingEncoder(), random_ids(1, 400)
    model = build(retriever=encoder, retrieval_method="dense", target_size=16)
    model(ids, labels=ids)
    assert len(encoder.calls) == len(set(encoder.calls)) <= 25
    encoder.calls.clear()
    model.config.instruction = {"query": "find: ", "key": ""}
    model(ids, labels=ids)
    assert len(encoder.calls) == len(set(encoder.calls)) <= 50
    model.generate(ids, max_new_tokens=8)
    encoder.calls.clear()
    model.generate(ids, max_new_tokens=64)
    assert len(encoder.calls) == len(set(encoder.calls))


def test_embeddings_are_kept_until_they_are_cleared():
    encoder, ids = CountingEncoder(), random_ids(1, 400)
    model = build(retriever=encoder, retrieval_method="dense")
    model.embedding_cache = EmbeddingCache()
    model.train()
    first = model(ids, labels=ids)
    encoder.calls.clear()
    again = model(ids, labels=ids)
    assert not encoder.calls
    assert torch.equal(first.retrieved_indices, again.retrieved_indices)
    model.embedding_cache.clear()
    model(ids, labels=ids)
    assert encoder.calls
    encoder.calls.clear()
    model.eval()(ids, labels=ids)
    assert encoder.calls


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("method", ["no", "bm25"])
def test_bos_stands_before_every_input(family, method):
    model, seen = build(family, retrieval_method=method, add_bos=True), []
    model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    ids = random_ids(1, 200)
    with_bos = torch.cat([torch.tensor([[0]]), ids[:, :40]], dim=1)
    output = model(ids, labels=ids)
    assert all((batch[:, 0] == 0).all() for batch in seen)
    assert output.num_scored_tokens == 199
    seen.clear()
    short = model(ids[:, :40], labels=ids[:, :40])
    assert any(torch.equal(row, with_bos[0]) for batch in seen for row in batch)
    seen.clear()
    already = model(with_bos, labels=with_bos)  # a document that begins with it gets no second one
    assert any(torch.equal(row, with_bos[0]) for batch in seen for row in batch)
    plain = model.language_model(input_ids=with_bos).logits[0]
    losses = torch.nn.functional.cross_entropy(plain[:-1], with_bos[0, 1:], reduction="none")
    assert short.loss.item() == pytest.approx(losses[1:].mean().item(), rel=1e-5)
    assert already.loss.item() == pytest.approx(losses.mean().item(), rel=1e-5)


@pytest.mark.parametrize("integrate_method", ["concat", "replace"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_oracle_adds_the_key_that_helps_most(family, integrate_method):
    settings = {"context_window_size": 128, "integrate_method": integrate_method, "target_size": 16, "key_num": 3}
    model = build(family, retrieval_method="oracle", oracle_search="greedy", **settings)
    ids = random_ids(1, 300)
    labels = last_labels(ids, 16)
    output = model(ids, labels=labels)
    chosen, scores = output.retrieved_indices[0, 0].tolist(), output.retrieved_scores[0, 0].tolist()
    found = [key for key in chosen if key >= 0]
    assert found
    chunks = torch.nn.functional.pad(ids[0], (4, 0), value=-1).view(-1, 16)
    number = len(chunks) - 128 // 16 + (1 if integrate_method == "replace" else -1)

    def likelihood(keys: list[int]) -> float:
        values = torch.cat([chunks[key : key + 2].flatten() for key in sorted(keys)])
        window = ids[0, -(128 - (32 * len(keys) if integrate_method == "replace" else 0)) :]
        tokens = torch.cat([values[values >= 0], window])
        logits = model.language_model(tokens[None]).logits[0, -17:-1]
        return -torch.nn.functional.cross_entropy(logits, ids[0, -16:], reduction="sum").item()

    for rank, key in enumerate(found):
        others = {other: likelihood([*found[:rank], other]) for other in range(number) if other not in found[:rank]}
        assert max(others, key=others.get) == key
        assert scores[rank] == pytest.approx(others[key], rel=1e-4)
    assert output.loss.item() == pytest.approx(-scores[len(found) - 1] / 16, rel=1e-4)
    assert sorted(scores[: len(found)]) == scores[: len(found)]
    if len(found) < 3:
        best = max(likelihood([*found, other]) for other in range(number) if other not in found)
        assert best <= scores[len(found) - 1] + 1e-3


class Broken:
    def __init__(self, kind: str):
        self.kind = kind

    def encode(self, texts: list[str]) -> torch.Tensor:
        if self.kind == "count":
            return torch.ones(len(texts) + 1, 3)
        if self.kind == "nan":
            return torch.full((len(texts), 3), float("nan"))
        return torch.ones(len(texts), 4 if texts[0].startswith("find: ") else 3)


@pytest.mark.parametrize(("kind", "text"), [("count", "one embedding a text"), ("nan", "NaN"), ("width", "4 wide")])
def test_broken_retrievers_are_named(kind, text):
    model = build(retriever=Broken(kind), instruction={"query": "find: ", "key": ""}, retrieval_method="dense")
    ids = random_ids(1, 300)
    with pytest.raises(ValueError, match=text):
        model(ids, labels=ids)


def test_bos_needs_an_id():
    with pytest.raises(ValueError, match="bos_token_id"):
        SelfRetrievalLM.from_components(tiny_backbone(bos_token_id=None), add_bos=True, retrieval_method="no")


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (lambda n: None, TypeError, "returned a NoneType; it must return"),
        (lambda n: torch.full((n, 3), float("inf")), ValueError, "NaN or infinity"),
        (lambda n: torch.ones(n, 0), ValueError, "one embedding a text"),
    ],
)
def test_what_is_no_embedding_is_named(found, error, message):
    retriever = ByteCounter()
    retriever.encode = lambda texts: found(len(texts))
    ids = random_ids(1, 300)
    with pytest.raises(error, match=message):
        build(retriever=retriever, retrieval_method="dense")(ids, labels=ids)


def test_what_is_no_model_or_tokenizer_is_named():
    with pytest.raises(TypeError, match="model=5 must be a causal LM"):
        SelfRetrievalLM.from_components(5)
    with pytest.raises(TypeError, match="tokenizer='gpt2' must be a transformers tokenizer"):
        SelfRetrievalLM.from_components(tiny_backbone(), "gpt2")
