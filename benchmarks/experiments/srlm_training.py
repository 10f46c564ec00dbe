"""Does training with retrieved context help a language model to use it?

Run it with `python -m benchmarks.experiments.srlm_training`. The embedded backbone goes on training on documents that
it was trained on already, once with BM25's chunks before the window and once without; same documents, same scored
tokens, same order, same steps. On the hold-out each then reads the same documents without and with retrieval: the gain
is how much lower the perplexity is with it.
"""

import argparse
import statistics
import tempfile
from typing import Any

import torch

from modeling_srlm import SelfRetrievalLM
from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments
from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import standard_library
from trainers.perplexity.measure import compare_methods, tokenize_texts

SETTINGS: dict[str, Any] = {
    "context_window_size": 256,
    "chunk_size": 32,
    "key_num": 4,
    "target_size": 128,
    "chunk_batch_size": 8,
}
EVALUATED = ("no", "bm25")
DOCUMENT_LENGTH, HOLDOUT_LENGTH, HOLDOUT_SCORED = 4096, 6144, 256


def train(method: str, steps: int, seed: int, learning_rate: float) -> SelfRetrievalLM:
    """The embedded backbone after `steps` of training with this retrieval method."""
    model = SelfRetrievalLM.from_components(str(BACKBONE_FOLDER), retrieval_method=method, **SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SelfRetrievalTrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=4,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            document_length=DOCUMENT_LENGTH,
            target_size=SETTINGS["target_size"],
            seed=seed,
            save_strategy="no",
            logging_steps=20,
            report_to="none",
            dataloader_pin_memory=False,
        )
        texts = [{"text": document.text} for document in standard_library("train") if len(document.text) > 12_000]
        SelfRetrievalTrainer(model, arguments, texts).train()
    return model


def gain(model: SelfRetrievalLM) -> tuple[float, float, float]:
    """Perplexity on the hold-out without and with retrieval, and by what share the second is lower."""
    texts = [document.text for document in standard_library("holdout")]
    documents = [ids[:HOLDOUT_LENGTH] for ids in tokenize_texts(texts, model.tokenizer)]
    without, with_it = (result.perplexity for result in compare_methods(model, documents, EVALUATED, HOLDOUT_SCORED))
    return without, with_it, 1 - with_it / without


def main() -> None:
    """Prints a Markdown table: the untrained model, and for both trainings the mean and range over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    options = parser.parse_args()
    torch.manual_seed(0)
    lines = ["| trained | no | bm25 | gain |", "|---|---|---|---|"]
    before = gain(SelfRetrievalLM.from_components(str(BACKBONE_FOLDER), retrieval_method="no", **SETTINGS))
    lines.append(f"| not further | {before[0]:.3f} | {before[1]:.3f} | {before[2]:.2%} |")
    for method in EVALUATED:
        runs = [gain(train(method, options.steps, seed, options.learning_rate)) for seed in range(options.seeds)]
        without, with_it, gains = (list(column) for column in zip(*runs, strict=True))
        spread = f"{statistics.mean(gains):.2%} ({min(gains):.2%} to {max(gains):.2%})"
        lines.append(
            f"| with `{method}` | {statistics.mean(without):.3f} | {statistics.mean(with_it):.3f} | {spread} |"
        )
        print(lines[-1], flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
