"""What fine-tuning gives a real retriever: all-MiniLM-L6-v2 on docstring -> code, whole packages held out.

Run it with `python -m benchmarks.experiments.retriever --output runs/retriever`. First contrast: many pairs with the
batch's other passages as negatives, at one width or at three nested ones (Matryoshka); the same with one negative more
for each pair, drawn at random or mined by the model as it is. Then, each from the contrast of the first seed, on the
same queries: passages drawn at random, negatives that the model mined, and the same distilled from SmolLM2-135M's
feedback. Each finds the code of the first docstrings of three held-out packages. Every result is a line of
`results.jsonl` and every model a folder, so the same command goes on where it was interrupted. Settings are chosen
with `--split development`.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging

from modeling_biencoder import BiEncoderModel
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.data.sources import Row
from trainers.demo.retrieval import own_ranks, ranks
from trainers.demo.settings import show_loss
from trainers.embedded.pretrained import minilm
from trainers.models.load import load_biencoder

from .negatives import DISTILLED, MINED, NEGATIVES, RANDOM, Corpus, TrainingRows
from .pictures import draw_ranking
from .records import Records, Result, ranking_table

QUERY_TOKENS, PASSAGE_TOKENS = 64, 112
TEACHER_TEMPERATURE = 2.0
WIDTHS = {"": None, ", half width": 2, ", quarter width": 4}
STAGES = ("contrast", "hard", "second", "nested")
AGAINST = {
    "all-MiniLM-L6-v2": "BM25",
    "contrast": "BM25",
    "contrast, random negatives": "contrast",
    "contrast, mined negatives": "contrast, random negatives",
    "contrast, nested widths": "contrast",
    "contrast, nested widths, half width": "contrast, half width",
    "contrast, nested widths, quarter width": "contrast, quarter width",
    "then random negatives": "contrast",
    "then mined negatives": "then random negatives",
    "then mined negatives, distilled": "then mined negatives",
}


def measure(model: BiEncoderModel, corpus: Corpus) -> dict[str, list[int]]:
    """By width the rank of each query's code."""
    queries = [pair.query for pair in corpus.measured[: corpus.queries]]
    passages = [pair.passage for pair in corpus.measured]
    found = {}
    embedded = [model.encode(texts, role=role) for texts, role in ((queries, "query"), (passages, "passage"))]
    for name, part in WIDTHS.items():
        width = embedded[0].shape[1] // (part or 1)
        found[name] = own_ranks(model.similarity(*(cut(one, width) for one in embedded)))
    return found


def cut(embeddings: torch.Tensor, width: int) -> torch.Tensor:
    """The first `width` numbers of each embedding, of length 1."""
    return torch.nn.functional.normalize(embeddings[:, :width], dim=-1)


def finetune(
    model: BiEncoderModel, rows: Sequence[Row], options: argparse.Namespace, seed: int, **settings: Any
) -> None:
    """Trains in place, one pass over the rows."""
    arguments = BiEncoderTrainingArguments(
        output_dir=str(options.output / "logs"), num_train_epochs=1, lr_scheduler_type="cosine", warmup_steps=0.1,
        query_max_length=QUERY_TOKENS, passage_max_length=PASSAGE_TOKENS, save_strategy="no", report_to="none",
        logging_steps=8, seed=seed, dataloader_drop_last=True, dataloader_pin_memory=False,
        bf16=options.bf16, use_cpu=not torch.cuda.is_available(),
        **settings,
    )  # fmt: skip
    set_seed(seed)
    trainer = BiEncoderTrainer(model, arguments, train_dataset=list(rows))
    show_loss(trainer)
    trainer.train()


