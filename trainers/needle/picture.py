"""The heat maps of a needle test as one SVG picture: accuracy by length and depth, a map for each way of reading."""

from pathlib import Path
from typing import Any, NamedTuple

from ..pages.page import page_templates
from .results import NeedleResults, Score, percent
from .settings import Cell, shown_length

TEMPLATES = page_templates(Path(__file__).parent / "templates")
WIDTH, HEIGHT = 46, 24  # of a cell, in pixels
LEFT, TOP, GAP = 46, 40, 26  # beside, above and between maps
# All wrong, half right, all right: told apart by colour-blind people, and in grey.
COLORS = ((0xD4, 0x55, 0x2B), (0xF3, 0xE3, 0xC3), (0x1F, 0x7F, 0xD0))


class Square(NamedTuple):
    """A cell of a map: its place in pixels, its colours, what stands in it and what is said of it."""

    x: int
    y: int
    fill: str | None  # None for what could not be done
    ink: str
    text: str
    title: str


def heat_maps(results: NeedleResults) -> str:
    """The SVG picture: a row of maps for each number of needles, a map for each method."""
    lengths, depths = results.values("length"), results.values("depth")
    methods, keys = results.values("method"), results.values("keys")
    wide = LEFT + WIDTH * len(lengths) + GAP
    high = TOP + HEIGHT * len(depths) + GAP + 18
    maps = [
        _map(results, method, number, lengths, depths, (column * wide, row * high))
        for row, number in enumerate(keys)
        for column, method in enumerate(methods)
    ]
    size = {"width": wide * len(methods), "height": high * len(keys)}
    return TEMPLATES.get_template("heat_maps.svg.jinja").render(maps=maps, cell=(WIDTH, HEIGHT), **size)


def _map(
    results: NeedleResults, method: str, keys: int, lengths: list[int], depths: list[int], place: tuple[int, int]
) -> dict[str, Any]:
    left, top = place[0] + LEFT, place[1] + TOP
    scores = results.scores()
    bottom = top + HEIGHT * len(depths) + 14
    return {
        "title": f"{method}, {needles(keys)}", "x": left, "y": top - 12,
        "squares": [
            _square(results, scores, Cell(method, length, depth, keys), (left + column * WIDTH, top + row * HEIGHT))
            for row, depth in enumerate(depths)
            for column, length in enumerate(lengths)
        ],
        "lengths": [(left + (column + 0.5) * WIDTH, bottom, shown_length(one)) for column, one in enumerate(lengths)],
        "depths": [(left - 6, top + (row + 0.5) * HEIGHT + 4, f"{depth} %") for row, depth in enumerate(depths)],
    }  # fmt: skip


def _square(results: NeedleResults, scores: dict[Cell, Score], cell: Cell, place: tuple[int, int]) -> Square:
    said = f"{cell.method}, {cell.length:,} tokens, at {cell.depth} %, {needles(cell.keys)}: "
    score = scores.get(cell)
    if score is None:
        reason = results.impossible.get(cell, "not measured")
        return Square(*place, None, "", "", said + reason)
    seen = "" if score.seen is None else f"; the needle stood before the model in {score.seen}"
    red, green, blue = color_of(score.accuracy)
    ink = "#ffffff" if 0.3 * red + 0.59 * green + 0.11 * blue < 150 else "#1c2128"
    fill = f"#{red:02x}{green:02x}{blue:02x}"
    text = percent(score.accuracy).replace("%", " %")
    return Square(*place, fill, ink, text, f"{said}{score.correct} of {score.samples} right{seen}")


def needles(keys: int) -> str:
    """ "1 needle", "4 needles"."""
    return f"{keys} needle{'s' if keys > 1 else ''}"


def color_of(accuracy: float) -> tuple[int, int, int]:
    """Red, green and blue of an accuracy from 0 to 1.

    >>> color_of(0), color_of(0.5), color_of(1)
    ((212, 85, 43), (243, 227, 195), (31, 127, 208))
    """
    low, high = COLORS[:2] if accuracy < 0.5 else COLORS[1:]
    share = accuracy * 2 if accuracy < 0.5 else accuracy * 2 - 1
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue
