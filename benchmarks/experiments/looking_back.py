"""What looking back is worth on real models, recomputed exactly or with kept states, each method on the same targets.

Run it with `python -m benchmarks.experiments.looking_back --output runs/looking_back.jsonl`. SmolLM2-135M with
all-MiniLM-L6-v2 as its retriever scores the last tokens of long texts of two kinds: modules of the standard library
(code), and Python's language reference (prose). Each result is a line of the output, so the same command goes on where
it was interrupted. The mode `tuned` is `reuse` with the LoRA adapter that `looking_back_tuning` makes; with
`--retriever` another one looks, such as that of `looking_back_feedback`; its methods bear its name. The table gives
each method's perplexity and its change from `no` of the exact mode, with a 95 % interval by paired bootstrap over the
texts. Settings are chosen with `--split development`, on other texts.
"""

import argparse
import itertools
import math
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import logging

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.configuration_srlm import RETRIEVER_METHODS
from trainers.embedded.corpus import Document, language_reference, standard_library
from trainers.embedded.pretrained import minilm, smollm2
from trainers.perplexity.measure import compare_methods, tokenize_texts

from .pictures import Point, draw_points
from .records import Records, Result, change, said

Way = tuple[str, str, str]  # kind of text, mode, method
METHODS = ("no", "random", "bm25", "dense", "hybrid", "self")
DEVELOPMENT = ("argparse.py", "tarfile.py", "assert", "attribute-references")  # the settings were tried on these
PROSE_CHARS = 27_000
SETTINGS = (
    "model",
    "length",
    "scored",
    "context_window_size",
    "chunk_size",
    "key_num",
    "num_sink_tokens",
    "order_method",
)


def texts_of(kind: str, split: str) -> list[Document]:
    """The texts of a kind, "code" or "prose", of one split."""
    found = standard_library("holdout") if kind == "code" else language_reference(PROSE_CHARS)
    return [document for document in found if (document.name in DEVELOPMENT) == (split == "development")]


