"""Search by dot product: blocks, ties, faiss against torch."""

import pytest
import torch

from trainers.retrieval.index import EmbeddingIndex
from trainers.retrieval.search import PassageIndex, check_index, top_k_passages
from trainers.retrieval.stored import Stored

INDEXES = ["torch", "faiss"]


def embeddings(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full_search(queries: torch.Tensor, passages: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One matrix, sorted."""
    scores = (queries.double() @ passages.double().T).float()
    ids = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return scores.gather(1, ids), ids


def search(index: str, *arguments, **settings):
    if index == "faiss":
        pytest.importorskip("faiss")
    return top_k_passages(*arguments, index=index, **settings)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("query_block, passage_block", [(1, 1), (3, 7), (5, 64), (100, 1000)])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_blocks_give_what_the_whole_matrix_gives(index, query_block, passage_block, k):
    queries, passages = embeddings(11, 8), embeddings(61, 8, seed=1)
    found = search(index, queries, passages, k, query_block=query_block, passage_block=passage_block)
    expected = full_search(queries, passages, k)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("passage_block", [3, 1000])
def test_equal_scores_come_by_passage_number(index, passage_block):
    one, other = embeddings(2, 16)
    passages = torch.stack([other, one, other, one] * 100)
    scores, ids = search(index, one[None], passages, 110, passage_block=passage_block)
    best = [i for i in range(400) if i % 2] if one @ one > one @ other else [i for i in range(400) if not i % 2]
    assert ids[0].tolist() == best[:110]
    assert torch.equal(scores, scores[:, :1].expand_as(scores))


@pytest.mark.parametrize("index", INDEXES)
def test_scores_that_differ_by_rounding_are_in_the_order_of_float64(index):
    """Passages that float32 products cannot tell apart."""
    noise = embeddings(500, 64, seed=3) * 1e-7
    passages = torch.nn.functional.normalize(torch.ones(500, 64) + noise, dim=1)
    queries = embeddings(3, 64)
    assert torch.equal(search(index, queries, passages, 20)[1], full_search(queries, passages, 20)[1])


@pytest.mark.parametrize("index", INDEXES)
def test_autocast_does_not_decide_which_passages_come_out(index):
    passages = torch.nn.functional.normalize(torch.ones(500, 64) + embeddings(500, 64, seed=3) * 1e-2, dim=1)
    queries = embeddings(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = search(index, queries, passages, 20)
    assert torch.equal(found[1], full_search(queries, passages, 20)[1])


@pytest.mark.parametrize("index", INDEXES)
def test_fewer_passages_than_k_and_no_queries(index):
    scores, ids = search(index, embeddings(2, 4), embeddings(3, 4), 10)
    assert scores.shape == ids.shape == (2, 3)
    scores, ids = search(index, embeddings(0, 4), embeddings(3, 4), 2)
    assert scores.shape == ids.shape == (0, 2) and ids.dtype == torch.int64


def test_half_precision_passages_count_as_they_are():
    passages = embeddings(30, 8).bfloat16()
    found = top_k_passages(embeddings(4, 8), passages, 5, index="torch")
    assert torch.equal(found[1], full_search(embeddings(4, 8), passages, 5)[1])


def test_auto_is_faiss_only_on_the_cpu(monkeypatch):
    monkeypatch.setattr("trainers.retrieval.search.find_spec", lambda name: object())
    assert PassageIndex(embeddings(3, 4)).uses_faiss
    assert not PassageIndex(embeddings(3, 4), device="meta").uses_faiss
    monkeypatch.setattr("trainers.retrieval.search.find_spec", lambda name: None)
    assert not PassageIndex(embeddings(3, 4)).uses_faiss
    with pytest.raises(ValueError, match="not installed: pip install faiss-cpu"):
        check_index("faiss")


@pytest.mark.parametrize(
    "queries, passages, settings, message",
    [
        (embeddings(2, 4), embeddings(3, 5), {}, r"\(2, 4\) must be \(Q, 5\) for passages of shape \(3, 5\)"),
        (embeddings(2, 4), embeddings(0, 4), {}, r"passage_embeddings of shape \(0, 4\)"),
        (embeddings(2, 4), embeddings(3), {}, r"passage_embeddings of shape \(3,\)"),
        (embeddings(2, 4), embeddings(3, 4), {"k": 0}, "k=0 must be an integer of at least 1"),
        (embeddings(2, 4), embeddings(3, 4), {"query_block": 0}, "query_block=0 must"),
        (embeddings(2, 4), embeddings(3, 4), {"passage_block": -1}, "passage_block=-1 must"),
        (embeddings(2, 4), embeddings(3, 4), {"index": "annoy"}, "index='annoy' must be one of auto"),
        (embeddings(2, 4), embeddings(3, 4) / 0, {}, "passage_embeddings must hold finite numbers alone"),
        (embeddings(2, 4) / 0, embeddings(3, 4), {}, "query_embeddings must hold finite numbers alone"),
    ],
)
def test_bad_input(queries, passages, settings, message):
    with pytest.raises(ValueError, match=message):
        top_k_passages(queries, passages, **{"k": 1, "index": "torch", **settings})


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("nonsense", ValueError, r"device='nonsense' must be a device of this machine.*'cpu'.* \(Expected one of"),
        ("cpu:x", ValueError, "device='cpu:x' must be a device of this machine"),
        ("cuda:99", ValueError, "device='cuda:99' must be a device of this machine"),
        (3.5, TypeError, r"device=3\.5 must be a device of this machine"),
        (["cpu"], TypeError, r"device=\['cpu'\] must be a device of this machine"),
    ],
)
def test_a_device_that_is_none(device, error, message):
    passages = torch.eye(2)
    with pytest.raises(error, match=message) as caught:
        top_k_passages(passages, passages, k=1, device=device)
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=message):
        EmbeddingIndex(Stored(passages, ["a", "b"], None, {}), device=device)
    assert top_k_passages(passages, passages, k=1, device="cpu")[1].tolist() == [[0], [1]]
