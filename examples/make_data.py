"""Writes the embedded corpus as files, to try the commands on: `python examples/make_data.py runs/data`.

    train.jsonl                       query (a docstring), pos (its code), a row each
    holdout/corpus.jsonl, queries.jsonl, qrels/test.tsv
                                      the same of held-out modules, in BEIR's form, to evaluate on

It is the standard library of the Python that runs, so nothing is downloaded.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainers.embedded.corpus import code_pairs


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def make_data(folder: Path, max_holdout: int = 500, max_train: int | None = None) -> None:
    """The files of the module's docstring; a docstring of the hold-out is no query of the training rows.

    Args:
        max_holdout: pairs to evaluate on, at most.
        max_train: pairs to train on, at most; None takes all.
    """
    holdout = code_pairs("holdout")[:max_holdout]
    held_out = {pair.query for pair in holdout}
    pairs = [pair for pair in code_pairs("train") if pair.query not in held_out][:max_train]
    write_jsonl(folder / "train.jsonl", ({"query": pair.query, "pos": [pair.passage]} for pair in pairs))
    numbered = list(enumerate(holdout))
    write_jsonl(folder / "holdout/corpus.jsonl", ({"_id": f"p{i}", "text": pair.passage} for i, pair in numbered))
    write_jsonl(folder / "holdout/queries.jsonl", ({"_id": f"q{i}", "text": pair.query} for i, pair in numbered))
    (folder / "holdout/qrels").mkdir(exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\tp{i}\t1" for i, _ in numbered)]
    (folder / "holdout/qrels/test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{folder}: {len(pairs):,} pairs to train on, {len(holdout)} to evaluate on")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max_holdout", type=int, default=500, help="pairs to evaluate on (default: %(default)s)")
    parser.add_argument("--max_train", type=int, help="pairs to train on (default: all)")
    arguments = parser.parse_args()
    make_data(arguments.folder, arguments.max_holdout, arguments.max_train)
