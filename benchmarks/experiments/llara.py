"""Does LLaRA make a language model a better start for a retriever?

Run it with `python -m benchmarks.experiments.llara`. The embedded backbone becomes a bi-encoder as it is (mean and
last-token pooling) and after LLaRA (its prompts and pooling); each finds the code of docstrings before and after the
same fine-tuning: same pairs in the same order, cut to the same number of their own tokens, same steps, batch size,
learning rate and loss. Settings are chosen with `--split development`, modules of the library that are neither
fine-tuned nor adapted on.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from transformers import set_seed
from transformers.utils import logging

from modeling_biencoder import BiEncoderModel
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.data.sources import Row
from trainers.demo.adaptation import adapt_backbone
from trainers.demo.retrieval import CUTOFF, PASSAGE_TOKENS, QUERY_TOKENS, evaluate_biencoder
from trainers.demo.settings import DemoArguments, show_loss, training_arguments
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import CodePair, Document, code_pairs, standard_library
from trainers.models.convert import biencoder_from_llara

DEVELOPMENT_MODULES = ("email", "http", "logging", "urllib")
RAW_POOLINGS = ("mean", "last_token")
TEMPERATURE = 0.05  # that of the demo
# Chosen on the development modules. The backbone was trained as a language model on these documents before, so that
# the autoregressive loss has nothing new to teach it.
LOSS_WEIGHTS = {"ar_loss_weight": 0.0, "bow_loss_weight": 1.0}


class Data(NamedTuple):
    """Documents to adapt on, rows to fine-tune on, pairs to measure on."""

    documents: list[Document]
    rows: list[Row]
    pairs: list[CodePair]


def load_data(split: str, max_pairs: int | None = None) -> Data:
    """The embedded corpus; `split` is `holdout` or `development`, of which at most `max_pairs` are measured on."""
    documents = [d for d in standard_library("train") if "test" not in d.name and not _is_development(d.name)]
    pairs = code_pairs("train")
    development = [pair for pair in pairs if _is_development(pair.name)]
    measured = (development if split == "development" else code_pairs("holdout"))[:max_pairs]
    queries = {pair.query for pair in measured}  # a docstring may stand in two modules
    kept = [pair for pair in pairs if not _is_development(pair.name) and pair.query not in queries]
    return Data(documents, [{"query": pair.query, "pos": [pair.passage], "neg": []} for pair in kept], measured)


def _is_development(name: str) -> bool:
    return name.split("/")[0] in DEVELOPMENT_MODULES


class Candidate(NamedTuple):
    """A bi-encoder, and how many tokens its prompt takes of a text's."""

    model: BiEncoderModel
    prompt_tokens: int


def raw_biencoder(pooling: str) -> Candidate:
    """The backbone as it is. With `last_token` the text ends with the end-of-sequence token, which is the prompt."""
    model = BiEncoderModel.from_backbone(
        str(BACKBONE_FOLDER),
        pooling=pooling,
        append_eos=pooling == "last_token",
        max_length=PASSAGE_TOKENS + (pooling == "last_token"),
        temperature=TEMPERATURE,
    )
    return Candidate(model, int(model.config.append_eos))


def adapted_biencoder(options: DemoArguments, documents: Sequence[Document]) -> Candidate:
    """The backbone after LLaRA, with its prompts and pooling."""
    set_seed(options.seed)
    llara, _ = adapt_backbone(options, documents, **LOSS_WEIGHTS)
    prompts = (llara.config.summarize_prompt_ids, llara.config.predict_prompt_ids)
    taken = len(llara.config.prefix_ids) + max(len(prompt) for prompt in prompts)
    model = biencoder_from_llara(llara, max_length=PASSAGE_TOKENS + taken, temperature=TEMPERATURE)
    return Candidate(model, taken)


def finetune(candidate: Candidate, rows: list[Row], options: DemoArguments) -> None:
    """Contrastive training in place, with the batch's other passages as negatives."""
    arguments = training_arguments(
        BiEncoderTrainingArguments,
        options,
        Path(options.output_dir),
        max_steps=options.biencoder_steps,
        per_device_train_batch_size=options.biencoder_batch_size,
        learning_rate=options.biencoder_learning_rate,
        train_group_size=1,
        query_max_length=QUERY_TOKENS + candidate.prompt_tokens,
        passage_max_length=PASSAGE_TOKENS + candidate.prompt_tokens,
    )
    set_seed(options.seed)
    trainer = BiEncoderTrainer(candidate.model, arguments, train_dataset=rows)
    show_loss(trainer)
    trainer.train()


def measure(candidate: Candidate, data: Data, options: DemoArguments) -> tuple[float, float]:
    """MRR@10 before and after fine-tuning."""
    before = evaluate_biencoder(candidate.model, data.pairs)[f"mrr@{CUTOFF}"]
    finetune(candidate, data.rows, options)
    return before, evaluate_biencoder(candidate.model, data.pairs)[f"mrr@{CUTOFF}"]


def run_seed(data: Data, options: DemoArguments) -> dict[str, tuple[float, float]]:
    """(before, after fine-tuning) of each bi-encoder: the backbone with either pooling, and adapted."""
    figures = {f"raw, {pooling}": measure(raw_biencoder(pooling), data, options) for pooling in RAW_POOLINGS}
    return {**figures, "adapted by LLaRA": measure(adapted_biencoder(options, data.documents), data, options)}


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
    parser.add_argument("--pairs", type=int, default=1000, help="Pairs to measure on, at most.")
    parser.add_argument("--llara_steps", type=int, default=200)
    parser.add_argument("--llara_batch_size", type=int, default=8)
    parser.add_argument("--llara_learning_rate", type=float, default=1e-3)
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
            runs.append(run_seed(data, DemoArguments(**given, seed=seed, output_dir=folder)))
            print(f"seed {seed}: {runs[-1]}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
