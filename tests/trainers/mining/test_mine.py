"""Mining: what never becomes a negative, ranks, margins, scores, and every source."""

import datasets
import pytest
import torch

from tests.support.files import write_rows
from tests.support.mining import PASSAGES, ROWS, biencoder, dense_scores
from trainers import load_biencoder_rows, mine_hard_negatives
from trainers.data.sources import load_tables
from trainers.mining.corpus import Corpus, load_corpus, text_key
from trainers.mining.mine import mine_to_file
from trainers.mining.settings import RETRIEVERS, MiningSettings
from trainers.retrieval.bm25 import bm25_matrix

FORBIDDEN = [[3, 8], [5, 6], [3, 8], [10, 11], [20]]  # passages that are a positive or the query


def mine(retriever="dense", rows=ROWS, corpus=PASSAGES, **settings):
    model = None if retriever == "bm25" else settings.pop("model", None) or biencoder()
    settings = {"rank_from": 0, "num_negatives": 4, "sampling": "top", "keep_empty": True, **settings}
    return mine_hard_negatives(rows, corpus, model, retriever=retriever, show_progress=False, **settings)


def same(text: str) -> str:
    return " ".join(text.split())


def ranked(row: torch.Tensor, forbidden: list[int]) -> list[int]:
    return [i for i in row.argsort(descending=True, stable=True).tolist() if i not in forbidden]


@pytest.mark.parametrize("retriever", RETRIEVERS)
@pytest.mark.parametrize("existing", ["keep", "replace"])
@pytest.mark.parametrize("settings", [{}, {"sampling": "random", "rank_from": 2, "rank_to": 9}, {"max_score": 2.0}])
def test_no_positive_no_query_and_nothing_twice(retriever, existing, settings):
    rows = mine(retriever, existing=existing, corpus=None if existing == "keep" else PASSAGES, **settings)
    positives = {same(row["query"]): set() for row in ROWS}
    for row in ROWS:
        positives[same(row["query"])] |= {same(text) for text in row["pos"]}
    assert len(rows) == len(ROWS) and any(row["neg"] for row in rows)
    for row in rows:
        negatives = [same(text) for text in row["neg"]]
        assert len(negatives) == len(set(negatives)) <= 4
        assert not set(negatives) & (positives[same(row["query"])] | {same(row["query"])})


def test_dense_ranks_are_those_of_the_full_matrix():
    plain = [row for row in ROWS if "task" not in row]
    scores = dense_scores(biencoder(), [row["query"] for row in plain], PASSAGES)
    rows = mine(rows=plain, rank_from=3, rank_to=9, num_negatives=5)
    for row, values, forbidden in zip(rows, scores, [FORBIDDEN[i] for i in (0, 1, 2, 4)], strict=True):
        assert row["neg"] == [PASSAGES[i] for i in ranked(values, forbidden)[3:9]][:5]


def test_bm25_ranks_are_those_of_the_full_matrix():
    scores = bm25_matrix([row["query"] for row in ROWS], PASSAGES)
    for row, values, forbidden in zip(mine("bm25", rank_to=9), scores, FORBIDDEN, strict=True):
        assert row["neg"] == [PASSAGES[i] for i in ranked(values, forbidden)[:4] if values[i] > 0]


@pytest.mark.parametrize("settings", [{"block_size": 1}, {"block_size": 2}, {"index": "torch"}, {"index": "faiss"}])
def test_blocks_and_index_change_nothing(settings):
    if settings.get("index") == "faiss":
        pytest.importorskip("faiss")
    assert mine(**settings) == mine()


