"""Judgements as TREC has them: `query 0 passage grade` a line, without a head, parted by tabs or blanks."""

from collections.abc import Iterator
from pathlib import Path

from ..data.plain_text import read_lines
from ..data.readers import Row

TREC_SUFFIXES = (".tsv", ".qrels", ".trec", ".txt")
_HEADS = ("query-id", "query_id")


def has_head(file: Path) -> bool:
    """Whether the first line of a .tsv file names columns, as BEIR's does; of an empty file it may."""
    first = next(read_lines(file), None)
    if first is None:
        return True
    text = first[1]["text"]
    return any(name in text.split("\t") for name in _HEADS) or not _is_number(text.split()[-1])


def read_trec(file: Path) -> Iterator[tuple[str, Row]]:
    """(where it stands, row) for each judgement; three cells between tabs are BEIR's `query passage grade`.

    Raises ValueError naming the line where there are other cells.
    """
    for where, line in read_lines(file):
        tabs = [cell.strip() for cell in line["text"].split("\t")]
        cells = tabs if len(tabs) > 1 else line["text"].split()
        if len(cells) not in (4, 3 if cells is tabs else 4):
            raise ValueError(f"{where} has {len(cells)} cells and must have 4, query 0 passage grade: mend it.")
        yield where, {"query-id": cells[0], "corpus-id": cells[-2], "score": cells[-1]}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
