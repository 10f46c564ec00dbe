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
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers.utils import logging

from modeling_srlm import SelfRetrievalLM
from trainers.embedded.corpus import Document
from trainers.embedded.pretrained import minilm, smollm2
from trainers.perplexity.measure import compare_chats

from .packages import sources_of
from .records import Records, Result, change, said

PACKAGES = {"test": ("networkx", "pandas", "sklearn", "numpy"), "development": ("sympy",)}
METHODS = ("no", "random", "recent", "bm25", "dense", "hybrid", "self")
LEAST_TURNS, MAX_CHARS = 24, 400
Row = dict[str, Any]


def conversations(split: str, count: int, rows: int) -> dict[str, list[Row]]:
    """By module the rows of its last turns: `rows` of them, drawn from the second half, each with all turns before."""
    found = {}
    for document in (one for package in PACKAGES[split] for one in sources_of(package)):
        turns = list(_turns(document))
        if len(turns) >= LEAST_TURNS:
            places = range(len(turns) // 2, len(turns))
            chosen = sorted(random.Random(0).sample(places, min(rows, len(places))))
            found[document.name] = [_row(turns, place) for place in chosen]
    names = sorted(found)
    random.Random(0).shuffle(names)
    return {name: found[name] for name in names[:count]}


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
    return {"loss": float(np.log(result.perplexity))}


def table(rows: list[Result]) -> str:
    """Markdown: perplexity of the answers by each method, and how far it is from the most recent turns'."""
    by_method: dict[str, dict[str, Result]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[row["module"]] = row
    lines = ["| turns | modules | perplexity | change from recent (95 % interval) |", "|---|---|---|---|"]
    for method, found in by_method.items():
        perplexity = np.exp(np.mean([row["loss"] for row in found.values()]))
        changed = said(change(found, by_method.get("recent", {})))
        lines.append(f"| {method} | {len(found)} | {perplexity:.2f} | {changed} |")
    return "\n".join(lines)


def build(options: argparse.Namespace) -> SelfRetrievalLM:
    """SmolLM2-135M with all-MiniLM-L6-v2 as its retriever."""
    folder, file = smollm2()
    return SelfRetrievalLM.from_components(
        folder, retriever=minilm(), model_kwargs={"gguf_file": file}, dtype="float32", key_num=options.key_num,
        context_window_size=options.context_window_size,
    )  # fmt: skip


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
    records, chosen = Records(options.output), conversations(options.split, options.modules, options.rows)
    settings = {name: getattr(options, name) for name in ("split", "rows", "key_num", "context_window_size")}
    keys = [{"module": name, "method": method, **settings} for name in chosen for method in options.methods]
    if left := [key for key in keys if records.known(key) is None]:
        model = build(options)
        for key in left:
            records.once(key, partial(score, model, chosen[key["module"]], key["method"]))
    print(table([row for key in keys if (row := records.known(key)) is not None]))


if __name__ == "__main__":
    main()