def test_both_finds_more_than_bm25_and_scores_densely():
    fused = mine("both", num_negatives=30, scores=True)
    assert len(fused[0]["neg"]) > len(mine("bm25", num_negatives=30)[0]["neg"]) > 0
    dense = {
        row["query"]: dict(zip(row["neg"], row["neg_scores"], strict=True))
        for row in mine(num_negatives=30, scores=True)
    }
    for row in fused:
        for text, score in zip(row["neg"], row["neg_scores"], strict=True):
            assert score == pytest.approx(dense[row["query"]].get(text, score), abs=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_scores_are_the_models_similarities(normalize):
    model = biencoder(normalize)
    rows = mine(model=model, scores=True, existing="keep")
    for row in [rows[0], rows[2]]:  # one with an own negative, one with a positive that is not in the corpus
        texts = row["pos"] + row["neg"]
        expected = dense_scores(model, [row["query"]], texts)[0].tolist()
        assert row["pos_scores"] + row["neg_scores"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert rows[0]["neg"][0] == PASSAGES[4]


def test_a_querys_task_has_its_prompt():
    model = biencoder()
    row = mine(scores=True)[3]
    query = model.encode([row["query"]], task="qa")
    expected = model.similarity(query, model.encode(row["pos"] + row["neg"], role="passage"))[0]
    assert row["pos_scores"] + row["neg_scores"] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("retriever", RETRIEVERS)
def test_margins_hold_for_every_negative(retriever):
    settings = {"relative_margin": 0.1} if retriever == "bm25" else {"margin": 0.01, "max_score": 0.99}
    for row in mine(retriever, num_negatives=40, scores=True, **settings):
        for score in row["neg_scores"]:
            if retriever == "bm25":
                assert score < min(row["pos_scores"]) * 0.9 + 1e-5
            else:
                assert score < min(row["pos_scores"]) - 0.01 + 1e-5 and score <= 0.99


def test_rows_keep_their_fields_but_no_scores_of_other_candidates():
    rows = mine()
    assert [row.get("id") for row in rows] == [7, None, None, None, None]
    assert "nothing" in rows[0] and "teacher_scores" not in rows[1] and rows[3]["task"] == "qa"
    assert len(load_biencoder_rows(mine(scores=True), group_size=3)) == len(ROWS)


def test_kept_negatives_are_cleaned_and_filled_up():
    row = mine(existing="keep")[3]
    assert row["neg"][0] == PASSAGES[12] and len(row["neg"]) == 4
    assert PASSAGES[12] not in row["neg"][1:]


def test_rows_without_negatives():
    rows = [{"query": "tralala", "pos": ["la"]}, ROWS[1]]
    assert [row["query"] for row in mine("bm25", rows, keep_empty=False)] == [ROWS[1]["query"]]
    assert mine("bm25", rows)[0] == {"query": "tralala", "pos": ["la"], "neg": []}


def test_chat_rows_get_positives_by_their_scores():
    rows = [{"query": "who?", "history": ["one", "two"], "teacher_scores": [0.0, 1.0]}]
    assert mine(rows=rows)[0]["pos"] == ["two"]


def test_every_kind_of_corpus(tmp_path):
    rows = [
        {"text": "a b"},
        {"passage": "c", "title": "T"},
        {"text": "a  b "},
        {"text": "d", "title": ""},
        {"text": ""},
    ]
    expected = ["a b", "T c", "d"]
    folder = tmp_path / "folder"
    folder.mkdir()
    write_rows(folder / "1.jsonl", rows[:2])
    (folder / "2.txt").write_text("\nd\n a b\n")
    (folder / ".hidden").write_text("no")
    file = write_rows(tmp_path / "corpus.jsonl", rows)
    for source in (rows, file, str(folder), folder, load_tables(rows)[0].dataset(), ["a b", "T c", " a b", "d"]):
        assert load_corpus(source).texts == expected


def test_a_title_does_not_hide_a_positive():
    corpus = load_corpus([{"text": "the island", "title": "Islands"}, {"text": "a candle"}])
    assert corpus.same_as({text_key("the  island")}) == {0} == corpus.same_as({text_key("Islands the island")})
    assert corpus.find("a candle") == 1 and corpus.find("a  candle") is None


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"retriever": "tfidf"}, "retriever='tfidf' must be one of bm25, dense, both"),
        ({"sampling": "best"}, "sampling='best' must"),
        ({"existing": "drop"}, "existing='drop' must"),
        ({"index": "annoy"}, "index='annoy' must be one of"),
        ({"rank_from": 5, "rank_to": 5}, "rank_to=5 must be above rank_from=5"),
        ({"rank_from": -1}, "rank_from=-1 must be at least 0"),
        ({"num_negatives": 0}, "num_negatives=0 must be at least 1"),
        ({"block_size": 0}, "block_size=0 must be at least 1"),
        ({"margin": -0.1}, r"margin=-0.1 must be at least 0"),
        ({"relative_margin": 1.5}, "relative_margin=1.5 must lie between 0 and 1"),
        ({"min_score": 0.9, "max_score": 0.1}, "min_score=0.9 must not be above max_score=0.1"),
        ({"rank_from": 40}, "40 different passages, and rank_from=40 skips them all"),
        ({"corpus": [" "]}, "no passage that is not blank"),
        (
            {"corpus": [{"title": "T"}]},
            "Row 0 .*: field 'text' of the corpus is None; it, or 'passage', must",
        ),
        ({"rows": [{"query": "q"}]}, "Row 0 .* field 'pos' is missing"),
        ({"rows": []}, "list of rows is empty"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        mine(**settings)


def test_models_that_do_not_fit():
    with pytest.raises(ValueError, match="retriever='both' needs a model"):
        mine_hard_negatives(ROWS, retriever="both")
    with pytest.raises(ValueError, match="retriever='bm25' does not use"):
        mine_hard_negatives(ROWS, model=biencoder(), retriever="bm25")
    with pytest.raises(ValueError, match="retriever='dense' needs a model"):
        mine_to_file(ROWS, None, None, MiningSettings(), "never_written.jsonl")
    with pytest.raises(TypeError, match="cannot be read by row number"):
        mine("bm25", datasets.Dataset.from_list([{"query": "q", "pos": ["p"]}]).to_iterable_dataset())
    with pytest.raises(TypeError, match="num_negative'"):
        mine("bm25", num_negative=3)


def test_an_empty_corpus():
    with pytest.raises(ValueError, match="needs one or more: give another"):
        Corpus([])
