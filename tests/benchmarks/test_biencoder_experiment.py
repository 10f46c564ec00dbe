"""The experiment of what helps a retriever: the same rows for every variant, an honest table."""

import pytest

from benchmarks.experiments import biencoder
from benchmarks.experiments.biencoder import (
    NEGATIVES,
    VARIANTS,
    Variant,
    finetune,
    first_stage,
    mrr,
    table,
    training_rows,
)
from benchmarks.experiments.llara import Data, raw_biencoder
from trainers.demo.settings import DemoArguments
from trainers.embedded.corpus import CodePair

ROWS = [
    {"query": f"return the number {i} of the lantern", "pos": [f"return lantern.number({i})"], "neg": []}
    for i in range(8)
]


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        ranks = {"rank_from": 0, "rank_to": 8}
        mining = {"mined": {"retriever": "dense", **ranks}, "bm25": {"retriever": "bm25", **ranks}}
        patch.setattr(biencoder, "MINING", mining)
        return training_rows(raw_biencoder("last_token"), Data([], ROWS, []), count=6, seed=0)


def test_variants_share_queries_and_positives(rows):
    assert len(rows["random"]) == 6
    for drawn, *mined in zip(*(rows[name] for name in ("random", "mined", "bm25")), strict=True):
        for row in (drawn, *mined):
            assert (row["query"], row["pos"]) == (drawn["query"], drawn["pos"])
            assert len(set(row["neg"])) == NEGATIVES and not set(row["neg"]) & set(row["pos"])
        assert all(len(row["teacher_scores"]) == 1 + NEGATIVES for row in mined)


def test_rows_without_enough_negatives_are_left_out_of_all(monkeypatch):
    ranks = {"rank_from": 0, "rank_to": 8}
    dense = {"retriever": "dense", "relative_margin": 0.05, **ranks}
    mining = {"mined": dense, "bm25": {"retriever": "bm25", **ranks}}
    monkeypatch.setattr(biencoder, "MINING", mining)
    rows = training_rows(raw_biencoder("last_token"), Data([], ROWS, []), count=8, seed=0)
    assert len({len(found) for found in rows.values()}) == 1 and len(rows["random"]) < 8


def test_the_first_stage_starts_from_a_copy(tmp_path):
    start = raw_biencoder("last_token")
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    options = DemoArguments(biencoder_batch_size=4, group_size=2, output_dir=str(tmp_path))
    after = first_stage(start, Data([], ROWS, []), 2, options)  # a warm-up takes the first
    assert after.prompt_tokens == start.prompt_tokens
    assert all((value == before[name]).all() for name, value in start.model.state_dict().items())
    assert any((value != before[name]).any() for name, value in after.model.state_dict().items())


@pytest.mark.cases(1)
@pytest.mark.parametrize("variant", [Variant(teacher=True, nested=True), Variant(rows="random", lora=True)])
def test_a_variant_leaves_the_start_as_it_was(rows, tmp_path, variant):
    start = raw_biencoder("last_token")
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    options = DemoArguments(biencoder_steps=1, biencoder_batch_size=4, group_size=3, output_dir=str(tmp_path))
    model = finetune(start, variant, rows, options)
    assert all((value == before[name]).all() for name, value in start.model.state_dict().items())
    assert start.model.config.embedding_dims is None
    pairs = [CodePair("m", row["query"], row["pos"][0]) for row in ROWS]
    assert 0 < mrr(model, pairs, variant.nested) <= 1


def test_the_table_has_mean_and_range():
    lines = table([{"a": 0.1}, {"a": 0.3}], bm25=0.4).splitlines()
    assert lines[2:] == ["| BM25 | 0.400 |", "| a | 0.200 (0.100 to 0.300) |"]
    assert {variant.rows for variant in VARIANTS.values()} == {"random", "mined", "bm25"}
    assert biencoder.CUTOFF == 10
