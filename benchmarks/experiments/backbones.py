"""What makes a real language model a retriever: LLaRA, both directions of attention, fine-tuning; on SmolLM2-135M.

Run it with `python -m benchmarks.experiments.backbones --output runs/backbones`. SmolLM2-135M becomes a bi-encoder as
it is (mean and last-token pooling, causal or not), and after LLaRA on the sources of other packages, without a label.
Each finds the code of the first docstrings of three held-out packages, and again after the same fine-tuning (LoRA, the
same pairs in the same order, cut to the same number of their own tokens). Every result is a line of `results.jsonl`,
and an adapted model a folder, so the same command goes on where it was interrupted. Settings are chosen with
`--split development`.
"""

import argparse
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import set_seed
from transformers.utils import logging

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, LlaraTrainer, LlaraTrainingArguments
from trainers.demo.adaptation import PASSAGE_TOKENS as LLARA_TOKENS
from trainers.demo.adaptation import passage_pairs
from trainers.demo.retrieval import ranks
from trainers.demo.settings import show_loss
from trainers.embedded.corpus import Document
from trainers.embedded.pretrained import smollm2
from trainers.models.convert import biencoder_from_llara

from .llara import Candidate
from .packages import PACKAGES, package_pairs, sources_of
from .pictures import draw_ranking
from .records import Records, Result, ranking_table

QUERY_TOKENS, PASSAGE_TOKENS = 64, 112
RAW: dict[str, dict[str, Any]] = {
    "raw, mean": {"pooling": "mean"},
    "raw, last token": {"pooling": "last_token"},
    "raw, mean, both directions": {"pooling": "mean", "bidirectional": True},
}
ADAPTED = "adapted by LLaRA"
AGAINST = {
    ADAPTED: "raw, mean",
    **{f"{name}, fine-tuned": "raw, mean, fine-tuned" for name in (ADAPTED, *list(RAW)[1:])},
}
TEMPERATURE = 0.05
DOCUMENTS = 600  # files that LLaRA's passages are drawn from
FINE_TUNED = ", fine-tuned"
OF_ALL = ("split", "queries", "passages", "bf16")
OF_LLARA = ("llara_steps", "llara_batch_size", "llara_learning_rate", "ar_loss_weight", "bow_loss_weight")
OF_FINE_TUNING = ("pairs", "learning_rate")


def raw_candidate(name: str) -> Candidate:
    """The language model as it is."""
    folder, file = smollm2()
    append_eos = RAW[name]["pooling"] == "last_token"
    model = BiEncoderModel.from_backbone(
        folder, gguf_file=file, dtype="float32", append_eos=append_eos, temperature=TEMPERATURE,
        max_length=PASSAGE_TOKENS + append_eos, **RAW[name],
    )  # fmt: skip
    return Candidate(model, int(append_eos))


def adapted_candidate(folder: Path) -> Candidate:
    """What LLaRA has saved, with its prompts and pooling."""
    llara = LlaraForPreTraining.from_pretrained(folder)
    prompts = (llara.config.summarize_prompt_ids, llara.config.predict_prompt_ids)
    taken = len(llara.config.prefix_ids) + max(len(prompt) for prompt in prompts)
    model = biencoder_from_llara(llara, max_length=PASSAGE_TOKENS + taken, temperature=TEMPERATURE)
    return Candidate(model, taken)


def adapt(options: argparse.Namespace, seed: int) -> Path:
    """LLaRA on passages of the packages that one may learn from; the folder of the result."""
    folder = options.output / "-".join(["llara", *(f"{getattr(options, name):g}" for name in OF_LLARA), str(seed)])
    if (folder / "config.json").exists():
        return folder
    source, file = smollm2()
    weights = {"ar_loss_weight": options.ar_loss_weight, "bow_loss_weight": options.bow_loss_weight}
    model = LlaraForPreTraining.from_backbone(source, gguf_file=file, dtype="float32", **weights)
    rows = passage_pairs(_documents(), model.tokenizer, options.llara_steps * options.llara_batch_size, seed)
    arguments = LlaraTrainingArguments(
        str(options.output / "logs"), max_steps=options.llara_steps, learning_rate=options.llara_learning_rate,
        per_device_train_batch_size=options.llara_batch_size, max_length=2 * LLARA_TOKENS,
        **_shared(seed, options.bf16),
    )  # fmt: skip
    set_seed(seed)
    trainer = LlaraTrainer(model, arguments, train_dataset=rows)
    show_loss(trainer)
    trainer.train()
    model.save_pretrained(folder)
    return folder


def _documents() -> list[Document]:
    found = [document for package in PACKAGES["train"] for document in sources_of(package)]
    return random.Random(0).sample([one for one in found if len(one.text) < 100_000], DOCUMENTS)


