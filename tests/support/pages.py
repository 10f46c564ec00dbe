"""The pages of the documentation: their blocks, tables and command lines, for the tests that run them."""

import re
from typing import NamedTuple

from tests.support import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^```$", re.M | re.S
)


class Block(NamedTuple):
    """A fenced block of a page: `language` stands behind the fence, `reason` says why it is not run, if it is not."""

    page: str
    number: int
    language: str
    text: str
    reason: str | None


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, *languages: str) -> list[Block]:
    """The blocks of a page in these languages (none given: all), those that are not run left out of the former."""
    found = [
        Block(page, number, match["language"], match["text"], match["reason"])
        for number, match in enumerate(_FENCE.finditer(text_of(page)))
    ]
    return [block for block in found if not languages or (block.language in languages and block.reason is None)]


def table_of(page: str, first: str) -> list[dict[str, str]]:
    """The rows, by column, of the table whose first column is called `first`."""
    lines = text_of(page).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
