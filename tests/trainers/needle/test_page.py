"""The picture and the page of a needle test."""

import re
from xml.etree import ElementTree

import markupsafe

from tests.support.needle import answered, made_up
from tests.support.perplexity import HOSTILE
from trainers.needle.page import SHOWN, render_report, seen_table, write_report
from trainers.needle.picture import color_of, heat_maps
from trainers.needle.results import NeedleResults
from trainers.needle.settings import Cell

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_has_a_square_for_each_cell_in_its_colour():
    drawn = ElementTree.fromstring(heat_maps(made_up()))
    squares = {}
    for group in drawn.iter(f"{SVG}g"):
        if (title := group.find(f"{SVG}title")) is not None:
            rectangle, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
            squares[title.text] = rectangle, None if text is None else text.text
    assert len(squares) == 8
    said = "bm25, 2,048 tokens, at 0 %, 1 needle: 1 of 4 right; the needle stood before the model in 0"
    rectangle, text = squares[said]
    assert text == "25 %" and rectangle.get("fill") == "#{:02x}{:02x}{:02x}".format(*color_of(0.25))
    rectangle, text = squares[
        "alone, 32,768 tokens, at 0 %, 1 needle: longer than the 8,192 positions of the model alone"
    ]
    assert text is None and rectangle.get("fill") == "url(#not-possible)"
    places = {(one.get("x"), one.get("y")) for one, _ in squares.values()}
    assert len(places) == 8
    size = float(drawn.get("width")), float(drawn.get("height"))
    assert all(0 < float(place) < limit for pair in places for place, limit in zip(pair, size, strict=True))
    labels = [one.text for one in drawn.iter(f"{SVG}text")]
    assert {"bm25, 1 needle", "alone, 1 needle", "2k", "32k", "0 %", "100 %"} <= set(labels)


def test_the_page_holds_table_and_wrong_answers_and_runs_none_of_them(tmp_path):
    results = made_up(HOSTILE)
    write_report(tmp_path / "needles.html", results, [("model", HOSTILE)])
    page = (tmp_path / "needles.html").read_text(encoding="utf-8")
    assert page == render_report(results, [("model", HOSTILE)])
    assert "<script" not in page and "<img" not in page
    around = page.replace(str(markupsafe.escape(HOSTILE)), "")
    assert re.findall(r"(?:src|href)\s*=\s*(\S+)", around) == ['"data:,">']
    assert page.replace("http://www.w3.org/2000/svg", "").count("://") == 0
    assert "9 of 24 answers are wrong" in page and page.count("red-fox") == 9
    assert "Hatched: longer than the 8,192 positions of the model alone." in page
    assert "The share of right answers, in which each depth counts the same. -: longer than" in page
    assert "<td>56%</td>" not in page and "<td>62%</td><td>25%</td>" in page


def test_a_page_shows_so_many_wrong_answers():
    results = made_up()
    results.answers = [{**row, "correct": False} for row in results.answers] * 20
    page = render_report(results, [])
    assert f"480 of 480 answers are wrong; the first {SHOWN}" in page and page.count("red-fox") == SHOWN


def test_found_and_read_are_told_apart():
    assert seen_table(made_up()) == [["bm25", "50%", "75%"], ["alone", "100%", "100%"]]


def test_neither_nearly_all_nor_hardly_any_is_rounded_away():
    results = NeedleResults({"seed": 0}, answered(Cell("bm25", 2048, 0, 1), 299, 300))
    results.answers += answered(Cell("no", 2048, 0, 1), 1, 300, seen=False)
    assert [row[-1] for row in results.table()[1:]] == [">99%", "<1%"]
    assert seen_table(results) == [["bm25", "100%", ">99%"], ["no", "0%", ""]]
    shown = [text.text for text in ElementTree.fromstring(heat_maps(results)).iter(f"{SVG}text")]
    assert {">99 %", "<1 %"} <= set(shown)
