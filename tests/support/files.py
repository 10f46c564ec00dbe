"""Rows to and from a file of JSON Lines."""

import json
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]  # a text may hold other ends of lines
