"""Does LLaRA make a language model a better start for a retriever?

Run it with `python -m benchmarks.experiments.llara`. The embedded backbone becomes a bi-encoder as it is (mean and
last-token pooling) and after LLaRA (its prompts and pooling); each finds the code of docstrings before and after the
same fine-tuning: same pairs in the same order, steps, batch size, learning rate and loss. Settings are chosen with
`--split development`, modules of the library that are neither fine-tuned nor adapted on.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from transformers import set_seed
from transformers.utils import logging

from modeling_biencoder import BiEncoderModel
from trainers.demo.adaptation import adapt_backbone
from trainers.demo.retrieval import CUTOFF, PASSAGE_TOKENS, evaluate_biencoder, finetune_biencoder, to_biencoder
from trainers.demo.settings import DemoArguments
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import CodePair, Document, code_pairs, standard_library
from trainers.rows import Row

DEVELOPMENT_MODULES = ("email", "http", "logging", "urllib")
RAW_POOLINGS = ("mean", "last_token")
TEMPERATURE = 0.05  # that of the demo's to_biencoder


class Data(NamedTuple):
    """Documents to adapt on, rows to fine-tune on, pairs to measure on."""

    documents: list[Document]
    rows: list[Row]
    pairs: list[CodePair]


def load_data(split: str, max_pairs: int | None = None) -> Data:
    """The embedded corpus; `split` is `holdout` or `development`, of which at most `max_pairs` are measured on."""
    documents = [d for d in standard_library("train") if "test" not in d.name and not _is_development(d.name)]
    pairs = code_pairs("train")
    rows = [{"query": p.query, "pos": [p.passage], "neg": []} for p in pairs if not _is_development(p.name)]
    development = [pair for pair in pairs if _is_development(pair.name)]
    measured = development if split == "development" else code_pairs("holdout")
    return Data(documents, rows, measured[:max_pairs])


def _is_development(name: str) -> bool:
    return name.split("/")[0] in DEVELOPMENT_MODULES


def raw_biencoder(pooling: str) -> BiEncoderModel:
    """The backbone as it is. With `last_token` the text ends with the end-of-sequence token."""
    return BiEncoderModel.from_backbone(
        str(BACKBONE_FOLDER),
        pooling=pooling,
        append_eos=pooling == "last_token",
        max_length=PASSAGE_TOKENS,
        temperature=TEMPERATURE,
    )


def measure(model: BiEncoderModel, data: Data, options: DemoArguments) -> tuple[float, float]:
    """MRR@10 before and after fine-tuning, which changes `model`."""
    before = evaluate_biencoder(model, data.pairs)[f"mrr@{CUTOFF}"]
    set_seed(options.seed)
    finetune_biencoder(model, data.rows, options)
    return before, evaluate_biencoder(model, data.pairs)[f"mrr@{CUTOFF}"]


def run_seed(data: Data, options: DemoArguments) -> dict[str, tuple[float, float]]:
    """(before, after fine-tuning) of each bi-encoder: the backbone with either pooling, and adapted."""
    figures = {f"raw, {pooling}": measure(raw_biencoder(pooling), data, options) for pooling in RAW_POOLINGS}
    set_seed(options.seed)
    llara, _ = adapt_backbone(options, data.documents)
    return {**figures, "adapted by LLaRA": measure(to_biencoder(llara), data, options)}


def table(runs: Sequence[dict[str, tuple[float, float]]]) -> str:
    """A Markdown table: mean and range over the runs."""
    lines = [f"| backbone | MRR@{CUTOFF}, not fine-tuned | MRR@{CUTOFF}, fine-tuned |", "|---|---|---|"]
    for name in runs[0]:
        cells = [_spread(list(values)) for values in zip(*(run[name] for run in runs), strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Prints a line of figures after each seed and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=["holdout", "development"], default="holdout")
    parser.add_argument("--pairs", type=int, default=500, help="Pairs to measure on, at most.")
    parser.add_argument("--llara_steps", type=int, default=200)
    parser.add_argument("--llara_batch_size", type=int, default=8)
    parser.add_argument("--llara_learning_rate", type=float, default=1e-3)
    parser.add_argument("--bow_loss_weight", type=float, default=1.0)
    parser.add_argument("--biencoder_steps", type=int, default=32)
    parser.add_argument("--biencoder_batch_size", type=int, default=32)
    parser.add_argument("--biencoder_learning_rate", type=float, default=1e-3)
    given = vars(parser.parse_args())
    seeds, split, pairs = (given.pop(name) for name in ("seeds", "split", "pairs"))
    logging.set_verbosity_error()
    data = load_data(split, pairs)
    print(f"{len(data.rows):,} pairs to fine-tune on, {len(data.pairs)} to measure on ({split})", flush=True)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            runs.append(run_seed(data, DemoArguments(**given, group_size=1, seed=seed, output_dir=folder)))
            print(f"seed {seed}: {runs[-1]}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
