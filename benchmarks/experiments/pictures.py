"""Pictures of an experiment's results: a point a way of doing it, with its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib import pyplot

from trainers.demo.figures import Interval, paired

from .records import Ranked, Result, by_retriever

matplotlib.rcParams["svg.hashsalt"] = "lookback"  # the same picture is the same file


class Point(NamedTuple):
    """A line of a picture; points of one `group` have one colour."""

    name: str
    interval: Interval
    group: str = ""


def draw_points(
    points: Sequence[Point], label: str, file: Path, origin: float | None = None, scale: float = 1
) -> None:
    """Points one below the other, with their intervals, as .svg or .png.

    Args:
        label: of the axis.
        origin: where a line stands, such as no change.
        scale: 100 for percent.
    """
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(figsize=(7, 0.4 * len(points) + 1))
    colors = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(point.group for point in points))}
    for place, point in enumerate(points):
        mean, low, high = (scale * (point.interval.mean if end is None else end) for end in point.interval)
        ends = [[mean - low], [high - mean]]
        axes.errorbar(mean, -place, xerr=ends, fmt="o", color=colors[point.group], capsize=3)
    axes.set_yticks([-place for place in range(len(points))], [point.name for point in points])
    if origin is not None:
        axes.axvline(origin, color="gray", linewidth=1)
    axes.set_xlabel(label)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)


def draw_ranking(rows: Sequence[Result], file: Path) -> None:
    """Each retriever's MRR@10, with its interval over the queries."""
    points = []
    for name, group in by_retriever(rows).items():
        found = Ranked(group).of_queries()
        width = name.rpartition(", ")[2] if name.endswith("width") else ""  # of cut embeddings
        points.append(Point(name, paired(found, [0.0] * len(found)), width))
    queries = len(rows[0]["ranks"])
    draw_points(points, f"MRR@10 of {queries:,} queries, 95 % intervals", file)
