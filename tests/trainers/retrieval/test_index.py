"""Search in what was stored finds what a slow search over the numbers that stand there finds."""

import json

import pytest
import torch
from torch.nn import functional as F

from trainers.retrieval.index import EmbeddingIndex, load_index
from trainers.retrieval.quantization import PRECISIONS, quantize, ranges_of
from trainers.retrieval.stored import Stored
from trainers.retrieval.storing import write_embeddings

BACKENDS = ("torch", "faiss")


def rows(count, width, seed, scale=1.0):
    # Multiples of an eighth, many of them the same: scores and distances tie.
    return torch.randint(-2, 3, (count, width), generator=torch.Generator().manual_seed(seed)) * scale / 8 + 0.01


def stored(table, precision, **encoding):
    about = {"precision": precision, "width": str(table.shape[1]), "encoding": json.dumps(encoding)}
    ranges = ranges_of([table])
    if precision == "int8":
        about["ranges"] = json.dumps(ranges.tolist())
    ids = [f"id{number}" for number in range(len(table))]
    return Stored(quantize(table, precision, ranges), ids, [f"text {one}" for one in ids], about)


def meant(table, precision):
    """The embeddings that the numbers of the file stand for, float64."""
    if precision == "int8":
        low, high = ranges_of([table]).double()
        steps = torch.where(low == high, 1.0, (high - low) / 255)
        return torch.where(
            low == high, low, low + (quantize(table, "int8", ranges_of([table])).double() + 128.5) * steps
        )
    return quantize(table, precision).double()


def best(scores, k):
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return scores.gather(1, order), order


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_best_of_all(precision, backend, cosine):
    pytest.importorskip("faiss")
    passages, queries = rows(300, 12, 0) * torch.arange(1, 301)[:, None] / 100, rows(5, 12, 1)
    settings = {"similarity": "cosine" if cosine else "dot", "normalize": False}
    index = EmbeddingIndex(stored(passages, precision, **settings), index=backend)
    found, numbers = index.search(queries, 20)
    whole, asked = meant(passages, precision), queries.double()
    if cosine:
        whole, asked = F.normalize(whole, dim=1), F.normalize(asked, dim=1)
    scores = asked @ whole.T
    torch.testing.assert_close(found.double(), best(scores, 20)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.double(), scores.gather(1, numbers), atol=1e-5, rtol=0)
    assert all(len(set(row)) == 20 for row in numbers.tolist())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [8, 37, 64, 100])
@pytest.mark.parametrize("rescore", [False, True])
def test_binary_embeddings_by_hamming_then_anew(width, backend, rescore):
    pytest.importorskip("faiss")
    passages, queries = rows(200, width, 2), rows(4, width, 3)
    exact = stored(passages, "int8") if rescore else None
    index = EmbeddingIndex(stored(passages, "binary"), exact, index=backend)
    found, numbers = index.search(queries, 5, rescore_multiplier=3)
    whole = meant(passages, "int8") if rescore else torch.where(passages > 0, 1.0, -1.0).double() / width**0.5
    for query, row, scores in zip(queries, numbers.tolist(), found, strict=True):
        distances = ((query > 0) != (passages > 0)).sum(dim=1)
        near = distances.argsort(stable=True)[:15].sort().values
        anew = whole[near] @ query.double()
        order = anew.round(decimals=9).argsort(descending=True, stable=True)[:5]  # equal texts are equal on any CPU
        assert row == near[order].tolist()
        torch.testing.assert_close(scores.double(), anew[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_more_than_there_are_and_none(precision):
    index = EmbeddingIndex(stored(rows(3, 8, 4), precision))
    scores, numbers = index.search(rows(2, 8, 5), 10)
    assert scores.shape == numbers.shape == (2, 3) and sorted(numbers[0].tolist()) == [0, 1, 2]
    assert index.search(torch.zeros(0, 8))[1].shape == (0, 3)
    hits = index.hits([0.5], [2])
    assert hits == [("id2", 0.5, "text id2")] and len(index) == 3
    with pytest.raises(ValueError, match=r"queries of shape \(1, 7\) must be \(Q, 8\)"):
        index.search(torch.zeros(1, 7))
    with pytest.raises(ValueError, match="k=0"):
        index.search(torch.zeros(1, 8), 0)


def test_rescoring_takes_the_same_texts_in_another_precision(tmp_path):
    table = rows(10, 8, 6)
    ids = [str(number) for number in range(10)]
    for name, precision, names in (("b", "binary", ids), ("f", "float16", ids), ("o", "float32", ids[::-1])):
        write_embeddings(tmp_path / f"{name}.parquet", lambda: [table], (10, 8), names, None, precision)
    index = load_index(tmp_path / "b.parquet", tmp_path / "f.parquet")
    scores, numbers = index.search(table[:2], 3)
    expected = (table[:2].double() @ table.half().double().T).gather(1, numbers)
    torch.testing.assert_close(scores.double(), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="has other ids"):
        load_index(tmp_path / "b.parquet", tmp_path / "o.parquet")
    for one, other in (("f", "f"), ("b", "b")):
        with pytest.raises(ValueError, match="rescore is for a binary index"):
            load_index(tmp_path / f"{one}.parquet", tmp_path / f"{other}.parquet")


@pytest.mark.parametrize("cosine", [False, True])
def test_a_number_that_is_the_same_in_all_texts_is_that_number(cosine):
    passages, queries = rows(300, 12, 0), rows(5, 12, 1)
    passages[:, 3], passages[:, 5] = 0, 0.7
    settings = {"similarity": "cosine" if cosine else "dot", "normalize": False}
    exact, close = (EmbeddingIndex(stored(passages, name, **settings), index="torch") for name in ("float32", "int8"))
    found = [index.search(queries, 300) for index in (exact, close)]
    scores = [torch.zeros(5, 300).scatter_(1, numbers, values) for values, numbers in found]
    torch.testing.assert_close(scores[1], scores[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("differs", ["encoding", "texts", "role"])
def test_what_scores_anew_was_made_as_what_is_searched(tmp_path, differs):
    table, ids = rows(20, 16, 0), [f"id{number}" for number in range(20)]
    facts = {"texts": "one", "role": "passage", "encoding": json.dumps({"normalize": False})}
    for name, precision, about in (("b", "binary", facts), ("f", "float32", facts | {differs: '{"other": 1}'})):
        write_embeddings(tmp_path / f"{name}.npy", lambda: [table], (20, 16), ids, None, precision, about)
    with pytest.raises(ValueError, match=rf"made of other texts, by another model or .*'{differs}' differs"):
        load_index(tmp_path / "b.npy", rescore=tmp_path / "f.npy")
