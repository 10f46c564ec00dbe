"""Writes what stands once in `travelling/`, or in one family's folder, to the folders that carry it: `make copies`.

`python -m hub_cards.copies --check` lists the copies that are stale, with exit status 1.
"""

import re
import sys
from pathlib import Path

from .travelling import FAMILIES

SOURCES = Path(__file__).parent / "travelling"
# (file without its suffix, the family whose method it is, the family that carries a copy)
FROM_A_FAMILY = tuple(
    (name, "biencoder", "srlm")
    for name in ("pooling", "presets", "prompting", "published", "sentence_modules", "sentence_transformers")
)
_SIBLING = re.compile(r"^from \.(\w+) import", re.MULTILINE)


def copies() -> dict[Path, str]:
    """{file in a family's folder: what it has to hold}."""
    root = SOURCES.parents[1]
    shared = {
        root / f"modeling_{family}" / f"{source.stem}_{family}.py": _copy(source, family)
        for source in sorted(SOURCES.glob("[a-z]*.py"))
        for family in FAMILIES
    }
    return shared | {
        root / f"modeling_{family}" / f"{name}_{family}.py": _copy(
            root / f"modeling_{owner}" / f"{name}_{owner}.py", family, f"_{owner}"
        )
        for name, owner, family in FROM_A_FAMILY
    }


def stale() -> list[Path]:
    """The copies that do not hold what their source says."""
    return [path for path, text in copies().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def _copy(source: Path, family: str, suffix: str = "") -> str:
    """The text of `source` for a family; `suffix` is that of the source's siblings."""
    name = source.relative_to(SOURCES.parents[1]).as_posix()
    note = f'# Copied from {name} by "make copies": edit that one.\n'
    return note + _SIBLING.sub(
        lambda found: f"from .{found[1].removesuffix(suffix)}_{family} import", source.read_text(encoding="utf-8")
    )


def main() -> None:
    """Write the copies; with `--check` name the stale ones and write nothing."""
    found = stale()
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f'{path} is stale: run "make copies"' for path in found) or None)
    for path in found:
        path.write_text(copies()[path], encoding="utf-8")
        print(f"written: {path}")


if __name__ == "__main__":
    main()
