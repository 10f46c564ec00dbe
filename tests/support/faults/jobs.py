"""Six commands that take a while on tiny models: what they are called with, and when two results are the same."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.support.feedback import MANY
from tests.support.files import write_rows
from tests.support.mining import PASSAGES, ROWS, biencoder
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, SENTENCES
from tests.support.training import PASSAGES as TRIPLES

STEPS, FEW_STEPS, SAVE_STEPS = 22, 4, 3
TRAINING = [
    "--max_steps", STEPS, "--save_steps", SAVE_STEPS, "--save_strategy", "steps", "--save_total_limit", 2,
    "--per_device_train_batch_size", 2, "--learning_rate", 1e-2, "--report_to", "none", "--use_cpu", "--disable_tqdm",
    "true", "--resume_from_checkpoint", "last", "--dataloader_pin_memory", "false", "--logging_steps", 1,
]  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A command with `OUT` for its output in the arguments, and `DATA` for the folder of `prepare`.

    `late` is in what the run changes when there is little left to do: the last checkpoint is in its place, or all
    parts are there.
    """

    command: str
    arguments: tuple
    output: str
    late: str
    steps: int = STEPS
    files: tuple[str, ...] = ()  # that are written, where they are not `output`

    @property
    def trains(self) -> bool:
        return self.output == "run"

    def argv(self, data: Path, folder: Path) -> list[str]:
        places = {"DATA": str(data), "OUT": str(folder / self.output)}
        texts = [self.command, *map(str, self.arguments)]
        for name, place in places.items():
            texts = [text.replace(name, place) for text in texts]
        return texts

    def short(self) -> "Job":
        """The same with less to do."""
        if not self.trains:
            return self
        arguments = tuple(FEW_STEPS if argument == STEPS else argument for argument in self.arguments)
        return replace(self, arguments=arguments, late=self.late.replace(str(STEPS), str(FEW_STEPS)), steps=FEW_STEPS)

    def finished(self, folder: Path) -> bool:
        """Whether the output of a job that does not train is there, and its parts are gone."""
        return not self.trains and sorted(path.name for path in folder.iterdir()) == self.names

    @property
    def names(self) -> list[str]:
        files = self.files or (self.output,)
        ids = [Path(name).with_suffix(".ids.jsonl").name for name in files if name.endswith(".safetensors")]
        return sorted([*files, *ids])

    def assert_same(self, whole: Path, killed: Path) -> None:
        """The bytes of the output, or the weights and the figures of a training."""
        if not self.trains:
            assert sorted(path.name for path in killed.iterdir()) == self.names
            for name in self.names:
                assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
            return
        one, other = whole / self.output, killed / self.output
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
        for name in ("model.safetensors", f"checkpoint-{self.steps}/model.safetensors"):
            torch.testing.assert_close(load_file(one / name), load_file(other / name), rtol=0, atol=1e-6)
        states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (one, other)]
        losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
        assert states[1]["global_step"] == self.steps and losses[0] == losses[1] and len(losses[0]) == self.steps
        results = [json.loads((folder / "all_results.json").read_text()) for folder in (one, other)]
        assert results[0].keys() == results[1].keys() and results[0]["eval_loss"] == results[1]["eval_loss"]
        cards = [(folder / "README.md").read_text().replace(str(folder.parent), "") for folder in (one, other)]
        assert cards[0] == cards[1]


_DATA = ("--train_data", "DATA/{}", "--eval_data", "DATA/{}", "--output_dir", "OUT")


def _training(command: str, file: str, *own: object) -> Job:
    data = [text.format(file) for text in _DATA]
    return Job(command, ("--model", "DATA/dropout", *data, *own, *TRAINING), "run", f"/checkpoint-{STEPS} -1 -1")


JOBS = {
    "finetune": _training(
        "finetune", "pairs.jsonl", "--train_group_size", 3, "--pooling", "mean", "--symmetric_weight", 0.5
    ),
    "pretrain": _training("pretrain", "triples.jsonl", "--max_length", 128),
    "train-lm": _training(
        "train-lm", "text.txt", "--document_length", 96, "--target_size", 16, "--context_window_size", 32,
        "--chunk_size", 8, "--key_num", 1,
    ),
    "score": Job(
        "score", ("--model", "DATA/backbone", "--data", "DATA/many.jsonl", "--output", "OUT", "--batch_size", 2),
        "out.jsonl", "/.out.jsonl.part",
    ),
    "mine": Job(
        "mine",
        ("--model", "DATA/biencoder", "--data", "DATA/rows.jsonl", "--corpus", "DATA/corpus.jsonl", "--output", "OUT",
         "--retriever", "both", "--rank_from", 1, "--num_negatives", 3, "--block_size", 4, "--batch_size", 1),
        "out.jsonl", "/.out.jsonl.part",
    ),
    "encode": Job(
        "encode", ("--model", "DATA/biencoder", "--data", "DATA/corpus.jsonl", "--output", "OUT", "--batch_size", 1),
        "out.safetensors", "/.out.safetensors.part",
    ),
    "encode to int8": Job(
        "encode",
        ("--model", "DATA/biencoder", "--data", "DATA/corpus.jsonl", "--output", "OUT", "--batch_size", 1,
         "--precision", "int8"),
        "out.parquet", "/.out.parquet.part",
    ),
}  # fmt: skip


def _sharded(name: str, late: str, num_shards: int = 3) -> Job:
    job = JOBS[name]
    path, files = Path(job.output), ()
    if job.command == "encode":
        files = tuple(f"{path.stem}-{number:05}-of-{num_shards:05}{path.suffix}" for number in range(num_shards))
    return replace(job, arguments=(*job.arguments, "--num_shards", num_shards), late=late, files=files)


# For workers that share no more than the folder.
SHARDED = {
    "score": _sharded("score", "/out.jsonl.0.claim"),
    "mine": _sharded("mine", "/out.jsonl.0.claim"),
    "encode": _sharded("encode", "/out-00002-of-00003.safetensors.0.claim"),
    "encode to int8": _sharded("encode to int8", "/out-00002-of-00003.parquet.0.claim"),
}

# A file that shows that a job is at work, also that the second of two workers is.
AWAITED = {
    **{name: "checkpoint-3/" for name, job in JOBS.items() if job.trains},
    "score": "part-00001", "mine": "part-00001", "encode": "embeddings-000001",
    "encode to int8": "embeddings-000001",
}  # fmt: skip


def prepare(data: Path) -> Path:
    """The folder with models and data of all jobs."""
    for name, config in {"dropout": {"attention_dropout": 0.1}, "backbone": {}}.items():
        tiny_backbone("llama", **config).save_pretrained(data / name)
        tiny_tokenizer().save_pretrained(data / name)
    biencoder().save_pretrained(data / "biencoder")
    write_rows(data / "pairs.jsonl", PAIRS)
    write_rows(data / "triples.jsonl", TRIPLES)
    (data / "text.txt").write_text(" ".join(SENTENCES) * 8)
    write_rows(data / "many.jsonl", MANY * 3)
    write_rows(data / "rows.jsonl", [{**row, "query": f"{row['query']} {i}"} for i in range(12) for row in ROWS])
    write_rows(data / "corpus.jsonl", [{"text": f"{text} {i}"} for i in range(5) for text in PASSAGES])
    return data
