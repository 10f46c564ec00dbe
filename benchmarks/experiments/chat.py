"""Conversations of many sessions on a real model: are turns that were retrieved worth more than the most recent ones?

Run it with `python -m benchmarks.experiments.chat --output runs/chat.jsonl`. The conversations are public and lie on
this machine: the interpreter sessions in the docstrings of one module, one session after the other. Speaker 1 types,
speaker 2 is what Python printed. SmolLM2-135M predicts what was printed late in the conversation, behind `key_num` of
all turns before: none, random ones, the most recent, and those that a retriever chose by what was typed. A module is
one unit of the intervals. Every result is a line of the output, so the same command goes on where it was interrupted.
"""

import argparse
import ast
import doctest
import random
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers.utils import logging

from modeling_srlm import SelfRetrievalLM
from trainers.demo.figures import paired
from trainers.embedded.corpus import Document, read_sources
from trainers.embedded.pretrained import minilm, smollm2
from trainers.perplexity.measure import compare_chats

from .records import Records, Result

PACKAGES = {"test": ("networkx", "pandas", "sklearn", "numpy"), "development": ("sympy",)}
METHODS = ("no", "random", "recent", "bm25", "dense", "hybrid", "self")
LEAST_TURNS, MAX_CHARS = 24, 400
Row = dict[str, Any]


def conversations(split: str, count: int, rows: int) -> dict[str, list[Row]]:
    """By module the rows of its last turns: `rows` of them, drawn from the second half, each with all turns before."""
    found = {}
    for document in _modules(split):
        turns = list(_turns(document))
        if len(turns) >= LEAST_TURNS:
            places = range(len(turns) // 2, len(turns))
            chosen = sorted(random.Random(0).sample(places, min(rows, len(places))))
            found[document.name] = [_row(turns, place) for place in chosen]
    names = sorted(found)
    random.Random(0).shuffle(names)
    return {name: found[name] for name in names[:count]}


def _modules(split: str) -> Iterator[Document]:
    for package in PACKAGES[split]:
        found = find_spec(package)
        if found is None or found.origin is None:
            raise ModuleNotFoundError(f"the experiment reads the sources of {package}: pip install it.", name=package)
        for document in read_sources(Path(found.origin).parent):
            if "test" not in document.name.lower():
                yield document._replace(name=f"{package}/{document.name}")


def _turns(document: Document) -> Iterator[tuple[str, str]]:
    """(what was typed, what was printed) in the docstrings of a module, in their order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in its strings
        try:
            tree = ast.parse(document.text)
        except SyntaxError:
            return
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for docstring in (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)):
        try:
            examples = doctest.DocTestParser().get_examples(docstring or "")
        except ValueError:  # a docstring that only looks like a session
            continue
        typed = ""
        for example in examples:
            typed += f">>> {example.source}"
            if example.want:
                if len(typed) + len(example.want) <= MAX_CHARS:
                    yield typed.strip(), example.want.strip()
                typed = ""


def _row(turns: list[tuple[str, str]], place: int) -> Row:
    history = [f"Speaker 1: {typed}\nSpeaker 2: {printed}" for typed, printed in turns[:place]]
    query, answer = turns[place]
    return {"query": query, "history": history, "answer": answer}


def score(model: SelfRetrievalLM, rows: list[Row], method: str) -> Result:
    """The mean loss of a token of the answers."""
    (result,) = compare_chats(model, datasets.Dataset.from_list(rows), [method])
    return {"loss": float(np.log(result.perplexity)), "rows": len(rows)}


def table(rows: list[Result]) -> str:
    """Markdown: perplexity of the answers by each method, and how far it is from the most recent turns'."""
    losses: dict[str, dict[str, float]] = {}
    for row in rows:
        losses.setdefault(row["method"], {})[row["module"]] = row["loss"]
    lines = ["| turns | modules | perplexity | change from recent (95 % interval) |", "|---|---|---|---|"]
    base = losses.get("recent", {})
    for method, by_module in losses.items():
        both = [name for name in by_module if name in base]
        said = ""
        if both and method != "recent":
            mean, low, high = paired([by_module[name] for name in both], [base[name] for name in both]).relative()
            said = f"{mean:+.1%}" if low is None else f"{mean:+.1%} ({low:+.1%} to {high:+.1%})"
        perplexity = np.exp(np.mean(list(by_module.values())))
        lines.append(f"| {method} | {len(by_module)} | {perplexity:.2f} | {said} |")
    return "\n".join(lines)


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; what stands there is not done again")
    parser.add_argument("--split", choices=tuple(PACKAGES), default="test")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    for name, value in (("modules", 24), ("rows", 8), ("key_num", 4), ("context_window_size", 1024)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    logging.set_verbosity_error()
    folder, file = smollm2()
    model = SelfRetrievalLM.from_components(
        folder, retriever=minilm(), model_kwargs={"gguf_file": file}, dtype="float32", key_num=options.key_num,
        context_window_size=options.context_window_size,
    )  # fmt: skip
    records = Records(options.output)
    settings = {name: getattr(options, name) for name in ("split", "rows", "key_num", "context_window_size")}
    for module, rows in conversations(options.split, options.modules, options.rows).items():
        for method in options.methods:
            key = {"module": module, "method": method, **{**settings, "rows": len(rows)}}
            records.once(key, partial(score, model, rows, method))
    known = {**settings}
    known.pop("rows")
    print(table([row for row in records.rows if known.items() <= row.items()]))


if __name__ == "__main__":
    main()
