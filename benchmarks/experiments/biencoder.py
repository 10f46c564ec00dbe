"""What helps a retriever: mined negatives, the language model as teacher, LoRA, nested widths.

Run it with `python -m benchmarks.experiments.biencoder`. The embedded backbone is adapted by LLaRA and fine-tuned with
random negatives once; that model mines. Every variant goes on from it, on the same docstrings with the same steps,
batch size and number of passages, and then finds the code of held-out docstrings. A seed decides the order, and which
negatives are drawn in which step. Settings are chosen with `--split development`.
"""

import argparse
import copy
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import set_seed
from transformers.utils import logging

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, mine_hard_negatives
from trainers.data.sources import Row
from trainers.demo.feedback import add_teacher_scores
from trainers.demo.retrieval import CUTOFF, PASSAGE_TOKENS, QUERY_TOKENS, evaluate_bm25
from trainers.demo.settings import LM_SETTINGS, DemoArguments, show_loss, training_arguments
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import CodePair
from trainers.retrieval.metrics import rank_passages, retrieval_metrics

from .llara import Candidate, Data, adapted_biencoder, load_data

NEGATIVES = 6  # of each row, of which each step draws `group_size - 1`
# The settings below were chosen on the development modules.
MINING: dict[str, dict[str, Any]] = {
    # A passage nearly as close as the positive is too often right: overloads, and copies between modules.
    "mined": {"retriever": "dense", "rank_from": 5, "rank_to": 100, "relative_margin": 0.05},
    "bm25": {"retriever": "bm25", "rank_from": 0, "rank_to": 50},
}
FIRST_LEARNING_RATE = 2  # times that of the variants
LORA = {"r": 16, "lora_alpha": 32}
LORA_LEARNING_RATE = 5  # times that of all weights
TEACHER_CODE_CHARS = 800
TEACHER_TEMPERATURE = 4.0


@dataclass(frozen=True)
class Variant:
    """How one retriever is fine-tuned."""

    rows: str = "mined"  # or random, or bm25
    teacher: bool = False
    lora: bool = False
    nested: bool = False  # trained at half width too
    half: bool = False  # measured at half width


VARIANTS = {
    "random negatives": Variant(rows="random"),
    "its own mined negatives": Variant(),
    "its own mined negatives, distilled": Variant(teacher=True),
    "BM25's best negatives": Variant(rows="bm25"),
    "BM25's best negatives, distilled": Variant(rows="bm25", teacher=True),
    "its own mined negatives, LoRA": Variant(lora=True),
    "its own mined negatives, measured at half width": Variant(half=True),
    "its own mined negatives, nested widths": Variant(nested=True),
    "its own mined negatives, nested widths, measured at half width": Variant(nested=True, half=True),
}


def random_negatives(rows: Sequence[Row], passages: Sequence[str], seed: int) -> list[Row]:
    """The rows with random passages as negatives."""
    generator = random.Random(seed)
    return [
        {**row, "neg": generator.sample([text for text in passages if text not in row["pos"]], NEGATIVES)}
        for row in rows
    ]


def first_stage(start: Candidate, data: Data, steps: int, options: DemoArguments) -> Candidate:
    """The start after `steps` steps with random negatives."""
    rate = options.biencoder_learning_rate * FIRST_LEARNING_RATE
    options = dataclasses.replace(options, biencoder_steps=steps, biencoder_learning_rate=rate)
    rows = random_negatives(data.rows, [row["pos"][0] for row in data.rows], options.seed)
    model = finetune(start, Variant(rows="random"), {"random": rows}, options)
    return start._replace(model=model.eval())


def training_rows(start: Candidate, data: Data, count: int, seed: int) -> dict[str, list[Row]]:
    """At most `count` rows with random negatives, and the same with each kind of mined ones and their LM scores.

    Rows for which a miner finds too few negatives are left out of all.
    """
    pairs = random.Random(seed).sample(data.rows, min(count, len(data.rows)))
    passages = [row["pos"][0] for row in data.rows]
    mined: dict[str, dict[str, Row]] = {}
    for name, settings in MINING.items():
        model = start.model if settings["retriever"] == "dense" else None
        negatives = mine_hard_negatives(pairs, passages, model, num_negatives=NEGATIVES, seed=seed, **settings)
        mined[name] = {row["query"]: row for row in negatives if len(row["neg"]) == NEGATIVES}
    kept = [row for row in pairs if all(row["query"] in found for found in mined.values())]
    lm = SelfRetrievalLM.from_components(str(BACKBONE_FOLDER), retrieval_method="bm25", **LM_SETTINGS).eval()
    rows = {"random": random_negatives(kept, passages, seed + 1)}
    for name, found in mined.items():
        rows[name] = add_teacher_scores(lm, [found[row["query"]] for row in kept], TEACHER_CODE_CHARS)
    return rows


