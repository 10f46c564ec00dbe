"""The benchmarks at their quick sizes: each side computes the same, and what does not is no ratio."""

import sys
import tomllib
from fnmatch import fnmatch

import pytest
import torch

from benchmarks import srlm_plain
from benchmarks.__main__ import main, parse
from benchmarks.compare import Comparison, compare
from benchmarks.machine import counted
from benchmarks.options import Options
from benchmarks.outcome import Check, Mark, Outcome, Ratio
from benchmarks.plain_bm25 import PlainBm25
from benchmarks.reference import load_reference
from benchmarks.report import table
from benchmarks.rows import bm25, encode, load_row, row_names
from benchmarks.rows.srlm_generate import same_tokens
from benchmarks.shapes import random_backbone
from benchmarks.srlm_plain import PlainSide
from benchmarks.srlm_reuse_task import build_modes, equals_plain_pass
from benchmarks.srlm_task import OurSide, Scored, build_task, same_scores
from modeling_srlm.attended_srlm import AttendedStates
from tests.support import ROOT, quick_first

CPU = torch.device("cpu")
QUICK = Options(CPU, repeats=2, quick=True)


def test_every_file_is_a_row():
    assert {"bm25", "srlm-document", "srlm-generate", "srlm-oracle", "srlm-perplexity"} <= set(row_names())
    assert {f"srlm-reuse{part}" for part in ("", "-feedback", "-generate", "-length", "-million")} <= set(row_names())
    assert all(callable(load_row(name)) for name in row_names())


def test_the_benchmarks_are_not_installed_but_checked():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert not any(fnmatch("benchmarks", pattern) for pattern in tools["setuptools"]["packages"]["find"]["include"])
    assert "benchmarks" in tools["mypy"]["files"]


@pytest.mark.parametrize(
    "name", quick_first(["srlm-perplexity", "srlm-oracle", "srlm-generate", "encode-examples", "bm25"])
)
def test_a_row_of_two_sides(name):
    (outcome,) = load_row(name)(QUICK)
    assert outcome.row == name and outcome.equal, outcome.check.text
    assert outcome.ratio.low <= outcome.ratio.median <= outcome.ratio.high
    assert outcome.verdict == "-" and outcome.throughput > 0
    assert name == "bm25" or outcome.share > 0


@pytest.mark.parametrize(
    ("name", "count"), quick_first([("srlm-reuse", 1), ("srlm-reuse-feedback", 3), ("srlm-reuse-generate", 2)])
)
def test_a_row_of_two_modes_is_gated_by_what_both_must_equal(name, count):
    outcomes = load_row(name)(Options(CPU, repeats=1, quick=True))
    assert len(outcomes) == count == len({outcome.note for outcome in outcomes})
    for outcome in outcomes:
        assert outcome.equal and outcome.ratio.median > 0 and outcome.share > 0, outcome.check.text


def test_kept_states_that_stand_elsewhere_are_no_plain_pass(monkeypatch):
    modes = build_modes("quick", 256, QUICK)
    assert equals_plain_pass(modes).equal
    places = AttendedStates.position_ids
    monkeypatch.setattr(AttendedStates, "position_ids", lambda self, count: places(self, count) + self.end // 32)
    assert not equals_plain_pass(modes).equal
    assert modes.kept.config.retrieval_method == "bm25"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["srlm-reuse-length", "srlm-reuse-million"])
def test_long_documents_are_scored_in_processes_of_their_own(name):
    outcomes = load_row(name)(Options(CPU, repeats=1, quick=True))
    assert all(outcome.equal and outcome.ratio.median > 0 and outcome.detail for outcome in outcomes)
    assert "memory" in outcomes[-1].measure


@pytest.mark.slow
def test_documents_are_scored_in_processes_of_their_own():
    outcomes = load_row("srlm-document")(Options(CPU, repeats=1, quick=True))
    assert [outcome.measure for outcome in outcomes] == [
        "time per token, bm25", "memory, bm25", "time per token, dense", "memory, dense",
    ]  # fmt: skip
    assert all(outcome.equal and outcome.ratio.median > 0 for outcome in outcomes)
    assert "| 2,048 |" in outcomes[0].detail


