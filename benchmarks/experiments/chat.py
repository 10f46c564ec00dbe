"""Conversations of many sessions on a real model: are turns that were retrieved worth more than the most recent ones?

Run it with `python -m benchmarks.experiments.chat --output runs/chat.jsonl`. The conversations are public and lie on
this machine: the interpreter sessions in the docstrings of one module, one session after the other. Speaker 1 types,
speaker 2 is what Python printed. SmolLM2-135M predicts what was printed late in the conversation, behind `key_num` of
all turns before: none, random ones, the most recent, and those that a retriever chose by what was typed. With
`--topics 3` a conversation is about three modules by turns: one session of the first, one of the second, and so on, as
people come back to what they talked about days ago. A conversation is one unit of the intervals. Every result is a
line of the output, so the same command goes on where it was interrupted.
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
LEAST_SESSIONS = 4  # of a module that a conversation comes back to
Row = dict[str, Any]
Turn = tuple[str, str]


def conversations(split: str, count: int, rows: int, topics: int = 1) -> dict[str, list[Row]]:
    """By conversation the rows of its last turns: `rows` of them, drawn from the second half, each with all before.

    A conversation is named by its modules, `topics` of them.
    """
    sessions = {
        document.name: found
        for document in (one for package in PACKAGES[split] for one in sources_of(package))
        if sum(map(len, found := list(_sessions(document)))) >= LEAST_TURNS
        and (topics == 1 or len(found) >= LEAST_SESSIONS)
    }
    names = sorted(sessions)
    random.Random(0).shuffle(names)
    groups = [names[start : start + topics] for start in range(0, len(names) - topics + 1, topics)]
    return {" + ".join(group): _rows(_by_turns([sessions[name] for name in group]), rows) for group in groups[:count]}


def _sessions(document: Document) -> Iterator[list[Turn]]:
    """(what was typed, what was printed) in each docstring of a module, in their order."""
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
        if turns := list(_turns(examples)):
            yield turns


def _turns(examples: list[doctest.Example]) -> Iterator[Turn]:
    typed = ""
    for example in examples:
        typed += f">>> {example.source}"
        if example.want:
            if len(typed) + len(example.want) <= MAX_CHARS:
                yield typed.strip(), example.want.strip()
            typed = ""


def _by_turns(topics: list[list[list[Turn]]]) -> list[Turn]:
    """The turns of one session of each topic, then of the next of each, as long as all have one."""
    if len(topics) == 1:
        return [turn for session in topics[0] for turn in session]
    return [turn for sessions in zip(*topics, strict=False) for session in sessions for turn in session]


def _rows(turns: list[Turn], count: int) -> list[Row]:
    places = range(len(turns) // 2, len(turns))
    return [_row(turns, place) for place in sorted(random.Random(0).sample(places, min(count, len(places))))]


def _row(turns: list[Turn], place: int) -> Row:
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
    for name, value in (("modules", 24), ("rows", 8), ("topics", 1), ("key_num", 4), ("context_window_size", 1024)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    logging.set_verbosity_error()
    records = Records(options.output)
    chosen = conversations(options.split, options.modules, options.rows, options.topics)
    settings = {name: getattr(options, name) for name in ("split", "rows", "key_num", "context_window_size")}
    keys = [{"module": name, "method": method, **settings} for name in chosen for method in options.methods]
    if left := [key for key in keys if records.known(key) is None]:
        model = build(options)
        for key in left:
            records.once(key, partial(score, model, chosen[key["module"]], key["method"]))
    print(table([row for key in keys if (row := records.known(key)) is not None]))


if __name__ == "__main__":
    main()