def finetune(start: Candidate, variant: Variant, rows: dict[str, list[Row]], options: DemoArguments) -> BiEncoderModel:
    """A fine-tuned copy of the start."""
    model = copy.deepcopy(start.model)
    if variant.nested:
        model.config.embedding_dims = [model.config.hidden_size // 2]
    rate = options.biencoder_learning_rate * (LORA_LEARNING_RATE if variant.lora else 1)
    arguments = training_arguments(
        BiEncoderTrainingArguments,
        options,
        Path(options.output_dir),
        max_steps=options.biencoder_steps,
        per_device_train_batch_size=options.biencoder_batch_size,
        learning_rate=rate,
        train_group_size=options.group_size,
        query_max_length=QUERY_TOKENS + start.prompt_tokens,
        passage_max_length=PASSAGE_TOKENS + start.prompt_tokens,
        use_teacher_scores=variant.teacher,
        **({"teacher_temperature": TEACHER_TEMPERATURE} if variant.teacher else {}),
    )
    set_seed(options.seed)
    peft_config = LoraConfig(**LORA) if variant.lora else None  # type: ignore[arg-type]
    trainer = BiEncoderTrainer(model, arguments, train_dataset=rows[variant.rows], peft_config=peft_config)
    show_loss(trainer)
    trainer.train()
    return trainer.model


def mrr(model: BiEncoderModel, pairs: Sequence[CodePair], half: bool) -> float:
    """MRR@10 of finding each docstring's code, with the first half of the embeddings' numbers if asked."""
    width = model.config.hidden_size // 2 if half else None
    queries = model.encode([pair.query for pair in pairs], role="query", batch_size=64, truncate_dim=width)
    passages = model.encode([pair.passage for pair in pairs], role="passage", batch_size=64, truncate_dim=width)
    rankings = rank_passages(model.similarity(queries, passages), CUTOFF)
    return retrieval_metrics(rankings, [{number} for number in range(len(pairs))], ks=(CUTOFF,))[f"mrr@{CUTOFF}"]


def run_seed(start: Candidate, rows: dict[str, list[Row]], data: Data, options: DemoArguments) -> dict[str, float]:
    """MRR@10 of each variant; those that differ in what is measured share a training."""
    figures = {}
    trained: dict[Variant, BiEncoderModel] = {}
    for name, variant in VARIANTS.items():
        key = Variant(**{**vars(variant), "half": False})
        if key not in trained:
            trained[key] = finetune(start, key, rows, options)
        figures[name] = mrr(trained[key], data.pairs, variant.half)
        print(f"seed {options.seed}: {name}: {figures[name]:.3f}", flush=True)
    return figures


def table(runs: Sequence[dict[str, float]], bm25: float) -> str:
    """A Markdown table: mean and range over the runs."""
    lines = [f"| retriever | MRR@{CUTOFF} |", "|---|---|", f"| BM25 | {bm25:.3f} |"]
    for name in runs[0]:
        values = [run[name] for run in runs]
        lines.append(f"| {name} | {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}) |")
    return "\n".join(lines)


def main() -> None:
    """Prints a line of figures after each training and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=["holdout", "development"], default="holdout")
    parser.add_argument("--pairs", type=int, default=500, help="Pairs to measure on, at most.")
    for name, value in {
        "llara_steps": 200, "llara_batch_size": 8, "first_steps": 64, "biencoder_steps": 40,
        "biencoder_batch_size": 16, "group_size": 4, "code_pairs": 1280,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--biencoder_learning_rate", type=float, default=2.5e-4)
    given: dict[str, Any] = vars(parser.parse_args())
    seeds, split, pairs, first = (given.pop(name) for name in ("seeds", "split", "pairs", "first_steps"))
    logging.set_verbosity_error()
    data = load_data(split, pairs)
    with tempfile.TemporaryDirectory() as folder:
        options = [DemoArguments(**given, seed=seed, output_dir=folder) for seed in range(seeds)]
        adapted = adapted_biencoder(options[0], data.documents)
        start = first_stage(adapted, data, first, options[0])
        before = {
            "adapted by LLaRA": mrr(adapted.model, data.pairs, half=False),
            "after the first stage": mrr(start.model, data.pairs, half=False),
        }
        print(before, flush=True)
        rows = training_rows(start, data, options[0].code_pairs, seed=0)
        print(f"{len(rows['random']):,} rows", flush=True)
        runs = [{**before, **run_seed(start, rows, data, one)} for one in options]
    print(table(runs, evaluate_bm25(data.pairs)[f"mrr@{CUTOFF}"]))


if __name__ == "__main__":
    main()
