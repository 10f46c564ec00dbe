"""An index that stays in its files: what is found in shards is what is found in one file that is in memory."""

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_biencoder import BiEncoderModel
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import load_index
from trainers.retrieval.pieces import Column, Pieces
from trainers.retrieval.storing import write_embeddings

# Each text twice and far apart: equal scores, in different shards.
TEXTS = [f"a copper lantern {number * 7 % 10} of the library {number % 10}" for number in range(20)]
QUERIES = ["a lantern", "the library 7", "of what 3"]
IDS = [f"id-{number}" for number in range(len(TEXTS))]


@lru_cache
def biencoder(family: str) -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), tiny_tokenizer(), pooling="mean")


@pytest.mark.cases(2)
@pytest.mark.parametrize(("family", "backend"), [("llama", "torch"), ("bert", "faiss")])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("suffix", [".parquet", ".safetensors", ".npy"])
def test_shards_find_what_one_file_finds(
    tmp_path: Path, family: str, precision: str, suffix: str, backend: str
) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    model = biencoder(family)
    embeddings = model.encode(TEXTS, role="passage")
    facts = {"encoding": '{"similarity": "cosine", "normalize": false}'} if precision == "float16" else {}

    def write(name: str, shard_size: int | None) -> Path:
        path = tmp_path / f"{name}{suffix}"
        texts = TEXTS if suffix == ".parquet" else None
        shape = tuple(embeddings.shape)
        write_embeddings(path, lambda: embeddings.split(3), shape, IDS, texts, precision, facts, shard_size)
        return path

    whole = load_index(write("whole", None), index=backend)
    queries = model.encode(QUERIES)
    for shard_size, block in ((3, 5), (None, 4)):
        path = write(f"shards-{shard_size}-{block}", shard_size)
        index = load_index(path, keep_in_memory=False, index=backend, passage_block=block)
        for k in (7, 30):
            (scores, numbers), (expected, of_whole) = index.search(queries, k), whole.search(queries, k)
            assert numbers.tolist() == of_whole.tolist()
            torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
        found = index.find(model, QUERIES, 4)
        assert [[hit[::2] for hit in hits] for hits in found] == [
            [hit[::2] for hit in hits] for hits in whole.find(model, QUERIES, 4)
        ]
        assert list(index.ids) == IDS and len(index) == len(TEXTS) and index.ids[3:5] == IDS[3:5]
        assert torch.equal(torch.cat(list(index.blocks())), whole.codes)


def test_a_binary_index_in_shards_scores_by_floats_in_shards(tmp_path: Path) -> None:
    embeddings = biencoder("llama").encode(TEXTS, role="passage")
    for precision in ("binary", "float32"):
        for name, shard_size in (("whole", None), ("shards", 6)):
            path = tmp_path / f"{name}-{precision}.safetensors"
            blocks = embeddings.split(4)
            write_embeddings(path, lambda kept=blocks: kept, (20, 32), IDS, None, precision, {}, shard_size)
    asked = biencoder("llama").encode(QUERIES)
    found = []
    for name, kept in (("whole", True), ("shards", False)):
        paths = (tmp_path / f"{name}-{precision}.safetensors" for precision in ("binary", "float32"))
        found.append(load_index(*paths, keep_in_memory=kept).search(asked, 3))
    assert found[0][1].tolist() == found[1][1].tolist()
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)


def test_a_missing_shard_and_one_of_another_run_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_embeddings(
            tmp_path / f"{name}.npy", lambda: [torch.ones(4, 2)], (4, 2), "pqrs", about={"model": name}, shard_size=2
        )
    (tmp_path / "b-00001-of-00002.about.json").replace(tmp_path / "a-00001-of-00002.about.json")
    with pytest.raises(ValueError, match="of several runs"):
        load_index(tmp_path / "a.npy", keep_in_memory=False)
    (tmp_path / "a-00000-of-00002.npy").unlink()
    with pytest.raises(ValueError, match="1 of 2 files"):
        load_index(tmp_path / "a.npy", keep_in_memory=False)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 7), st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_are_one_matrix(sizes: list[int], block: int, data: st.DataObject) -> None:
    whole = torch.arange(2.0 * sum(sizes)).view(-1, 2)
    loaded: list[int] = []
    parts = whole.split(sizes)
    pieces = Pieces(sizes, 2, lambda number: (loaded.append(number), parts[number])[1])
    assert pieces.shape == whole.shape and len(pieces) == len(whole)
    blocks = list(pieces.split(block))
    assert [len(one) for one in blocks] == [len(one) for one in whole.split(block) if len(one)]
    assert torch.equal(torch.cat([*blocks, whole[:0]]), whole)
    if len(whole):
        numbers = torch.tensor(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=2, max_size=8)))
        numbers = numbers[: len(numbers) // 2 * 2].view(2, -1)
        loaded.clear()
        assert torch.equal(pieces[numbers], whole[numbers])
        assert len(loaded) == len(set(loaded)), "a file is read once"
    doubled = pieces.map(lambda rows: rows * 2)
    assert torch.equal(torch.cat([*doubled.split(block), whole[:0]]), whole * 2)
    names = [str(number) for number in range(len(whole))]
    column = Column(sizes, lambda number: names[sum(sizes[:number]) : sum(sizes[: number + 1])])
    assert list(column) == names == [column[number] for number in range(len(names))] and len(column) == len(names)
