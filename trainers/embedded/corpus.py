"""The default corpus: the sources of the standard library of the Python that runs.

Long modules serve as documents; the docstring and the body of a function serve as query and passage. Seventeen
modules are held out: neither they, nor their tests, nor any file that copies from them is ever trained on.
"""

import ast
import random
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

HOLDOUT_MODULES = (
    "argparse", "_pydecimal", "tarfile", "typing", "zipfile", "turtle", "pydoc",
    "configparser", "difflib", "doctest", "imaplib", "ipaddress", "mailbox", "optparse", "pdb", "shutil", "statistics",
)  # fmt: skip
# Tables of code points, not text that anyone reads.
EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "encodings", "__pycache__", "data", "cjkencodings"}
# A line this long that a hold-out module also has is taken for a copy, not for chance.
MIN_COPIED_LINE = 24
MAX_COPIED_SHARE = 0.1
MIN_QUERY_CHARS, MIN_BODY_CHARS, MAX_BODY_CHARS = 20, 80, 4000


class Document(NamedTuple):
    """One source file: `name` is its path below the folder that it was read from."""

    name: str
    text: str


class CodePair(NamedTuple):
    """A docstring (`query`) and the code that it describes, without the docstring (`passage`)."""

    name: str
    query: str
    passage: str


def read_sources(root: Path) -> Iterator[Document]:
    """Every readable UTF-8 Python file below `root`, sorted by path, code tables left out."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if EXCLUDED_FOLDERS.intersection(relative.parts[:-1]):
            continue
        try:
            yield Document(relative.as_posix(), path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, OSError):
            continue


def is_holdout(name: str) -> bool:
    """Whether the file `name` is a hold-out module (a package such as `zipfile/` counts as one)."""
    return Path(name).parts[0].removesuffix(".py") in HOLDOUT_MODULES


def standard_library(split: str) -> list[Document]:
    """The documents of the `train` or `holdout` split, sorted by name.

    Raises ValueError for another split.
    """
    if split not in ("train", "holdout"):
        raise ValueError(f"split is {split!r}; the embedded corpus has the splits 'train' and 'holdout'.")
    documents = list(read_sources(Path(sysconfig.get_paths()["stdlib"])))
    held_out = [document for document in documents if is_holdout(document.name)]
    if split == "holdout":
        return held_out
    return without_copies([document for document in documents if not is_holdout(document.name)], held_out)


def without_copies(documents: list[Document], held_out: list[Document]) -> list[Document]:
    """`documents` less the tests of the hold-out modules and every file that shares their lines."""
    known = {line for document in held_out for line in _long_lines(document.text)}
    return [d for d in documents if not _tests_holdout(d.name) and _copied_share(d.text, known) <= MAX_COPIED_SHARE]


def _long_lines(text: str) -> list[str]:
    return [stripped for line in text.splitlines() if len(stripped := line.strip()) >= MIN_COPIED_LINE]


def _copied_share(text: str, known: set[str]) -> float:
    lines = _long_lines(text)
    return sum(line in known for line in lines) / len(lines) if lines else 0.0


def _tests_holdout(name: str) -> bool:
    parts = {part.removesuffix(".py") for part in Path(name).parts}
    return any({f"test_{module.lstrip('_')}", f"test_{module}"} & parts for module in HOLDOUT_MODULES)


def language_reference(min_chars: int) -> list[Document]:
    """Prose: topics of Python's language reference, as `help()` shows them, joined to texts of `min_chars` or more.

    Each is named by its first topic. What is left at the end is no text of its own.
    """
    texts: list[Document] = []
    joined: list[str] = []
    first = ""
    for name, topic in sorted(topics.items()):
        first = first or name
        joined.append(topic)
        if sum(map(len, joined)) >= min_chars:
            texts.append(Document(first, "\n\n".join(joined)))
            joined, first = [], ""
    return texts


def installed_packages(max_chars: int, seed: int = 0) -> list[Document]:
    """A random `max_chars` of the Python packages installed beside this one, hold-out copies left out."""
    documents = list(read_sources(Path(sysconfig.get_paths()["purelib"])))
    random.Random(seed).shuffle(documents)
    chosen, chars = [], 0
    for document in documents:
        if chars >= max_chars:
            break
        if len(document.text) < 100_000:
            chosen.append(document)
            chars += len(document.text)
    return without_copies(chosen, standard_library("holdout"))


def code_pairs(split: str, max_pairs: int | None = None, seed: int = 0) -> list[CodePair]:
    """(docstring, function without it) of each documented function of a split, equal texts kept once.

    The query is the docstring's first paragraph. The passage leaves out the function's own name as well, so that the
    name alone does not answer a query.
    """
    pairs: dict[str, CodePair] = {}
    for document in standard_library(split):
        if split == "train" and ("test" in document.name or "idlelib" in document.name):
            continue
        for pair in pairs_of(document):
            pairs.setdefault(pair.query, pair)
    unique = list({pair.passage: pair for pair in pairs.values()}.values())
    random.Random(seed).shuffle(unique)
    return unique[:max_pairs]


def pairs_of(document: Document) -> Iterator[CodePair]:
    """The pairs of one source file; none where it is not Python of this version."""
    try:
        tree = ast.parse(document.text)
    except SyntaxError:
        return
    lines = document.text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (docstring := ast.get_docstring(node)):
            query = " ".join(docstring.split("\n\n")[0].split())
            passage = _body_without_docstring(node, lines)
            fits = len(query) >= MIN_QUERY_CHARS and MIN_BODY_CHARS <= len(passage) <= MAX_BODY_CHARS
            if fits and query not in " ".join(passage.split()):  # a nested function may repeat its parent's docstring
                yield CodePair(f"{document.name}:{node.name}", query, passage)


def _body_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """The arguments and the statements of `node` after its docstring; "" where there are none."""
    statements = lines[node.body[0].end_lineno : node.end_lineno]
    body = textwrap.indent(textwrap.dedent("\n".join(statements)), "    ").rstrip()
    return f"def ({ast.unparse(node.args)}):\n{body}" if body.strip() else ""
