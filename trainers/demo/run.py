"""`lookback demo`: the whole loop, in minutes, with a page to look at.

On the model and the corpus of the package, or with --pretrained on real models out of installed packages.
"""

import json
import time
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging

from hub_cards.whole_files import full_disk_named, written_whole

from ..commands.parsing import parse_arguments
from .embedded import run_embedded
from .figures import Findings
from .pretrained import check_installed, run_pretrained
from .report import Table, finding_table, reading_table, reload_table, write_report
from .settings import DemoArguments, PretrainedArguments
from .story import sentences

ARGUMENTS = (DemoArguments,)
EXAMPLES = r"""
# the whole loop, in minutes
lookback demo
# on real models: SmolLM2-135M and all-MiniLM-L6-v2, in twenty minutes
lookback demo --pretrained
# a first look, in seconds
lookback demo --llara_steps 5 --biencoder_steps 5 --code_pairs 64 --holdout_pairs 50 \
    --feedback_documents 2 --max_documents 2
"""


def main(argv: list[str]) -> None:
    """Runs the demo with the arguments `argv` and prints its tables."""
    (options,) = parse_arguments(argv, ARGUMENTS, "demo", __doc__)
    if options.pretrained:  # the same options, with defaults of its own
        (options,) = parse_arguments(argv, (PretrainedArguments,), "demo", __doc__)
        check_installed()
    with full_disk_named(options.output_dir):
        run_demo(options)


def run_demo(options: DemoArguments) -> Findings:
    """All the steps, and then the page."""
    began = time.perf_counter()
    set_seed(options.seed)
    logging.set_verbosity_error()
    found = run_pretrained(options) if isinstance(options, PretrainedArguments) else run_embedded(options)
    report = Path(options.output_dir) / "report.html"
    write_report(report, found)
    tables = tables_of(found)
    with written_whole(report.with_name("figures.json")) as new:
        new.write_text(json.dumps({"sentences": sentences(found), **tables}, indent=1, ensure_ascii=False), "utf-8")
    for title, table in tables.items():
        print(f"\n{title}\n{as_text(table)}")
    print("\n" + "\n".join(sentences(found)))
    print(f"\n{time.perf_counter() - began:.0f} s; pictures and texts in {report}; the repos are beside it.")
    return found


def tables_of(found: Findings) -> dict[str, Table]:
    """The tables by their titles."""
    return {
        "Docstring -> code, held-out modules": finding_table(found),
        "Perplexity, held-out texts": reading_table(found),
        "Reloaded in a fresh process": reload_table(found),
    }


def as_text(table: Table) -> str:
    """A table with its columns below each other.

    >>> print(as_text([["a", "b"], ["long", "1"]]))
    a     b
    long  1
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)
