"""Files that no model's repo needs: pickles by name and by content, programs, paths that leave the folder."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from .findings import REFUSED, WARNING, Finding
from .sources import Entry

# Formats that run code when they are loaded.
PICKLES = ("*.bin", "*.ckpt", "*.dill", "*.joblib", "*.pickle", "*.pkl", "*.pt", "*.pt2", "*.pth")
PROGRAMS = (
    "*.bat", "*.cmd", "*.dll", "*.dylib", "*.exe", "*.ipynb", "*.jar", "*.ps1", "*.pyc", "*.pyd", "*.pyo", "*.pyz",
    "*.sh", "*.so", "*.whl",
)  # fmt: skip
# What a training leaves beside the model: not part of it, and not sent or fetched.
BYPRODUCTS = (
    "_*", "checkpoint-*/*", "last-checkpoint/*", "runs/*", "training_args.*", "trainer_state.json", ".*", "*/.*",
    "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth",
    "wandb/*", "mlruns/*", "swanlog/*", "dvclive/*", "emissions.csv",  # of trackers, with what they tell of a machine
)  # fmt: skip
HEAD = 512  # bytes at a file's start that say what it is
# A pickle is refused whatever it names. (picklescan looks for dangerous names instead: of the first bytes it finds
# neither torch's archives nor what a pickle names further on, and it takes lists of words for pickles.)
# Protocols 2 to 5 begin with an opcode and their number; the older ones name what they call, or are a container first.
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\(?[ic][\w.]+\n[\w.]+\n(?:p\d+\n|q|\(|\))|\([dlt]p\d+\n|[\])}]q\x00")
_OBJECTS = re.compile(rb"\x93NUMPY[^{]{0,16}\{[^}]*'descr':[^}]*\|?O[^}]*fortran_order")  # in a .npz as well
_PROGRAM = (b"\x7fELF", b"MZ\x90", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file's name, in any case, is one of the patterns, in whatever folder."""
    return any(PurePosixPath(name.lower()).match(pattern) for pattern in patterns)


def check_path(entry: Entry) -> Iterator[Finding]:
    """A path or link that leads out of the repo's folder."""
    name = entry.name
    if leaves_folder(name) or not name.isprintable():
        yield Finding(REFUSED, name, "the path leaves the repo's folder, or hides something: no repo needs that.")
    if entry.target is not None:
        yield Finding(REFUSED, name, f"a link that leads out of the folder, to {entry.target!r}: put the file there.")


def leaves_folder(path: str) -> bool:
    """Whether a relative path, written for any system, leads elsewhere."""
    parts = path.replace("\\", "/").split("/")
    return ".." in parts or path.startswith(("/", "\\", "~")) or ":" in parts[0]


def check_content(name: str, head: bytes, fetched: bool) -> Iterator[Finding]:
    """A pickle or a program, by the name or by the first HEAD bytes; `fetched` says whether `pull` would take it."""
    level = REFUSED if fetched else WARNING
    left = "" if fetched else " It is left behind by pull."
    if matches(name, PICKLES):
        yield Finding(level, name, f"a pickle can run any code when it is loaded; weights are safetensors.{left}")
    elif matches(name, PROGRAMS):
        yield Finding(level, name, f"a program, which no model needs.{left}")
    elif head.startswith((b"#!/", b"#! /")) and not name.endswith(".py"):  # what is code is read elsewhere
        yield Finding(level, name, f"a program by its first line, which no model needs.{left}")
    elif not name.endswith(".safetensors") and (what := hidden_pickle(head)):
        yield Finding(level, name, f"in truth {what}, which can run any code when it is loaded.{left}")


def hidden_pickle(head: bytes) -> str | None:
    """What the first bytes of a file betray: a pickle, torch's archive of one, numpy's objects; None for nothing."""
    if _PICKLE.match(head):
        return "a pickle"
    if head.startswith(b"PK\x03\x04") and b".pkl" in head:
        return "torch's archive of a pickle"
    if head.startswith((b"\x93NUMPY", b"PK\x03\x04")) and _OBJECTS.search(head):
        return "an array of Python objects"
    if head.startswith(_PROGRAM):
        return "a program"
    return None
