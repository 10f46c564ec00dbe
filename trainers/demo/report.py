"""The demo's `report.html`: one self-contained page of tables, and of plots where matplotlib is installed."""

import base64
import html
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hub_cards.whole_files import written_whole

from ..perplexity.measure import MethodResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_PLOT = "<p>No plot, as matplotlib is not installed: it comes with the extra <code>plots</code>.</p>"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } td, th { padding: .25em 1em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } img { max-width: 100%; }
"""
COLUMN_COLOR, RETRIEVAL_COLOR = "#4c72b0", "#c44e52"


def write_report(
    file: Path,
    tables: dict[str, list[list[str]]],
    histories: dict[str, list[dict[str, float]]],
    results: Sequence[MethodResult],
    mapped: tuple[str, MethodResult],
) -> None:
    """Writes the page.

    Args:
        tables: title -> rows, the first one the header.
        histories: title -> a Trainer's log history, whose losses are drawn.
        results: perplexity of each method.
        mapped: (name, result) of the document whose retrieval map is drawn.
    """
    sections = [_section(title, _table(rows)) for title, rows in tables.items()]
    sections += [_section(f"{title}: losses", _picture(_draw_losses, log)) for title, log in histories.items()]
    sections.append(_section("Perplexity on held-out modules", _picture(_draw_perplexities, results)))
    name, result = mapped
    title = f"What each chunk of {name} looked back at ({result.method})"
    sections.append(_section(title, _picture(_draw_map, result.outputs[0])))
    page = f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Lookback demo</title><style>{STYLE}"
    with written_whole(file) as new:
        new.write_text(f"{page}</style></head><body><h1>Lookback demo</h1>{''.join(sections)}</body></html>", "utf-8")


def _section(title: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{body}"


def _table(rows: list[list[str]]) -> str:
    cells = [["th" if number == 0 else "td", row] for number, row in enumerate(rows)]
    lines = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in cells]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _picture(draw: Any, data: Any) -> str:
    if find_spec("matplotlib") is None:
        return NO_PLOT
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=110, layout="tight")  # no global state, no window
    draw(figure.add_subplot(), data)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return f"<img alt='plot' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _draw_losses(axes: "Axes", log: list[dict[str, float]]) -> None:
    names = sorted(
        {name for entry in log for name in entry if name == "loss" or name.endswith("_loss")} - {"train_loss"}
    )
    for name in names:
        points = [(entry["step"], entry[name]) for entry in log if name in entry]
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()


def _draw_perplexities(axes: "Axes", results: Sequence[MethodResult]) -> None:
    bars = axes.bar(
        [result.method for result in results], [result.perplexity for result in results], color=COLUMN_COLOR
    )
    axes.bar_label(bars, fmt="%.2f")
    axes.set(ylabel="perplexity", ylim=(0.9 * min(result.perplexity for result in results), None))


def _draw_map(axes: "Axes", output: Any) -> None:
    targets, retrieved = output.target_indices[0], output.retrieved_indices[0]
    columns = targets[:, None].expand_as(retrieved)
    ranks = torch.arange(retrieved.shape[1]).expand_as(retrieved)
    found = retrieved >= 0
    points = axes.scatter(columns[found], retrieved[found], c=ranks[found], cmap="viridis_r", s=14)
    axes.plot(targets, targets, color=RETRIEVAL_COLOR, linewidth=1, label="the target itself")
    axes.set(xlabel="target chunk", ylabel="chunk looked back at")
    axes.figure.colorbar(points, label="rank (0: most relevant)")
    axes.legend()
