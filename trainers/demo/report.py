"""The demo's `report.html`: what was done and found, for a reader who knows none of it. One page, no network.

The words of the page stand in its template; here is what they are said about.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..pages.charts import Row, lines, points
from ..pages.page import page_templates, write_page
from ..perplexity import page as perplexity_page
from ..perplexity.measure import MethodResult
from ..perplexity.page_data import describe, document_page
from .figures import Findings, Reading, Way, paired
from .retrieval import CUTOFF, reciprocal_ranks
from .story import BASE, label, sentences, signed, with_bounds

TEMPLATES = page_templates(Path(__file__).parent / "templates", perplexity_page.FOLDER)
LOSSES = {
    "loss": "all", "contrastive_loss": "contrast", "distillation_loss": "the teacher",
    "ar_loss": "next token", "bow_summarize_loss": "its own words", "bow_predict_loss": "words that follow",
}  # fmt: skip
OPENED = {"no": 0, "dense": 1}  # the part to click compares with its first way, and opens with its second
Table = list[list[str]]  # rows of cells, the first one the header


def write_report(file: Path, found: Findings) -> None:
    """Writes the page of a loop."""
    reading, finding = reading_table(found), finding_table(found)
    text = TEMPLATES.get_template("demo.html.jinja").render(
        found=found, sentences=sentences(found), cutoff=CUTOFF, queries=len(found.ranks["BM25"]),
        reading={"table": reading, "picture": reading_picture(found)},
        finding={"table": finding, "picture": finding_picture(found)},
        trainings={title: loss_picture(title, log) for title, log in found.histories.items()},
        reloaded=reload_table(found), kept=any(one.mode == "reuse" for one in found.readings), page=looked_at(found),
    )  # fmt: skip
    write_page(file, text)


def reading_table(found: Findings) -> Table:
    """What looking back was worth, in each way, on the texts that it read."""
    ways, kinds = found.ways, [*found.documents] if len(found.documents) > 1 else []
    rows = [["found by", "texts", "alone", "looking back", "change (95 % interval)", *kinds, "CPU s a text"]]
    for way in ways.by_way:
        if way != BASE:
            change, texts = ways.change(way, BASE)
            by_kind = [signed(ways.change(way, BASE, kind)[0].mean) for kind in kinds]
            figures = [f"{ways.perplexity(one, texts):.2f}" for one in (BASE, way)]
            rows.append([label(way), str(len(texts)), *figures, with_bounds(change), *by_kind,
                         f"{ways.seconds(way):.1f}"])  # fmt: skip
    return rows


def reading_picture(found: Findings) -> Any:
    """The changes of `reading_table` as points."""
    rows = []
    for way in found.ways.by_way:
        if way != BASE:
            change, _ = found.ways.change(way, BASE)
            group = 1 + (way[0] == "reuse") + 2 * (way[2] == "after")
            rows.append(Row(label(way), *change, with_bounds(change), group))
    return points(rows, "Change of the perplexity by way of looking back", "change of the perplexity: left is better")


def finding_table(found: Findings) -> Table:
    """How well the code of docstrings is found: each has one right answer."""
    rows = [["found by", f"MRR@{CUTOFF}", f"nDCG@{CUTOFF}", f"recall@{CUTOFF}"]]
    for name, shown in _retrievers(found).items():
        ranks = found.ranks[name]
        near = [rank for rank in ranks if rank <= CUTOFF]
        gains = (sum(reciprocal_ranks(ranks)), sum(1 / math.log2(rank + 1) for rank in near), len(near))
        rows.append([shown, *(f"{gain / len(ranks):.3f}" for gain in gains)])
    return rows


def finding_picture(found: Findings) -> Any:
    """Differences of MRR from the retriever before its fine-tuning, as points."""
    before = reciprocal_ranks(found.ranks["before"])
    rows = []
    for name in ("BM25", "after"):
        one = paired(reciprocal_ranks(found.ranks[name]), before)
        rows.append(Row(_retrievers(found)[name], *one, with_bounds(one, percent=False), group=3))
    return points(rows, f"Differences of MRR@{CUTOFF}", f"difference of MRR@{CUTOFF}: right is better", percent=False)


def _retrievers(found: Findings) -> dict[str, str]:
    return {
        "BM25": "shared words (BM25)",
        "before": f"{found.retriever}, before",
        "after": f"{found.retriever}, fine-tuned",
    }


def loss_picture(title: str, log: Sequence[dict[str, float]]) -> Any:
    """The losses of a training over its steps."""
    names = {name for entry in log for name in entry if name.endswith("loss")} - {"train_loss"}
    series = {
        LOSSES.get(name, name): [(entry["step"], entry[name]) for entry in log if name in entry]
        for name in sorted(names)
    }
    return lines(series, f"Losses of {title}", "step")


def reload_table(found: Findings) -> Table:
    """The figures of the repos, here and in a fresh process."""
    rows = [[name, f"{here:.6f}", f"{there:.6f}"] for name, (here, there) in found.reloaded.items()]
    return [["repo", "here", "in the fresh process"], *rows]


def looked_at(found: Findings) -> dict[str, Any]:
    """The data of the part to click: kept states where they were read, as they score most of a text."""
    mode = "reuse" if any(one.mode == "reuse" for one in found.readings) else "exact"
    most = max(len(rows) for way, rows in found.ways.by_way.items() if way[0] == mode)
    ways = {way: rows for way, rows in found.ways.by_way.items() if way[0] == mode and len(rows) == most}
    ways = dict(sorted(ways.items(), key=lambda item: OPENED.get(item[0][1], len(OPENED))))
    texts = next(iter(ways.values()))
    documents = [(kind, document) for kind, some in found.documents.items() for document in some
                 if (kind, document.name) in texts]  # fmt: skip
    results = [_result(way, [rows[kind, document.name] for kind, document in documents]) for way, rows in ways.items()]
    found.srlm.config.reuse_states = mode == "reuse"
    summary = f"{len(documents)} texts, {sum(len(one.losses) for one in texts.values())} chunks of them"
    settings = describe(found.lm, found.srlm, summary)
    return document_page(found.srlm, [document for _, document in documents], results, settings)


def _result(way: Way, readings: Sequence[Reading]) -> MethodResult:
    losses = [loss for reading in readings for loss in reading.losses]
    name = way[1] + (", fine-tuned" if way[2] == "after" else "")
    return MethodResult(name, math.exp(float(np.mean(losses))), [reading.output() for reading in readings])
