"""`lookback evaluate --needle --report`: one page with the heat maps, the table and the wrong answers."""

from pathlib import Path

import markupsafe

from ..pages.page import write_page
from .picture import TEMPLATES, heat_maps, needles
from .results import NeedleResults, cell_of, percent
from .settings import shown_length

SHOWN = 200  # wrong answers of a page


def render_report(results: NeedleResults, settings: list[tuple[str, str]]) -> str:
    """The page of a test.

    Args:
        settings: (name, value) pairs for its head.
    """
    wrong = [row for row in results.answers if not row["correct"]]
    seen = {True: "yes", False: "no", None: ""}
    rows = [
        [cell.method, shown_length(cell.length), f"{cell.depth} %", needles(cell.keys), seen[row["seen"]], row["key"],
         row["value"], row["answer"]]
        for row in wrong[:SHOWN] for cell in [cell_of(row)]
    ]  # fmt: skip
    reasons = sorted(set(results.impossible.values()))
    return TEMPLATES.get_template("page.html.jinja").render(
        settings=settings, picture=markupsafe.Markup(heat_maps(results)), table=results.table(), reasons=reasons,
        rows=rows, wrong=len(wrong), answers=len(results.answers), seen=seen_table(results),
    )  # fmt: skip


def seen_table(results: NeedleResults) -> list[list[str]]:
    """Of each method how often the needle stood before the model, and how often the answer was right then."""
    rows = []
    for method in results.values("method"):
        known = [row for row in results.answers if row["method"] == method and row["seen"] is not None]
        seen = [row for row in known if row["seen"]]
        if known:
            right = percent(sum(row["correct"] for row in seen) / len(seen)) if seen else ""
            rows.append([method, percent(len(seen) / len(known)), right])
    return rows


def write_report(file: str | Path, results: NeedleResults, settings: list[tuple[str, str]]) -> None:
    """Renders the page into `file`, which is either the whole page or what it was before."""
    write_page(file, render_report(results, settings))
