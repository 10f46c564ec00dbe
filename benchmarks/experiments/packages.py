"""Docstring -> code of the packages that are installed here, whole packages held out.

A query is the first paragraph of a function's docstring, its passage the code without docstring and name, as in the
embedded corpus. Retrievers learn on some packages, settings are chosen on others, and figures come from a third kind.
"""

import random
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from trainers.embedded.corpus import CodePair, Document, pairs_of, read_sources

PACKAGES = {
    "train": (
        "torch", "transformers", "sympy", "scipy", "matplotlib", "nltk", "numpy", "mypy", "huggingface_hub", "IPython",
        "fontTools", "setuptools", "prompt_toolkit", "openai", "peft", "sentence_transformers", "accelerate",
    ),
    "development": ("datasets", "mteb", "tornado", "PIL"),
    "test": ("pandas", "sklearn", "networkx"),
}  # fmt: skip


@cache
def package_pairs(split: str) -> tuple[CodePair, ...]:
    """All pairs of a split in a random order, equal texts once; `train` has none of which the others have a half.

    Raises ModuleNotFoundError for a package that is not installed here.
    """
    found: dict[str, CodePair] = {}
    for package in PACKAGES[split]:
        for pair in _pairs(package):
            found.setdefault(pair.query, pair)
    pairs = list({_bare(pair.passage): pair for pair in found.values()}.values())
    if split == "train":
        others = [pair for other in ("development", "test") for pair in package_pairs(other)]
        known = {_bare(text) for pair in others for text in (pair.query, pair.passage)}
        pairs = [pair for pair in pairs if not known & {_bare(pair.query), _bare(pair.passage)}]
    random.Random(0).shuffle(pairs)
    return tuple(pairs)


def sources_of(package: str) -> list[Document]:
    """The source files of a package but its tests, named by their path with the package's name before it.

    Raises ModuleNotFoundError where it is not installed here.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"the experiment reads the sources of {package}: pip install it.", name=package)
    documents = read_sources(Path(found.origin).parent)
    return [one._replace(name=f"{package}/{one.name}") for one in documents if "test" not in one.name.lower()]


def _pairs(package: str) -> Sequence[CodePair]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in their strings
        return [pair for document in sources_of(package) for pair in pairs_of(document)]


def _bare(text: str) -> str:
    return " ".join(text.split())
