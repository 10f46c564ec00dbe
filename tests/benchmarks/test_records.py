"""Records of experiments: made once, whole lines only, and tables that say how far apart retrievers are."""

import json

import pytest

from benchmarks.experiments import chat, srlm_training
from benchmarks.experiments.chat import LEAST_TURNS, conversations
from benchmarks.experiments.looking_back import draw, table
from benchmarks.experiments.packages import PACKAGES, package_pairs
from benchmarks.experiments.pictures import draw_ranking
from benchmarks.experiments.records import Ranked, Records, change, ranking_table, said
from trainers.embedded.corpus import Document

PAIR = ("recent", "bm25")


def test_a_measurement_is_made_once(tmp_path):
    records, made = Records(tmp_path / "new" / "runs.jsonl"), []
    for _ in range(2):
        assert records.once({"text": "a"}, lambda: made.append(1) or {"loss": 1.0}) == {"text": "a", "loss": 1.0}
    assert Records(records.path).once({"text": "a"}, lambda: {"loss": 2.0})["loss"] == 1.0
    assert Records(records.path).once({"text": "b"}, lambda: {"loss": 2.0})["loss"] == 2.0
    assert made == [1]


def test_half_a_line_is_not_a_measurement(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"text": "a", "loss": 1.0}\n{"text": "b", "lo')
    records = Records(path)
    assert records.known({"text": "b"}) is None
    records.once({"text": "b"}, lambda: {"loss": 2.0})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.0, 2.0]


def test_the_table_pairs_queries_and_names_the_range_of_seeds():
    rows = [{"retriever": "one", "seed": 0, "ranks": [1, 2] * 5}]
    rows += [{"retriever": "two", "seed": seed, "ranks": [1, 1 + seed] * 5} for seed in range(2)]
    assert Ranked(rows[1:]).of_queries() == [1.0, 0.75] * 5
    assert Ranked(rows[1:]).spread() == "0.875 (0.750 to 1.000)"
    interval = Ranked(rows[1:]).against(Ranked(rows[:1]))
    assert interval.mean == pytest.approx(0.125) and interval.low < 0.125 < interval.high
    assert Ranked(rows[1:2]).against(Ranked(rows[1:])) == (0.0, 0.0, 0.0)  # of the same seed
    lines = ranking_table(rows, {"two": "one"}).splitlines()
    assert lines[2] == "| one | 0.750 |  |"
    assert lines[3].startswith("| two | 0.875 (0.750 to 1.000) | +0.125 (+0.0") and lines[3].endswith(" from one |")


def test_a_picture_of_a_ranking(tmp_path):
    rows = [{"retriever": name, "seed": 0, "ranks": [1, 2] * 5} for name in ("one", "one, half width")]
    draw_ranking(rows, tmp_path / "new" / "ranking.svg")
    drawn = (tmp_path / "new" / "ranking.svg").read_text()
    assert "one, half width" in drawn and "MRR@10 of 10 queries" in drawn
    draw_ranking(rows, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn


def test_a_change_of_perplexity(tmp_path):
    before = {str(text): {"loss": 1.1} for text in range(6)}
    after = {str(text): {"loss": 1.0} for text in range(6)}
    assert change(before, before) is None and said(None) == ""
    assert said(change(after, before)) == "-9.5% (-9.5% to -9.5%)"
    assert said(change(dict(list(after.items())[:2]), before)) == "-9.5%"
    rows = [
        {
            "kind": kind,
            "text": kind + text,
            "mode": mode,
            "method": method,
            "loss": loss + len(method) / 9,
            "seconds": 1,
        }
        for kind, loss in (("code", 1.0), ("prose", 2.0))
        for text in "abcdef"
        for mode, method in (("exact", "no"), ("exact", "bm25"), ("reuse", "no"))
    ]
    lines = table(rows)
    assert [line.split(" | ")[0] for line in lines[2::3]] == ["| 6 code", "| 6 prose", "| 12 all"]
    assert lines[-2].split(" | ")[4] == "+24.9% (+24.9% to +24.9%)"
    draw(rows, tmp_path / "picture.svg")
    assert "12 texts" in (tmp_path / "picture.svg").read_text()


def test_packages_are_held_out_whole(monkeypatch):
    monkeypatch.setitem(PACKAGES, "train", ("tqdm",))
    monkeypatch.setitem(PACKAGES, "development", ())
    monkeypatch.setitem(PACKAGES, "test", ("tqdm",))
    package_pairs.cache_clear()
    try:
        assert package_pairs("test") and all(pair.name.startswith("tqdm/") for pair in package_pairs("test"))
        assert package_pairs("train") == ()  # every text of it is held out
        package_pairs.cache_clear()
        monkeypatch.setitem(PACKAGES, "development", ("no_such_package",))
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            package_pairs("development")
    finally:
        package_pairs.cache_clear()


def test_conversations_are_interpreter_sessions_with_all_turns_before(monkeypatch):
    monkeypatch.setitem(chat.PACKAGES, "test", ("networkx",))
    found = conversations("test", 2, rows=3)
    assert len(found) == 2
    for rows in found.values():
        assert len(rows) == 3
        for row in rows:
            assert row["query"].startswith(">>> ") and row["answer"] and len(row["history"]) >= LEAST_TURNS // 2
            assert all("Speaker 1: >>> " in turn and "\nSpeaker 2: " in turn for turn in row["history"])
    rows = [{"module": str(n), "method": name, "loss": n + way} for n in range(6) for way, name in enumerate(PAIR)]
    assert chat.table(rows).splitlines()[-1] == "| bm25 | 6 | 33.12 | +171.8% (+171.8% to +171.8%) |"


def test_conversations_of_several_topics_come_back_to_each(monkeypatch):
    def module(name: str) -> Document:
        session = "\n    ".join(f">>> {name!r} * {times}\n    {name * times!r}" for times in range(1, 8))
        return Document(name, "\n".join(f'def f{n}():\n    """\n    {session}\n    """' for n in range(4)))

    monkeypatch.setattr(chat, "sources_of", lambda package: [module("a"), module("b"), module("c")])
    monkeypatch.setitem(chat.PACKAGES, "test", ("one",))
    ((name, rows),) = conversations("test", 8, rows=28, topics=2).items()
    first, second = name.split(" + ")
    turns = [turn[len("Speaker 1: >>> '")] for turn in rows[-1]["history"]]
    assert len(rows) == 28 and "".join(turns) == (first * 7 + second * 7) * 3 + first * 7 + second * 6


def test_what_training_with_retrieval_adds():
    def row(gain: float) -> dict:
        return {"no": [1.0 + n for n in range(6)], "bm25": [1.0 + n - gain for n in range(6)]}

    found = {"not further": [row(0.1)], "no": [row(0.1), row(0.1)], "bm25": [row(0.1), row(0.3)]}
    assert said(srlm_training.more(found)) == "-9.5% (-9.5% to -9.5%)"
    assert srlm_training.table(found).splitlines()[-1].endswith(" | 17.72% (9.52% to 25.92%) |")
