"""Embeddings from weights in bfloat16 and int8, and from a compiled backbone: how quick, how near, how good.

Run it with `python -m benchmarks.experiments.inference --model minilm`, or smollm2 (which embeds by its mean state, as
it is); int8 needs torchao. Docstring -> code of packages that nothing here trains on. All run in one process with one
thread, and take turns, so that what else the machine does meets them alike; figures of time are ratios to float32 in
the same turn. A compiled backbone takes shapes as they come (`dynamic=True`), and is compiled before it is timed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

from modeling_biencoder import BiEncoderModel
from trainers.demo.retrieval import own_ranks, reciprocal_ranks
from trainers.embedded.corpus import CodePair
from trainers.embedded.pretrained import minilm, smollm2
from trainers.models.load import load_biencoder
from trainers.models.quantization import INT8, torchao_config

from .packages import package_pairs

TURNS = 5
WEIGHT_ONLY, DYNAMIC = INT8
# Name -> dtype, quantisation, whether the backbone is compiled.
KINDS: dict[str, tuple[str, str | None, bool]] = {
    "float32": ("float32", None, False),
    "bfloat16": ("bfloat16", None, False),
    "int8 weights, float32": ("float32", WEIGHT_ONLY, False),
    "int8 weights, bfloat16": ("bfloat16", WEIGHT_ONLY, False),
    "int8 dynamic, float32": ("float32", DYNAMIC, False),
    "int8 dynamic, bfloat16": ("bfloat16", DYNAMIC, False),
    "float32, compiled": ("float32", None, True),
    "bfloat16, compiled": ("bfloat16", None, True),
    "int8 dynamic, float32, compiled": ("float32", DYNAMIC, True),
}


def save_exact(model: str, folder: str) -> None:
    """The model in float32 in a folder, as that of a GGUF file has to be before it is quantised."""
    settings: dict[str, Any] = {"dtype": "float32"}
    if model == "minilm":
        BiEncoderModel.from_backbone(minilm(), **settings).save_pretrained(folder)
    else:
        source, file = smollm2()
        settings |= {"gguf_file": file, "pooling": "mean", "max_length": 128}
        BiEncoderModel.from_backbone(source, **settings).save_pretrained(folder)


def load(folder: str, kind: str) -> BiEncoderModel:
    """The model with weights of this kind."""
    dtype, quantization, compiled = KINDS[kind]
    config = None if quantization is None else torchao_config(quantization)
    model = load_biencoder(folder, dtype=dtype, quantization_config=config)
    if compiled:
        model.backbone.compile(dynamic=True)
    return model


def embed(model: BiEncoderModel, pairs: Sequence[CodePair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and passages."""
    queries = model.encode([pair.query for pair in pairs], role="query", show_progress=False)
    return queries, model.encode([pair.passage for pair in pairs], role="passage", show_progress=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("minilm", "smollm2"), default="minilm")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--timed", type=int, default=96, help="passages that are timed, the first ones")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    pairs = package_pairs("development")[: options.pairs]
    with tempfile.TemporaryDirectory() as folder:
        save_exact(options.model, folder)
        models = {kind: load(folder, kind) for kind in dict.fromkeys(["float32", *options.kinds])}
    exact = embed(models["float32"], pairs)
    rows = {}
    for kind, model in models.items():
        began = time.perf_counter()
        queries, passages = embed(model, pairs)
        cosine = torch.cosine_similarity(torch.cat([queries, passages]), torch.cat(exact))
        found = statistics.mean(reciprocal_ranks(own_ranks(model.similarity(queries, passages))))
        rows[kind] = f"cosine {cosine.mean():.4f}, least {cosine.min():.4f}, MRR@10 {found:.4f}"
        print(f"{kind}: {rows[kind]}, first pass {time.perf_counter() - began:.0f} s", flush=True)
    timed = [pair.passage for pair in pairs[: options.timed]]
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    for _ in range(TURNS):
        for kind, model in models.items():
            began = time.perf_counter()
            model.encode(timed, role="passage", show_progress=False)
            seconds[kind].append(time.perf_counter() - began)
    for kind, row in rows.items():
        ratios = [one / other for one, other in zip(seconds["float32"], seconds[kind], strict=True)]
        print(f"{kind}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}), {row}")


if __name__ == "__main__":
    main()
