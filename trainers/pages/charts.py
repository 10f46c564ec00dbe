"""Pictures in a page, as SVG in its colours: differences as points with intervals, and lines over steps."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import markupsafe

from .page import page_templates

TEMPLATES = page_templates(Path(__file__).parent / "templates")
ROW, LEFT, MIDDLE, RIGHT = 26, 290, 420, 200  # of points: a row's height, and the widths of its parts, in pixels
WIDTH, HEIGHT, MARGIN, LEGEND = 640, 200, 46, 150  # of lines
LINES = 8  # colours of the page
Point = tuple[float, float]
MINUS = "\N{MINUS SIGN}"  # as long as a plus


class Row(NamedTuple):
    """A difference: where it lies, its 95 % interval where there is one, and what stands behind it.

    `group`: the number of its colour, and of the band of rows that it stands in.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    group: int = 0


def points(rows: Sequence[Row], title: str, axis: str, percent: bool = True) -> markupsafe.Markup:
    """One point a row on an axis that has zero on it, with its interval as a line.

    Args:
        title: what a reader who does not see the picture is told.
        axis: what stands below it. percent: whether the values are shares.
    """
    known = [one for row in rows for one in (row.value, row.low, row.high, 0.0) if one is not None]
    marks = ticks(min(known), max(known), 6)
    low, high = min(*known, marks[0]), max(*known, marks[-1])
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(LEFT + 8 + (value - low) / span * (MIDDLE - 16), 1)

    drawn = [
        {**row._asdict(), "y": number * ROW + ROW // 2, "x": at(row.value), "color": row.group % LINES,
         "ends": None if row.low is None or row.high is None else (at(row.low), at(row.high))}
        for number, row in enumerate(rows)
    ]  # fmt: skip
    labels = [(at(mark), _percent(mark) if percent else f"{mark:g}".replace("-", MINUS)) for mark in marks]
    size = {"width": LEFT + MIDDLE + RIGHT, "height": len(rows) * ROW + 40, "bottom": len(rows) * ROW}
    picture = TEMPLATES.get_template("points.svg.jinja").render(
        rows=drawn, ticks=labels, zero=at(0.0), title=title, axis=axis, left=LEFT, right=LEFT + MIDDLE, **size
    )
    return markupsafe.Markup(picture)


def lines(series: Mapping[str, Sequence[Point]], title: str, axis: str) -> markupsafe.Markup:
    """Lines by name over one axis, each from its (x, y) points. `axis` says what x counts."""
    every = [point for line in series.values() for point in line]
    across, up = ticks(min(x for x, _ in every), max(x for x, _ in every), 6), [y for _, y in every]
    marks = ticks(min(up), max(up), 4)
    low, high = min(*up, marks[0]), max(*up, marks[-1])
    first, last = min(x for x, _ in every), max(x for x, _ in every)

    def place(point: Point) -> Point:
        x = MARGIN + (point[0] - first) / ((last - first) or 1) * (WIDTH - MARGIN)
        return round(x, 1), round(8 + (high - point[1]) / ((high - low) or 1) * HEIGHT, 1)

    drawn: list[dict[str, Any]] = [
        {"name": name, "color": (number + 1) % LINES, "points": [place(point) for point in line], "last": line[-1][1]}
        for number, (name, line) in enumerate(series.items())
    ]
    _spread(drawn)
    labels = {"across": [(place((x, low))[0], f"{x:g}") for x in across],
              "up": [(place((first, y))[1], f"{y:g}") for y in marks]}  # fmt: skip
    picture = TEMPLATES.get_template("lines.svg.jinja").render(
        lines=drawn, title=title, axis=axis, width=WIDTH + LEGEND, height=HEIGHT + 48, left=MARGIN, right=WIDTH,
        bottom=HEIGHT + 8, **labels,
    )  # fmt: skip
    return markupsafe.Markup(picture)


def _spread(drawn: list[dict[str, Any]]) -> None:
    """Gives each line's name, which stands behind its end, a height of its own."""
    former = -math.inf
    for line in sorted(drawn, key=lambda line: line["points"][-1][1]):
        former = line["name_y"] = max(line["points"][-1][1], former + 15)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from the last one not above `low` to the first one not below `high`, about `most` of them.

    >>> ticks(-0.113, 0.02, 4)
    [-0.15, -0.1, -0.05, 0.0, 0.05]
    >>> ticks(3.0, 3.0, 4)
    [3.0]
    """
    if low == high:
        return [low]
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _percent(value: float) -> str:
    """A round share in percent.

    >>> _percent(0.125), _percent(12.0)
    ('+12.5 %', '+1200 %')
    """
    return f"{100 * value:+.10g} %".replace("-", MINUS) if value else "0 %"