def build(options: argparse.Namespace) -> SelfRetrievalLM:
    """The language model with its retriever, in either mode."""
    source, keywords = smollm2() if options.model is None else (options.model, None)
    model_kwargs = {} if keywords is None else {"gguf_file": keywords}
    names = ("context_window_size", "chunk_size", "key_num", "num_sink_tokens", "order_method")
    settings = {name: getattr(options, name) for name in names}
    model = SelfRetrievalLM.from_components(
        source,
        retriever=getattr(options, "retriever", None) or minilm(),
        model_kwargs=model_kwargs,
        target_size=min(options.scored, options.context_window_size // 2),
        dtype="float32",
        **settings,
    )
    if getattr(options, "adapter", None) is not None:
        model.load_adapter(str(options.adapter))
    return model


def measure(options: argparse.Namespace, records: Records) -> None:
    """Scores each text in each mode by each method, unless that is known; a text is done before the next is begun."""
    left = [one for one in wanted(options) if records.known(one[0]) is None]
    if not left:
        return
    model = build(options)
    for key, document, mode, method in left:
        tokens = tokenize_texts([document.text], model.tokenizer)[0][: options.length]
        records.once(key, partial(_score, model, mode, method, tokens, options.scored))


def wanted(options: argparse.Namespace) -> Iterator[tuple[Result, Document, str, str]]:
    """(what a result is known by, text, mode, method) of all results, in the order in which they are measured."""
    settings = {name: getattr(options, name) for name in SETTINGS}
    chosen = [texts_of(kind, options.split)[: options.texts] for kind in options.kinds]
    other = "" if options.retriever is None else f" ({Path(options.retriever).name})"
    for number in range(max(map(len, chosen))):
        for kind, texts in zip(options.kinds, chosen, strict=True):
            for document in texts[number : number + 1]:
                for mode, method in itertools.product(options.modes, options.methods):
                    shown = f"tuned ({options.adapter.name})" if mode == "tuned" else mode
                    name = method + other if method in RETRIEVER_METHODS else method
                    key = {"kind": kind, "text": document.name, "mode": shown, "method": name, **settings}
                    yield key, document, mode, method


def _score(model: SelfRetrievalLM, mode: str, method: str, tokens: Any, scored: int) -> Result:
    model.config.reuse_states = mode != "exact"
    if mode == "tuned":
        model.enable_adapters()
    elif model._hf_peft_config_loaded:
        model.disable_adapters()
    began = time.perf_counter()
    (result,) = compare_methods(model, [tokens], [method], scored)
    seconds = time.perf_counter() - began
    return {"loss": math.log(result.perplexity), "tokens": result.outputs[0].num_scored_tokens, "seconds": seconds}


def groups(results: Sequence[Result]) -> dict[Way, dict[str, Result]]:
    """By kind of text ("all": every kind, where there are several), mode and method the results by text."""
    found: dict[Way, dict[str, Result]] = {}
    kinds = {row["kind"] for row in results}
    for kind in [*sorted(kinds), *(["all"] if len(kinds) > 1 else [])]:
        for row in results:
            if kind in (row["kind"], "all"):
                found.setdefault((kind, row["mode"], row["method"]), {})[row["text"]] = row
    return over_seeds(found)


def over_seeds(found: dict[Way, dict[str, Result]]) -> dict[Way, dict[str, Result]]:
    """The same, with a group more for retrievers whose names end in the seed of their training: the means over these.

    >>> found = {("all", "exact", f"dense (fed-{seed})"): {"a": {"loss": 1.0 + seed, "seconds": 1}} for seed in (0, 1)}
    >>> over_seeds(found)[("all", "exact", "dense (fed, 2 seeds)")]
    {'a': {'loss': 1.5, 'seconds': 1.0}}
    """
    families: dict[Way, list[dict[str, Result]]] = {}
    for (kind, mode, method), rows in found.items():
        if seeded := re.fullmatch(r"(.* \(.*)-\d+\)", method):
            families.setdefault((kind, mode, seeded[1]), []).append(rows)
    means = {}
    for (kind, mode, name), runs in families.items():
        if len(runs) == 1:
            continue
        both = [text for text in runs[0] if all(text in run for run in runs)]
        means[kind, mode, f"{name}, {len(runs)} seeds)"] = {
            text: {part: float(np.mean([run[text][part] for run in runs])) for part in ("loss", "seconds")}
            for text in both
        }
    return {**found, **means}


def table(results: Sequence[Result]) -> list[str]:
    """Markdown: kind, mode and method, with perplexity, its range over the texts, and its change from `no` of the
    exact mode, and in the same mode from `no` or, with another retriever, from the same method."""
    lines = [
        "| texts | mode | method | perplexity (range over texts) | change from exact `no` (95 % interval) | "
        "from `no` of this mode, another retriever's from MiniLM's | seconds a text |",
        "|---|---|---|---|---|---|---|",
    ]
    found = groups(results)
    for (kind, mode, method), rows in found.items():
        losses = np.array([row["loss"] for row in rows.values()])
        spread = f"{math.exp(losses.mean()):.2f} ({math.exp(losses.min()):.2f} to {math.exp(losses.max()):.2f})"
        plain = method.partition(" (")[0]
        bases = ("exact", "no"), (mode, "no" if plain == method else plain)
        changes = " | ".join(said(change(rows, found.get((kind, *base), {}))) for base in bases)
        seconds = np.mean([row["seconds"] for row in rows.values()])
        lines.append(f"| {len(rows)} {kind} | {mode} | {method} | {spread} | {changes} | {seconds:.0f} |")
    return lines


def draw(results: Sequence[Result], file: Path) -> None:
    """A picture of the changes over all texts: a point a mode and method, with its interval."""
    found = groups(results)
    kind = next(reversed(found))[0]
    base = found.get((kind, "exact", "no"), {})
    ways = {(mode, method): change(rows, base) for (of, mode, method), rows in found.items() if of == kind}
    points = [
        Point(f"{mode}, {method}", interval, mode) for (mode, method), interval in ways.items() if interval is not None
    ]
    label = f"change of perplexity in %, from the window alone, {len(base)} texts, 95 % intervals"
    draw_points(points, label, file, origin=0.0, scale=100)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that a model is made by, and how long its texts are."""
    for name, value in (("length", 6144), ("scored", 512), ("context_window_size", 1024), ("chunk_size", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("key_num", 8), ("num_sink_tokens", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--order_method", choices=("sequential", "relevance"), default="sequential")


def main() -> None:
    """Measures what is missing, a line a result, and prints the table of all that is known at these settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; what stands there is not done again")
    parser.add_argument("--model", help="another language model than SmolLM2-135M: a folder or Hub id")
    parser.add_argument("--retriever", help="another retriever than all-MiniLM-L6-v2: a folder or Hub id")
    parser.add_argument("--split", choices=("test", "development"), default="test")
    parser.add_argument("--kinds", nargs="+", choices=("code", "prose"), default=["code", "prose"])
    parser.add_argument("--modes", nargs="+", choices=("exact", "reuse", "tuned"), default=["exact", "reuse"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--adapter", type=Path, help="for the mode `tuned`: what `looking_back_tuning` has made")
    parser.add_argument("--picture", type=Path, help="an .svg or .png of the changes")
    parser.add_argument("--texts", type=int, default=12, help="texts of each kind, at most")
    add_settings(parser)
    options = parser.parse_args()
    if "tuned" in options.modes and options.adapter is None:
        parser.error("the mode tuned needs --adapter: make one with looking_back_tuning.")
    logging.set_verbosity_error()
    records = Records(options.output)
    measure(options, records)
    settings = {name: getattr(options, name) for name in SETTINGS}
    names = {document.name for kind in options.kinds for document in texts_of(kind, options.split)}
    results = [row for row in records.rows if settings.items() <= row.items() and row["text"] in names]
    print("\n".join(table(results)))
    if options.picture is not None:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
