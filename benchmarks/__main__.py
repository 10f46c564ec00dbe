"""`python -m benchmarks [NAME ... | --all] [--reference PATH]`. Exit status 1 when a row is not equal."""

import argparse
import sys
from pathlib import Path

import torch

from .options import Options
from .reference import check_checkout
from .report import describe_machine, table
from .rows import ENCODER_ROWS, load_row, quick_rows, row_names
from .shapes import SHAPES


def main(arguments: list[str] | None = None) -> int:
    """Runs the rows asked for and prints one Markdown table; 1 where an equality check failed, otherwise 0."""
    options, names = parse(arguments)
    outcomes = []
    for name in names:
        for outcome in load_row(name)(options):
            outcomes.append(outcome)
            print(outcome.describe(), flush=True)
    print(f"\n{table(outcomes)}\n\n{describe_machine(options.device)}")
    return int(any(not outcome.equal for outcome in outcomes))


def parse(arguments: list[str] | None) -> tuple[Options, list[str]]:
    """The options and the names of the rows to run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"rows to run, of {', '.join(row_names())}; default: those that take a minute or two at most",
    )
    parser.add_argument("--all", action="store_true", help="run every row, and those sizes that take long, too: hours")
    parser.add_argument("--reference", type=Path, help="checkout of FlagEmbedding to run as the other side")
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs of a row, default 5")
    parser.add_argument("--size", choices=sorted(SHAPES), help="one model size instead of the row's own")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that a row runs; no mark is judged")
    chosen = parser.parse_args(arguments)
    for name in set(chosen.names) - set(row_names()):
        parser.error(f"{name!r} is no row; the rows are {', '.join(row_names())}.")
    if chosen.all and chosen.names:
        parser.error(f"--all runs every row, {chosen.names[0]!r} too: leave out one of them.")
    if chosen.repeats < 1:
        parser.error(f"--repeats is {chosen.repeats}; it must be at least 1.")
    names = chosen.names or (row_names() if chosen.all else quick_rows())
    _check(parser, chosen, names)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Options(device, chosen.size, chosen.repeats, chosen.quick, chosen.reference, chosen.all), names


def _check(parser: argparse.ArgumentParser, chosen: argparse.Namespace, names: list[str]) -> None:
    """Ends the program where an option is not for the rows that are to run."""
    if chosen.size and SHAPES[chosen.size].encoder and (decoders := sorted(set(names) - set(ENCODER_ROWS))):
        parser.error(
            f"--size {chosen.size} is an encoder, and {decoders[0]} needs a decoder; it is for "
            f"{', '.join(ENCODER_ROWS)}."
        )
    if chosen.reference is not None:
        try:
            check_checkout(chosen.reference)
        except ValueError as error:
            parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
