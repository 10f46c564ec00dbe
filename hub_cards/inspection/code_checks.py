"""A repo's Python files beside those of this Lookback: the same, of an earlier release, or somebody else's."""

import difflib
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ..travelling import FAMILIES
from .findings import REFUSED, Finding, printable

RELEASES = Path(__file__).parent / "released_code.json"  # {release: {file name: sha256}}
MAX_CODE = 1_000_000  # bytes of a file that is looked at
_SHOWN = 6  # changed lines


@cache
def packaged_code() -> dict[str, bytes]:
    """{file name: content} of the code that travels with our repos, as this Lookback has it."""
    found = [find_spec(f"modeling_{family}") for family in FAMILIES]  # where they lie, without importing them
    folders = [Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()]
    files = [file for folder in folders for file in folder.glob("*.py") if file.name != "__init__.py"]
    return {file.name: file.read_bytes() for file in files}


def check_code(name: str, content: bytes) -> tuple[str, Iterator[Finding]]:
    """(what the file is, in a few words; what there is to say against it)."""
    ours = packaged_code().get(name)
    if content == ours:
        return "Lookback's code, as in this version", iter(())
    digest = hashlib.sha256(content).hexdigest()
    for release, files in _releases().items():
        if files.get(name) == digest:
            return f"Lookback's code, as in {release}", iter(())
    if ours is None:
        message = f"code that is not Lookback's ({len(content):,} bytes): read it before you load the repo."
        return "other code", iter([Finding(REFUSED, name, message)])
    message = (
        "differs from Lookback's file of this name, of this version and of any release: somebody changed it, or a "
        f"Lookback that is newer wrote it. Read it before you load the repo.\n{summary(ours, content)}"
    )
    return "changed code", iter([Finding(REFUSED, name, message)])


def summary(ours: bytes, theirs: bytes) -> str:
    """How many lines are new and gone, and the first of them."""
    old, new = (text.decode("utf-8", errors="replace").splitlines() for text in (ours, theirs))
    lines = list(difflib.unified_diff(old, new, lineterm="", n=0))[2:]
    changed = [line for line in lines if line[:1] in "+-"]
    added = sum(line.startswith("+") for line in changed)
    shown = [f"  {printable(line)[:110]}" for line in changed[:_SHOWN]]
    more = [f"  ... and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
    return "\n".join([f"  +{added} -{len(changed) - added} lines", *shown, *more])


def _releases() -> dict[str, dict[str, str]]:
    return json.loads(RELEASES.read_text(encoding="utf-8"))


def record_release(release: str) -> None:
    """Add the code of this version to the releases.

    `python -m hub_cards.inspection.code_checks 0.2.0`, before each of them.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(packaged_code().items())}
    releases = _releases() if RELEASES.exists() else {}
    RELEASES.write_text(json.dumps({**releases, release: digests}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record_release(sys.argv[1])
