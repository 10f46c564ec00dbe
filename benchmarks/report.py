"""The final table, in Markdown so that the docs can quote it."""

import platform

import torch
import transformers

from .outcome import Outcome

_COLUMNS = (
    "row", "size", "measure", "other side", "equality", "ratio (min to max)", "mark", "reached", "ours", "other",
    "P (GFLOP/s)", "share of limit",
)  # fmt: skip


def table(outcomes: list[Outcome]) -> str:
    """A Markdown table with a line for each outcome."""
    return markdown(_COLUMNS, [_cells(outcome) for outcome in outcomes])


def markdown(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(outcome: Outcome) -> list[str]:
    return [
        outcome.row, outcome.size, _measure(outcome), outcome.other, outcome.check.text,
        str(outcome.ratio or "FAIL"), str(outcome.mark or "-"), outcome.verdict, outcome.ours, outcome.theirs,
        "-" if outcome.throughput is None else f"{outcome.throughput / 1e9:.0f}",
        "-" if outcome.share is None else f"{outcome.share:.0%}",
    ]  # fmt: skip


def _measure(outcome: Outcome) -> str:
    return f"{outcome.measure} ({outcome.note})" if outcome.note else outcome.measure


def describe_machine(device: torch.device) -> str:
    """The device and the versions that the figures hold for."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    )
    return f"{name}; {versions}. A ratio is the other side's figure divided by ours, unless the row says otherwise."