def finetune(candidate: Candidate, options: argparse.Namespace, seed: int) -> BiEncoderModel:
    """LoRA, with the batch's other passages as negatives."""
    arguments = BiEncoderTrainingArguments(
        str(options.output / "logs"), num_train_epochs=1, learning_rate=options.learning_rate, train_group_size=1,
        per_device_train_batch_size=32, query_max_length=QUERY_TOKENS + candidate.prompt_tokens,
        passage_max_length=PASSAGE_TOKENS + candidate.prompt_tokens, **_shared(seed, options.bf16),
    )  # fmt: skip
    rows = [
        {"query": pair.query, "pos": [pair.passage], "neg": []} for pair in package_pairs("train")[: options.pairs]
    ]
    set_seed(seed)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    trainer = BiEncoderTrainer(candidate.model, arguments, train_dataset=rows, peft_config=lora)
    show_loss(trainer)
    trainer.train()
    return trainer.model


def _shared(seed: int, bf16: bool) -> dict[str, Any]:
    return {
        "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "save_strategy": "no", "report_to": "none",
        "logging_steps": 4, "seed": seed, "dataloader_drop_last": True, "dataloader_pin_memory": False, "bf16": bf16,
        "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip


def measure(model: BiEncoderModel | None, options: argparse.Namespace) -> Result:
    """The rank of each query's code; without a model BM25's."""
    pairs = package_pairs(options.split)[: options.passages]
    if model is None:
        return {"ranks": ranks(None, pairs, options.queries)}
    with torch.autocast(model.device.type, torch.bfloat16, enabled=options.bf16):
        return {"ranks": ranks(model.eval(), pairs, options.queries)}


class Experiment:
    """What was measured, and what is measured next."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.records = options, Records(options.output / "results.jsonl")

    def settings(self, name: str) -> Result:
        """Whatever a retriever's figures depend on: what LLaRA was told is nothing to one that it never saw."""
        adapted, tuned = OF_LLARA * (ADAPTED in name), OF_FINE_TUNING * name.endswith(FINE_TUNED)
        return {one: getattr(self.options, one) for one in (*OF_ALL, *adapted, *tuned)}

    def once(self, name: str, seed: int, work: Any) -> None:
        """Measures a retriever unless that was done, and prints the table so far."""
        key = {"retriever": name, "seed": seed, **self.settings(name)}
        if self.records.known(key) is None:
            self.records.once(key, work)
            print(self.table(), flush=True)

    def results(self) -> list[Result]:
        """What is known at these settings."""
        return [row for row in self.records.rows if self.settings(row["retriever"]).items() <= row.items()]

    def table(self) -> str:
        """The same, for a reader."""
        return ranking_table(self.results(), AGAINST)

    def candidate(self, name: str, seed: int) -> Candidate:
        """A backbone before it is fine-tuned."""
        return adapted_candidate(adapt(self.options, seed)) if name == ADAPTED else raw_candidate(name)

    def before(self, seed: int) -> None:
        """Not fine-tuned: LLaRA of each seed; the raw model has nothing random."""
        self.once("BM25", 0, partial(measure, None, self.options))
        for name in self.options.retrievers:
            if name == ADAPTED or seed == 0:
                self.once(name, seed, lambda name=name: measure(self.candidate(name, seed).model, self.options))

    def after(self, seed: int) -> None:
        """Each after the same fine-tuning."""
        for name in self.options.retrievers:

            def work(name: str = name) -> Result:
                return measure(finetune(self.candidate(name, seed), self.options, seed), self.options)

            self.once(name + FINE_TUNED, seed, work)


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results and models")
    parser.add_argument("--split", choices=("test", "development"), default="test")
    parser.add_argument("--stages", nargs="+", choices=("before", "after"), default=["before", "after"])
    parser.add_argument("--retrievers", nargs="+", choices=(ADAPTED, *RAW), default=[ADAPTED, *RAW])
    for name, value in (("seeds", 3), ("pairs", 512), ("queries", 500), ("passages", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("llara_steps", 96), ("llara_batch_size", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, rate in (("llara_learning_rate", 1e-4), ("learning_rate", 2e-4)):
        parser.add_argument(f"--{name}", type=float, default=rate)
    for name, weight in (("ar_loss_weight", 0.0), ("bow_loss_weight", 1.0)):
        parser.add_argument(f"--{name}", type=float, default=weight)
    parser.add_argument("--picture", type=Path, help="an .svg or .png of the table")
    parser.add_argument("--bf16", action="store_true", help="train under autocast to bfloat16, and embed so")
    options = parser.parse_args()
    logging.set_verbosity_error()
    experiment = Experiment(options)
    for stage in options.stages:
        for seed in range(options.seeds):
            getattr(experiment, stage)(seed)
    print(experiment.table())
    if options.picture is not None:
        draw_ranking(experiment.results(), options.picture)


if __name__ == "__main__":
    main()
