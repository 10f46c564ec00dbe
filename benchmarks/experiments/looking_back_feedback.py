"""A retriever that learned what helps the language model, for the `dense` rows of `looking_back`.

Run it with `python -m benchmarks.experiments.looking_back_feedback --output runs/fed`, and then
`python -m benchmarks.experiments.looking_back --methods dense --retriever runs/fed/feedback-0` at the same settings.
SmolLM2-135M reads sources that the table does not use once, with kept states; at each chunk it tries what
all-MiniLM-L6-v2 and BM25 would look back at, and what is drawn. MiniLM learns from how likely each made the chunk
(contrast with the best, and KL to all). Every text that was scored is a line of `rows.jsonl`, so the same command goes
on where it was interrupted.
"""

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import logging, set_seed

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.data.sources import Row
from trainers.demo.settings import show_loss
from trainers.embedded.corpus import Document, standard_library
from trainers.embedded.pretrained import minilm
from trainers.feedback.candidates import Candidates
from trainers.feedback.documents import DocumentFeedback
from trainers.models.load import load_biencoder
from trainers.perplexity.measure import tokenize_texts

from .looking_back import add_settings, build
from .packages import PACKAGES, sources_of
from .records import Records

CANDIDATES = Candidates(bm25=1, random=1, dense=3)


def learned_texts(count: int) -> list[Document]:
    """Sources to learn from: half from the standard library, half from other packages, each long enough."""
    own = [document for document in standard_library("train") if "test" not in document.name]
    others = [document for package in PACKAGES["train"] for document in sources_of(package)]
    generator, found = random.Random(0), []
    for documents in (own, others):
        long = [document for document in documents if len(document.text) > 30_000]
        found.append(generator.sample(long, min(len(long), (count + 1) // 2)))
    return [document for pair in zip(*found, strict=False) for document in pair][:count]


def score(lm: SelfRetrievalLM, document: Document, options: argparse.Namespace) -> list[Row]:
    """Rows (query, pos, neg, teacher_scores) of a text, whose beginning is drawn."""
    tokens = tokenize_texts([document.text], lm.tokenizer)[0]
    start = random.Random(document.name).randrange(max(len(tokens) - options.length, 0) + 1)
    text = lm.tokenizer.decode(tokens[start : start + options.length])
    feedback = DocumentFeedback(lm, [{"text": text}], candidates=CANDIDATES, mean=False)
    return [row for group in range(feedback.num_groups) for row in feedback.score(group)]


def scored_rows(options: argparse.Namespace) -> list[Row]:
    """The rows of all texts; those that are known are not made again."""
    records, documents = Records(options.output / "rows.jsonl"), learned_texts(options.documents)
    names = ("length", "context_window_size", "chunk_size", "num_sink_tokens")
    settings = {name: getattr(options, name) for name in names}
    keys = [{"text": document.name, **settings} for document in documents]
    if not all(records.known(key) for key in keys):
        lm = build(options).eval()  # it reads without looking back, and at each chunk tries one candidate at a time
        lm.config.reuse_states, lm.config.retrieval_method, lm.config.target_size = True, "no", None
        for key, document in zip(keys, tqdm(documents, unit="text"), strict=True):
            records.once(key, lambda document=document: {"rows": score(lm, document, options)})  # type: ignore[misc]
    return [row for key in keys for row in (records.known(key) or {})["rows"]]


def train(rows: list[Row], options: argparse.Namespace) -> None:
    """Trains MiniLM on the rows, and saves it as `options.output` / its name and seed."""
    rows = [scaled(row, options.scale) for row in rows if len(row["neg"]) >= options.group_size - 1]
    arguments = BiEncoderTrainingArguments(
        output_dir=str(options.output / "logs"), num_train_epochs=options.epochs, lr_scheduler_type="cosine",
        warmup_steps=0.1, query_max_length=96, passage_max_length=96, train_group_size=options.group_size,
        per_device_train_batch_size=options.batch_size, learning_rate=options.learning_rate, save_strategy="no",
        report_to="none", logging_steps=4, seed=options.seed, dataloader_drop_last=True, dataloader_pin_memory=False,
        teacher_temperature=1.0, in_batch_negatives=options.in_batch_negatives, bf16=options.bf16,
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    set_seed(options.seed)
    model = load_biencoder(minilm())
    model.config.temperature = options.temperature
    trainer = BiEncoderTrainer(model, arguments, train_dataset=rows)
    show_loss(trainer)
    trainer.train()
    keep_share(model, options.share)
    model.save_pretrained(options.output / f"{options.name}-{options.seed}")


@torch.no_grad()
def keep_share(model: BiEncoderModel, share: float) -> None:
    """Takes back all but a share of what training changed in MiniLM (LM-Cocktail, arXiv:2311.13534)."""
    before = dict(load_biencoder(minilm()).named_parameters())
    for name, weight in model.named_parameters():
        weight.copy_(before[name].to(weight.device).lerp(weight, share))


def scaled(row: Row, scale: float) -> dict[str, Any]:
    """The row with its teacher's scores, in nats of a whole chunk, times a factor."""
    return {**row, "teacher_scores": [score * scale for score in row["teacher_scores"]]}


def main() -> None:
    """Scores what is missing, and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the rows and the retriever")
    parser.add_argument("--name", default="feedback", help="of the retriever's folder, before its seed")
    parser.add_argument("--model", help="another language model than SmolLM2-135M: a folder or Hub id")
    parser.add_argument("--documents", type=int, default=24, help="sources to learn from")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=0.05, help="of the losses")
    parser.add_argument("--share", type=float, default=1.0, help="of what training changed that is kept")
    parser.add_argument("--scale", type=float, default=0.5, help="on the log-likelihoods of a chunk, in nats")
    for name, value in (("seed", 0), ("epochs", 3), ("batch_size", 32), ("group_size", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--in_batch_negatives", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--bf16", action="store_true", help="train under autocast to bfloat16")
    add_settings(parser)
    parser.set_defaults(length=3072)
    options = parser.parse_args()
    logging.set_verbosity_error()
    train(scored_rows(options), options)


if __name__ == "__main__":
    main()
