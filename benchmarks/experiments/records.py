"""What an experiment has found so far, on the disk: every measurement is a line, and is made once.

The same command goes on where it was interrupted. Lines of several settings may stand in one file; a line is known by
the fields that say what was measured.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainers.demo.figures import Interval, paired
from trainers.demo.retrieval import CUTOFF, reciprocal_ranks

Result = dict[str, Any]


class Records:
    """JSON lines of one file.

    >>> import tempfile
    >>> records = Records(Path(tempfile.mkdtemp()) / "runs.jsonl")
    >>> records.once({"text": "a"}, lambda: {"loss": 1.5})
    {'text': 'a', 'loss': 1.5}
    >>> Records(records.path).once({"text": "a"}, lambda: {"loss": 2.5})
    {'text': 'a', 'loss': 1.5}
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        self.rows: list[Result] = [json.loads(line) for line in lines if line.endswith("\n")]
        if lines and not lines[-1].endswith("\n"):  # cut off while it was written
            path.write_text("".join(lines[:-1]))

    def known(self, key: Result) -> Result | None:
        """The line with these fields, if there is one."""
        return next((row for row in self.rows if key.items() <= row.items()), None)

    def once(self, key: Result, work: Callable[[], Result]) -> Result:
        """The line with these fields; what it says beside them is found by `work` now, unless it is known."""
        row = self.known(key)
        if row is None:
            row = {**key, **work()}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.rows.append(row)
        return row


class Ranked:
    """Ranks of the same queries' right passages, found by one kind of retriever under several seeds."""

    def __init__(self, rows: Sequence[Result]):
        self.by_seed = {row.get("seed"): row for row in rows}
        self.runs = [reciprocal_ranks(row["ranks"]) for row in rows]

    def spread(self) -> str:
        """Mean MRR@10 over the seeds, and the range."""
        means = [statistics.mean(run) for run in self.runs]
        least = f" ({min(means):.3f} to {max(means):.3f})" if len(means) > 1 else ""
        return f"{statistics.mean(means):.3f}{least}"

    def of_queries(self) -> list[float]:
        """Reciprocal rank of each query, mean over the seeds."""
        return [statistics.mean(column) for column in zip(*self.runs, strict=True)]

    def against(self, other: "Ranked") -> Interval:
        """The difference of MRR@10, with its paired interval over the queries.

        Seeds are paired, too: of the other those that are ours, where it has all of them.
        """
        if self.by_seed.keys() < other.by_seed.keys():
            other = Ranked([other.by_seed[seed] for seed in self.by_seed])
        return paired(self.of_queries(), other.of_queries())


def change(rows: dict[str, Result], base: dict[str, Result]) -> Interval | None:
    """Relative change of the perplexity from another way's, over the texts that both have; None for itself."""
    both = [text for text in rows if text in base]
    pairs = [(rows[text]["loss"], base[text]["loss"]) for text in both]
    if not any(after != before for after, before in pairs):
        return None
    return paired(*zip(*pairs, strict=True)).relative()  # type: ignore[arg-type]


def said(interval: Interval | None) -> str:
    """An interval in the table."""
    if interval is None:
        return ""
    mean, low, high = interval
    return f"{mean:+.1%}" if low is None else f"{mean:+.1%} ({low:+.1%} to {high:+.1%})"


def by_retriever(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """Each retriever's results, of all its seeds."""
    groups: dict[str, list[Result]] = {}
    for row in rows:
        groups.setdefault(row["retriever"], []).append(row)
    return groups


def ranking_table(rows: Sequence[Result], against: dict[str, str]) -> str:
    """Markdown: each retriever's MRR@10, its seeds, and how far it is from the one that `against` names for it."""
    ranked = {name: Ranked(group) for name, group in by_retriever(rows).items()}
    lines = [
        f"| retriever | MRR@{CUTOFF} (range over seeds) | difference (95 % interval over queries) |",
        "|---|---|---|",
    ]
    for name, one in ranked.items():
        base = against.get(name)
        said = ""
        if base in ranked:
            mean, low, high = one.against(ranked[base])
            said = f"{mean:+.3f} ({low:+.3f} to {high:+.3f}) from {base}"
        lines.append(f"| {name} | {one.spread()} | {said} |")
    return "\n".join(lines)