class Experiment:
    """The trainings and their records."""

    def __init__(self, options: argparse.Namespace, corpus: Corpus):
        self.options, self.corpus, self.rows = options, corpus, TrainingRows(corpus, options)
        self.records = Records(options.output / "results.jsonl")
        names = ("split", "pairs", "rows", "queries", "passages", "learning_rate", "second_learning_rate", "bf16",
                 "temperature")  # fmt: skip
        self.settings: Result = {name: getattr(options, name) for name in names}

    def start(self) -> BiEncoderModel:
        """The model as it is, with the temperature of the losses."""
        model = load_biencoder(minilm())
        model.config.temperature = self.options.temperature
        return model

    def contrast_folder(self, seed: int) -> Path:
        """Where the model lies that the second stage goes on from."""
        options = self.options
        return options.output / f"contrast-{options.pairs}-{options.learning_rate:g}-{options.temperature:g}-{seed}"

    def trained(self, name: str, seed: int, train: Callable[[], BiEncoderModel]) -> BiEncoderModel | None:
        """Measures what `train` gives, unless it was measured; the model, if it was trained now."""
        keys = [{"retriever": name + width, "seed": seed, **self.settings} for width in WIDTHS]
        if all(self.records.known(key) for key in keys):
            return None
        model = train().eval()
        found = measure(model, self.corpus)
        for key, width in zip(keys, WIDTHS, strict=True):
            self.records.once(key, lambda width=width: {"ranks": found[width]})  # type: ignore[misc]
        print(self.table(), flush=True)
        return model

    def before(self) -> None:
        """BM25 and the model as it is."""
        key = {"retriever": "BM25", **self.settings}
        self.records.once(key, lambda: {"ranks": ranks(None, self.corpus.measured, self.corpus.queries)})
        self.trained("all-MiniLM-L6-v2", 0, lambda: load_biencoder(minilm()))

    def contrast(self, seed: int, nested: bool) -> None:
        """Many pairs, and the batch's other passages as negatives."""

        name = "contrast, nested widths" if nested else "contrast"
        self.trained(name, seed, lambda: self._train_contrast(seed, nested))

    def _train_contrast(self, seed: int, nested: bool) -> BiEncoderModel:
        model, options = self.start(), self.options
        width = model.config.hidden_size
        model.config.embedding_dims = [width // part for part in WIDTHS.values() if part] if nested else None
        finetune(model, self.rows.pairs, options, seed, per_device_train_batch_size=64, train_group_size=1,
                 learning_rate=options.learning_rate)  # fmt: skip
        if not nested:
            model.save_pretrained(self.contrast_folder(seed))
        return model

    def first_contrast(self) -> BiEncoderModel:
        """The first seed's model, trained again where its figures are known and it is gone."""
        if not self.contrast_folder(0).is_dir():
            self._train_contrast(0, nested=False)
        return BiEncoderModel.from_pretrained(self.contrast_folder(0))

    def hard(self, seed: int) -> None:
        """As `contrast`, with a negative for each pair."""
        for name in (RANDOM, MINED):

            def train(name: str = name) -> BiEncoderModel:
                model, options = self.start(), self.options
                finetune(model, self.hard_rows[name], options, seed, per_device_train_batch_size=64,
                         train_group_size=2, learning_rate=options.learning_rate)  # fmt: skip
                return model

            self.trained(f"contrast, {name}", seed, train)

    @cached_property
    def hard_rows(self) -> dict[str, list[Row]]:
        """What the model as it is has mined, once for all seeds."""
        return self.rows.with_one_negative(self.start())

    @cached_property
    def second_rows(self) -> dict[str, list[Row]]:
        """What the first seed's contrast has mined, once for all seeds."""
        return self.rows.with_several(self.first_contrast())

    def second(self, seed: int) -> None:
        """Goes on from the first seed's contrast, once with each kind of rows."""
        for name in (RANDOM, MINED, DISTILLED):

            def train(name: str = name) -> BiEncoderModel:
                rows = self.second_rows[name]
                model = self.first_contrast()
                distils = "teacher_scores" in rows[0]
                temperature = {"teacher_temperature": TEACHER_TEMPERATURE} if distils else {}
                finetune(model, rows, self.options, seed, per_device_train_batch_size=16,
                         train_group_size=1 + NEGATIVES, learning_rate=self.options.second_learning_rate,
                         **temperature)  # fmt: skip
                return model

            self.trained(f"then {name}", seed, train)

    def results(self) -> list[Result]:
        """What is known at these settings, of the stages and seeds that are asked for."""
        seeds = (None, *range(self.options.seeds))
        return [
            row for row in self.records.rows
            if self.settings.items() <= row.items() and stage_of(row["retriever"]) in ("", *self.options.stages)
            and row.get("seed") in seeds
        ]  # fmt: skip

    def table(self) -> str:
        """The same, for a reader."""
        return ranking_table(self.results(), AGAINST)


def stage_of(retriever: str) -> str:
    """The stage that trains it, "" for one that nothing was trained for.

    >>> [stage_of(name) for name in ("BM25", "contrast, half width", "contrast, nested widths", "then mined")]
    ['', 'contrast', 'nested', 'second']
    """
    name = retriever.removesuffix(" width").removesuffix(", half").removesuffix(", quarter")
    if name.startswith("then "):
        return "second"
    stages = {"contrast": "contrast", "contrast, nested widths": "nested"}
    return stages.get(name, "hard" if name.startswith("contrast, ") else "")


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results and models")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--split", choices=("test", "development"), default="test")
    for name, value in (("seeds", 3), ("pairs", 8192), ("rows", 1024), ("queries", 1000), ("passages", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--second_learning_rate", type=float, default=3e-5)
    parser.add_argument("--temperature", type=float, default=0.05, help="of the losses")
    parser.add_argument("--picture", type=Path, help="an .svg or .png of the table")
    parser.add_argument("--bf16", action="store_true", help="train under autocast to bfloat16")
    options = parser.parse_args()
    logging.set_verbosity_error()
    experiment = Experiment(options, Corpus(options))
    experiment.before()
    for seed in range(options.seeds):
        if "contrast" in options.stages:
            experiment.contrast(seed, nested=False)
        if "hard" in options.stages:
            experiment.hard(seed)
        if "second" in options.stages:
            experiment.second(seed)
        if "nested" in options.stages:
            experiment.contrast(seed, nested=True)
    print(experiment.table())
    if options.picture is not None:
        draw_ranking(experiment.results(), options.picture)


if __name__ == "__main__":
    main()
