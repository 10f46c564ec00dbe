# ruff: noqa: RUF001  (typographic and full-width punctuation is meant)
import doctest
import random

import pytest

from trainers.llara import sentences, stop_words
from trainers.llara.sentences import split_anywhere, split_lines, split_sentences, split_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ('He said "Go." She went.', ['He said "Go." ', "She went."]),
        ("Wait ... what? Yes.", ["Wait ... what? ", "Yes."]),
        ("Wrapped\nin lines. And\nagain.", ["Wrapped\nin lines. ", "And\nagain."]),
        ("Mr. Bell met J. Orr, i.e. Dr. Orr. They spoke.", ["Mr. Bell met J. Orr, i.e. Dr. Orr. ", "They spoke."]),
        ("Am 3. Mai, d. h. Montag. Im Jahr 1990. Danach", ["Am 3. Mai, d. h. Montag. ", "Im Jahr 1990. ", "Danach"]),
        ("Version 2.1 of file.txt works. 7 more do.", ["Version 2.1 of file.txt works. ", "7 more do."]),
        ("¿Dónde está? «Aquí.» Bien.", ["¿Dónde está? ", "«Aquí.» ", "Bien."]),
        ("我在图书馆。你呢？好。", ["我在图书馆。", "你呢？", "好。"]),
        ("A heading\n\nA sentence of it. And more.", ["A heading\n\n", "A sentence of it. ", "And more."]),
        ("a first line\na second line", ["a first line\n", "a second line"]),
        ("def f(x):\n    # No. Yes.\n    return x[0]\n", ["def f(x):\n", "    # No. Yes.\n", "    return x[0]\n"]),
        ("x = f(1)\n\n\n    y = g(2)\n    z()", ["x = f(1)\n\n\n", "    y = g(2)\n", "    z()"]),
        ("", []),
    ],
)  # fmt: skip
def test_where_a_text_is_cut(text, expected):
    assert split_sentences(text) == expected


@pytest.mark.parametrize("split", [split_sentences, split_lines, split_words, split_anywhere])
def test_what_is_cut_joins_to_the_text(split):
    random.seed(0)
    for _ in range(2000):
        text = "".join(
            random.choices(["A", "b", ".", "?", "。", " ", "\n", "\r\n", "(", '"', "=", "1", "\u2028"], k=30)
        )
        parts = split(text)
        assert "".join(parts) == text and "" not in parts


def test_no_text_takes_long():
    """Repeated characters, on which patterns of this kind are apt to backtrack."""
    for unit in (".", ". ", "\n", "\n ", '."', ".)", " "):
        assert "".join(split_sentences(unit * 100_000)) == unit * 100_000


@pytest.mark.parametrize("module", [sentences, stop_words])
def test_examples_of_the_docstrings(module):
    results = doctest.testmod(module)
    assert results.attempted > 0 and results.failed == 0