@pytest.mark.parametrize("cuts_off", [True, False], ids=["loss", "keys"])
def test_a_side_that_differs_prints_fail_and_no_ratio(cuts_off, monkeypatch, capsys):
    right = PlainSide.perplexity

    def wrong(self):
        scored = right(self)
        return Scored(scored.loss * 1.001, scored.keys) if cuts_off else Scored(scored.loss, scored.keys[::-1])

    monkeypatch.setattr(srlm_plain.PlainSide, "perplexity", wrong)
    assert main(["srlm-perplexity", "--quick", "--repeats", "1"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL, not equal: " + ("loss" if cuts_off else "target 0: keys") in printed
    assert "| FAIL | - | FAIL | - | - | - | - |" in printed


def test_a_row_that_is_equal_exits_with_zero(capsys):
    assert main(["bm25", "--quick", "--repeats", "1"]) == 0
    assert "straightforward implementation" in capsys.readouterr().out


def test_a_nan_is_not_equal():
    assert not same_scores(Scored(float("nan"), [[0]]), Scored(1.0, [[0]])).equal
    assert not same_scores(Scored(1.0, [[0]]), Scored(float("nan"), [[0]])).equal


def test_tokens_say_where_they_differ():
    assert same_tokens([1, 2, 3], [1, 2, 3]).equal
    assert same_tokens([1, 2, 3], [1, 5, 3]) == Check(False, "tokens differ from 1 on (3 and 3 in all)")
    assert not same_tokens([1, 2], [1, 2, 3]).equal


@torch.no_grad()
def test_the_oracles_keys_are_those_of_all_keys():
    """A key's score is that of a straightforward pass, so trying all finds the lowest."""
    task = build_task("quick", 1024, QUICK, keys=1)
    plain = PlainSide(task)
    ours = OurSide(task).oracle()
    for target in (0, task.num_targets - 1):
        losses = [plain._loss(target, [key]) for key in range(task.num_keys)]
        assert ours.keys[target] == [losses.index(min(losses))]
        assert max(losses) - min(losses) > 1e-3  # far enough apart for the question to mean something


def test_plain_bm25_is_the_closed_form():
    """Two keys of one token each, mean length 1: idf ln(1 + 1.5 / 1.5) over 1 + k1."""
    index = PlainBm25([[7], [8], [9]], k1=1.5, b=0.75)
    assert index.search([[8], [9, 9]], hits=1) == [[1], [2]]
    ((number, weight),) = index.postings[8]
    assert (number, weight) == (1, pytest.approx(1 / 2.5))


def test_bm25_gate_sees_a_wrong_rank_and_a_key_named_twice():
    formula = torch.arange(20.0).repeat(2, 1)
    best = list(range(19, 11, -1))
    assert bm25._same_top([best, best], formula, "top").equal
    assert not bm25._same_top([best, [*best[:-1], 3]], formula, "top").equal
    assert not bm25._same_top([best, [19, *best[:-1]]], formula, "top").equal


def test_the_sides_take_turns_and_the_first_pair_is_not_timed():
    calls = []
    case = Comparison(
        "row", "quick", lambda: calls.append("A"), lambda: calls.append("B"), "other",
        lambda ours, theirs: Check(True, "same"), {("quick", "cpu"): 0.0}, {},
    )  # fmt: skip
    (outcome,) = compare(case, Options(CPU, repeats=3, quick=True))
    assert "".join(calls) == "AB" + "AB" * 3
    assert outcome.verdict == "yes"


def test_equality_is_checked_in_float32_and_the_backbone_gets_its_dtype_back():
    backbone = random_backbone("quick", CPU).bfloat16()
    seen = []
    case = Comparison(
        "row", "quick", lambda: seen.append(next(backbone.parameters()).dtype), lambda: None, "other",
        lambda ours, theirs: Check(True, "same"), {}, {}, backbone,
    )  # fmt: skip
    compare(case, Options(CPU, repeats=1, quick=True))
    assert seen == [torch.float32, torch.bfloat16]


def test_marks_and_the_table():
    assert Mark(3.0).reached(3.0) and not Mark(3.0).reached(2.9)
    assert Mark(1.1, at_most=True).reached(1.0) and not Mark(1.1, at_most=True).reached(1.2)
    missed = Outcome("row", "small", "time", "other", Check(True, "same"), Ratio.of([2.0, 2.5, 3.0]), mark=Mark(3.0))
    head, rule, line = table([missed]).splitlines()
    assert head.count("|") == rule.count("|") == line.count("|")
    assert "| 2.50 (2.00 to 3.00) | at least 3 | no |" in line


@torch.no_grad()
def test_flops_are_those_of_the_products_with_causal_attention_at_half():
    backbone = random_backbone("quick", CPU)
    length, hidden, layers, inner, words = 64, 32, 2, 64, 512
    projections = 2 * length * hidden * (4 * hidden + 3 * inner)
    attention = 2 * 2 * length * length * hidden // 2
    expected = layers * (projections + attention) + 2 * length * hidden * words
    _, flops = counted(lambda: backbone(torch.arange(3, 3 + length)[None], use_cache=False))
    assert flops == pytest.approx(expected, rel=0.01)  # the rotary angles come on top


def test_bad_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(["srlm-nothing"])
    assert "'srlm-nothing' is no row; the rows are biencoder-memory, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse(["--repeats", "0"])
    with pytest.raises(SystemExit):
        parse(["--all", "bm25"])
    assert parse(["--all"])[1] == row_names() and "srlm-reuse-million" in row_names()
    quick = parse([])[1]
    assert {"bm25", "encode", "srlm-perplexity"} <= set(quick) and not {"srlm-reuse", "srlm-document"} & set(quick)
    with pytest.raises(ValueError, match="give the path of a FlagEmbedding checkout"):
        load_reference(tmp_path, "src.lm.modeling_srlm")
    for wrong, said in ((["bm25", "--reference", str(tmp_path)], "give the path of a Flag"),
                        (["srlm-oracle", "encode", "--size", "minilm"], "srlm-oracle needs a decoder")):  # fmt: skip
        with pytest.raises(SystemExit):
            parse(wrong)
        assert said in capsys.readouterr().err


def test_marks_that_the_design_names_are_judged():
    every, quick = parse(["--all"])[0], parse([])[0]
    for name in ("encode", "biencoder-step", "llara-step", "srlm-reuse", "srlm-perplexity", "llara-memory"):
        row = sys.modules[load_row(name).__module__]
        assert "medium" in every.sizes(row.SIZES, getattr(row, "SLOW_SIZES", {}))
    assert quick.sizes(encode.SIZES, encode.SLOW_SIZES) == ("small",)
