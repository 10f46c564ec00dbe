"""The demo's page and its sentences: true whatever the figures are, whole, and drawn by a browser."""

import html
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.demo import WAYS, findings, perplexity
from tests.support.perplexity import data_of
from trainers.demo.report import finding_table, reading_table, write_report
from trainers.demo.story import sentences

BROWSER = Path("/usr/bin/chromium")
DENSE, TUNED, NO = ("exact", "dense", "before"), ("exact", "dense", "after"), ("exact", "no", "before")
SOME = {("exact", "oracle", "before"): 0.4, ("exact", "bm25", "before"): 0.05, ("exact", "random", "before"): -0.02}


@pytest.mark.parametrize(("gain", "tuned", "rank", "said", "then", "mrr"), [
    (0.1, 0.2, 1, "9.5 % lower", "9.5 % lower", "1.000 where it had 0.500"),
    (-0.1, -0.2, 4, "10.5 % higher", "10.5 % higher", "0.250 where it had 0.500"),
])  # fmt: skip
def test_the_sentences_are_true_for_better_and_worse(gain, tuned, rank, said, then, mrr):
    done, looking, learned = sentences(findings({**SOME, DENSE: gain, TUNED: tuned}, after=rank))
    assert "4.2 million" in done and "last 48 tokens" in done and "6 of code" in done and "64 tokens" in done
    assert (
        f"was {perplexity(2.0 - gain):.2f} where it is {perplexity(2.0):.2f} with the window alone, {said}" in looking
    )
    assert "with random chunks it was 2.0 % higher" in looking and "share words 4.9 % lower" in looking
    assert "33.0 % lower (tried on 2 texts)" in looking
    assert mrr in learned and "24 examples" in learned and "has 0.250" in learned
    assert f"the perplexity with what it finds was {then}" in learned
    assert "chance" not in learned


def test_what_may_be_chance_is_called_so():
    *_, learned = sentences(findings(SOME, after=2))
    assert "which may be chance" in learned


def test_the_tables_hold_the_figures_of_the_texts_that_both_ways_read():
    found = findings({**SOME, DENSE: 0.1, ("reuse", "dense", "before"): 0.05})
    rows = {row[0]: row for row in reading_table(found)[1:]}
    assert len(rows) == len(WAYS) - 1
    assert rows["the retriever (dense)"][1:4] == ["6", f"{perplexity(2.0):.2f}", f"{perplexity(1.9):.2f}"]
    oracle = rows["trying every chunk (oracle)"]
    assert oracle[1:3] == ["2", f"{perplexity(2.0, texts=2):.2f}"] and "to" not in oracle[4]
    # of kept states, which read more, only the chunks that all ways scored
    assert rows["kept states: the retriever (dense)"][3] == f"{perplexity(1.95):.2f}"
    assert finding_table(found)[1:] == [
        ["shared words (BM25)", "0.250", "0.431", "1.000"],
        ["a retriever, before", "0.500", "0.631", "1.000"],
        ["a retriever, fine-tuned", "1.000", "1.000", "1.000"],
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    found = findings({**SOME, DENSE: 0.1, TUNED: 0.12})
    file = tmp_path_factory.mktemp("demo") / "report.html"
    write_report(file, found)
    return found, file


def test_the_page_is_whole(page):
    found, file = page
    text = file.read_text()
    assert not re.findall(r"(?:src|href)=['\"]http|<img", text)
    for sentence in sentences(found):
        assert html.escape(sentence, quote=False) in text
    assert len(re.findall(r"<circle", text)) == len(WAYS) - 1 + 2 and text.count("<polyline") == 2
    hollow = re.findall(r'fill="var\(--card\)"', text)
    assert len(hollow) == 1  # the oracle's, which read too few texts for an interval


def test_the_part_to_click_holds_what_was_looked_back_at(page):
    found, file = page
    data = data_of(file.read_text())
    assert [method["name"] for method in data["methods"]] == ["no", "dense", "dense, fine-tuned"]
    assert "kept (reuse_states)" in dict(data["settings"])["states"]
    item = data["items"][3]
    assert item["name"] == "<3>" and item["targets"] == list(range(6, 12))
    assert item["runs"][1]["sources"] == [[1, 0]] * 6 and item["runs"][0]["sources"] == [[]] * 6
    tokens = found.documents["code"][3].tokens
    assert item["texts"]["1"] == found.srlm.tokenizer.decode(tokens[16:32], clean_up_tokenization_spaces=False)


@pytest.mark.skipif(not BROWSER.exists(), reason=f"no {BROWSER}: install Debian's chromium")
def test_a_browser_draws_the_part_to_click(page, tmp_path):
    _, file = page
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    dom = subprocess.run([BROWSER, *flags, file.as_uri()], capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r'class="chunk[ "]', dom)) == 6
    assert 'id="retrieved"><article class="card"' in dom
