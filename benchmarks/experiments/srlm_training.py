"""Does training with retrieved context help a language model to use it?

Run it with `python -m benchmarks.experiments.srlm_training --output runs/srlm_training.jsonl`. The embedded backbone
goes on training on documents that it was trained on already, once with BM25's chunks before the window and once
without; same documents, same scored tokens, same order, same steps. On the hold-out each then reads the same documents
without and with retrieval: the gain is how much lower the perplexity is with it. With `--pretrained` it is
SmolLM2-135M, of which LoRA adapters are trained. A training is a line of the output once it is measured, so the same
command goes on where it was interrupted.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig

from modeling_srlm import SelfRetrievalLM
from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments
from trainers.demo.figures import Interval, paired
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import standard_library
from trainers.embedded.pretrained import smollm2
from trainers.perplexity.measure import compare_methods, tokenize_texts

from .looking_back import texts_of
from .records import Records, Result, said

EVALUATED = ("no", "bm25")
HOLDOUT_SCORED, PRETRAINED_TEXTS = 256, 12
LEAST_CHARS = 12_000  # of a document to train on


@dataclass(frozen=True)
class Task:
    """What is trained and measured, and at which sizes.

    Args:
        settings: of the self-retrieval LM. holdout_length: tokens of each text that is measured.
        rank: of the LoRA adapters, None where all weights are trained.
    """

    model: str
    settings: dict[str, Any]
    holdout_length: int
    rank: int | None = None

    def build(self, method: str) -> SelfRetrievalLM:
        source, model_kwargs = str(BACKBONE_FOLDER), {}
        if self.rank is not None:
            source, file = smollm2()
            model_kwargs = {"gguf_file": file}
        return SelfRetrievalLM.from_components(
            source, retrieval_method=method, model_kwargs=model_kwargs, dtype="float32", **self.settings
        )

    def texts(self) -> list[str]:
        chosen = standard_library("holdout") if self.rank is None else texts_of("code", "test")[:PRETRAINED_TEXTS]
        return [document.text for document in chosen]


EMBEDDED = Task(
    "embedded",
    {"context_window_size": 256, "chunk_size": 32, "key_num": 4, "target_size": 128, "chunk_batch_size": 8},
    holdout_length=6144,
)
PRETRAINED = Task(
    "SmolLM2-135M",
    {"context_window_size": 512, "chunk_size": 64, "key_num": 4, "target_size": 256, "chunk_batch_size": 4},
    holdout_length=4096,
    rank=8,
)


def train(task: Task, method: str, options: argparse.Namespace, seed: int) -> SelfRetrievalLM:
    """The model after so many steps of training with this retrieval method."""
    torch.manual_seed(seed)  # of the adapters
    model = task.build(method)
    adapter = None
    if task.rank is not None:
        adapter = LoraConfig(r=task.rank, lora_alpha=2 * task.rank, target_modules="all-linear")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SelfRetrievalTrainingArguments(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=4,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            document_length=4096,
            target_size=task.settings["target_size"],
            seed=seed,
            save_strategy="no",
            logging_steps=max(options.steps // 5, 1),
            report_to="none",
            dataloader_pin_memory=False,
            use_cpu=not torch.cuda.is_available(),
        )
        texts = [{"text": document.text} for document in standard_library("train") if len(document.text) > LEAST_CHARS]
        SelfRetrievalTrainer(model, arguments, texts, peft_config=adapter).train()
    return model


def losses(task: Task, model: SelfRetrievalLM) -> Result:
    """By method the mean loss of a token of each hold-out text, in nats."""
    documents = [ids[: task.holdout_length] for ids in tokenize_texts(task.texts(), model.tokenizer)]
    found: Result = {}
    for method, result in zip(EVALUATED, compare_methods(model, documents, EVALUATED, HOLDOUT_SCORED), strict=True):
        means = [output.loss for output in result.outputs if output.loss is not None]
        found[method] = torch.stack(means).tolist()
    return found


def measure(task: Task, options: argparse.Namespace, records: Records) -> dict[str, list[Result]]:
    """By what the model was trained with the results of each seed."""
    key = {"model": task.model, "steps": options.steps, "learning_rate": options.learning_rate}
    before = {"model": task.model, "trained": "not further"}
    found = {"not further": [records.once(before, lambda: losses(task, task.build("no")))]}
    for seed in range(options.seeds):
        for method in EVALUATED:
            work = partial(_trained_losses, task, method, options, seed)
            row = records.once({**key, "trained": method, "seed": seed}, work)
            found.setdefault(method, []).append(row)
    return found


def _trained_losses(task: Task, method: str, options: argparse.Namespace, seed: int) -> Result:
    return losses(task, train(task, method, options, seed))


def gains(rows: Sequence[Result]) -> list[float]:
    """By how many nats a token of each text the loss is lower with retrieval, mean over the seeds."""
    return np.mean([np.subtract(row["no"], row["bm25"]) for row in rows], axis=0).tolist()


def more(found: dict[str, list[Result]]) -> Interval:
    """How much lower retrieval makes the perplexity of the model trained with it than that of the other, relative."""
    return paired([-gain for gain in gains(found["bm25"])], [-gain for gain in gains(found["no"])]).relative()


def table(found: dict[str, list[Result]]) -> str:
    """Markdown: of each model the perplexity without and with retrieval, mean over the seeds, and the gain."""
    lines = ["| trained | no | bm25 | gain (range over seeds) |", "|---|---|---|---|"]
    for name, rows in found.items():
        no, bm25 = (statistics.mean(float(np.exp(np.mean(row[method]))) for row in rows) for method in EVALUATED)
        each = [-np.expm1(-np.mean(gains([row]))) for row in rows]
        spread = f" ({min(each):.2%} to {max(each):.2%})" if len(each) > 1 else ""
        lines.append(f"| {name} | {no:.3f} | {bm25:.3f} | {statistics.mean(each):.2%}{spread} |")
    return "\n".join(lines)


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; what stands there is not done again")
    parser.add_argument("--pretrained", action="store_true", help="SmolLM2-135M with LoRA, not the embedded backbone")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    options = parser.parse_args()
    found = measure(PRETRAINED if options.pretrained else EMBEDDED, options, Records(options.output))
    print(table(found))
    print(f"\nWith retrieval, trained with it against trained without: {said(more(found))}")


if __name__ == "__main__":
    main()
