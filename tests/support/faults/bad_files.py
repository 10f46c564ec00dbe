"""Files that cannot be read, one of each kind, for every option of every command that reads one."""

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.beir import write_beir
from tests.support.faults.jobs import prepare
from tests.support.tiny import tiny_backbone, tiny_tokenizer

TRAINING = (
    "--output_dir", "OUT", "--max_steps", 2, "--per_device_train_batch_size", 2, "--report_to", "none", "--use_cpu",
    "--disable_tqdm", "true",
)  # fmt: skip
FINETUNE = ("finetune", "--model", "DATA/dropout", "--pooling", "mean", "--train_group_size", 2, *TRAINING)
PRETRAIN = ("pretrain", "--model", "DATA/dropout", "--max_length", 128, *TRAINING)
SIZES = ("--document_length", 48, "--target_size", 16, "--context_window_size", 32, "--chunk_size", 8, "--key_num", 1)
TRAIN_LM = ("train-lm", "--model", "DATA/dropout", *SIZES, *TRAINING)
SCORE = ("score", "--model", "DATA/lm", "--output", "OUT.jsonl")
MINE = ("mine", "--output", "OUT.jsonl", "--retriever", "bm25", "--rank_from", 0)
EVALUATE = ("evaluate", "--model", "DATA/biencoder", "--data", "IN/beir", "--output", "OUT.json")
PERPLEXITY = ("perplexity", "--model", "DATA/lm", "--methods", "no", "--report", "OUT.html")

PAIR = {"query": "what is it", "pos": ["a thing"], "neg": ["another"]}
PASSAGE = {"input": "one two three four", "output_summarize": "one two"}
DOCUMENT = {"text": " ".join(map(str, range(60)))}
CHAT = {"query": "what", "history": ["Speaker 1: hi"], "answers": ["the thing that was"]}
TOKENS = {"input_ids": list(range(3, 60)), "labels": list(range(3, 60))}


@dataclass(frozen=True)
class Reader:
    """An option that takes a file.

    Attributes:
        argv: the command; IN, DATA and OUT are folders: of the file, of good data and models, and for the output.
        row: a good line, whose first field may not be missing; None where the file is text or settings.
        file: its name below IN.
    """

    argv: tuple
    row: dict[str, Any] | None = None
    file: str = "rows.jsonl"

    def line(self, **fields: Any) -> bytes:
        """A line of the file."""
        return (json.dumps({**(self.row or {}), **fields}) + "\n").encode() if self.row else b"seed: 1\n"

    @property
    def field(self) -> str:
        return next(iter(self.row or {"": 0}))

    def arguments(self, folder: Path, data: Path) -> list[str]:
        """`argv` for a run in a folder."""
        places = {"IN": folder / "in", "DATA": data, "OUT": folder / "out" / "run"}
        return [_placed(str(argument), places) for argument in self.argv]


def _placed(text: str, places: dict[str, Path]) -> str:
    for name, place in places.items():
        text = text.replace(name, str(place)) if text.startswith(name) else text
    return text


READERS = {
    "finetune": Reader((*FINETUNE, "--train_data", "IN/rows.jsonl"), PAIR),
    "finetune, streamed": Reader((*FINETUNE, "--train_data", "IN/rows.jsonl", "--streaming"), PAIR),
    "finetune, worker": Reader(
        (*FINETUNE, "--train_data", "IN/rows.jsonl", "--streaming", "--dataloader_num_workers", 1), PAIR
    ),
    "finetune, list": Reader((*FINETUNE, "--train_data", "DATA/pairs.jsonl", "IN/rows.jsonl"), PAIR),
    "finetune, mixture": Reader((*FINETUNE, "--train_data", "IN/mixture.yaml"), PAIR),
    "finetune, eval_data": Reader(
        (*FINETUNE, "--train_data", "DATA/pairs.jsonl", "--eval_data", "IN/rows.jsonl"), PAIR
    ),
    "finetune, eval_retrieval": Reader(
        (*FINETUNE, "--train_data", "DATA/pairs.jsonl", "--eval_retrieval", "IN/beir"), {"_id": "q0", "text": "a"},
        "beir/queries.jsonl",
    ),
    "pretrain": Reader((*PRETRAIN, "--train_data", "IN/rows.jsonl"), PASSAGE),
    "pretrain, documents": Reader((*PRETRAIN, "--train_data", "IN/rows.jsonl"), DOCUMENT),
    "pretrain, streamed": Reader((*PRETRAIN, "--train_data", "IN/rows.jsonl", "--streaming"), PASSAGE),
    "pretrain, eval_data": Reader(
        (*PRETRAIN, "--train_data", "DATA/triples.jsonl", "--eval_data", "IN/rows.jsonl"), PASSAGE
    ),
    "train-lm": Reader((*TRAIN_LM, "--train_data", "IN/rows.jsonl"), DOCUMENT),
    "train-lm, chats": Reader((*TRAIN_LM, "--train_data", "IN/rows.jsonl"), CHAT),
    "train-lm, tokens": Reader((*TRAIN_LM, "--train_data", "IN/rows.jsonl"), TOKENS),
    "train-lm, eval_data": Reader(
        (*TRAIN_LM, "--train_data", "DATA/text.txt", "--eval_data", "IN/rows.jsonl"), DOCUMENT
    ),
    "score": Reader((*SCORE, "--data", "IN/rows.jsonl", "--task", "qa"), {**PAIR, "answers": ["d"]}),
    "score, documents": Reader(
        (*SCORE, "--data", "IN/rows.jsonl", "--task", "document", "--context_window_size", 16, "--chunk_size", 4,
         "--target_size", 8), DOCUMENT,
    ),
    "mine": Reader((*MINE, "--data", "IN/rows.jsonl"), PAIR),
    "mine, corpus": Reader((*MINE, "--data", "DATA/rows.jsonl", "--corpus", "IN/rows.jsonl"), {"text": "a"}),
    "encode": Reader(
        ("encode", "--model", "DATA/biencoder", "--data", "IN/rows.jsonl", "--output", "OUT.safetensors"),
        {"text": "a"},
    ),
    "evaluate, corpus": Reader(EVALUATE, {"_id": "d0", "text": "a"}, "beir/corpus.jsonl"),
    "evaluate, queries": Reader(EVALUATE, {"_id": "q0", "text": "a"}, "beir/queries.jsonl"),
    "evaluate, qrels": Reader(EVALUATE, {"query-id": "q0", "corpus-id": "d0", "score": 1}, "beir/qrels.jsonl"),
    "perplexity": Reader((*PERPLEXITY, "--data", "IN/rows.jsonl"), DOCUMENT),
    "perplexity, chats": Reader((*PERPLEXITY, "--task", "chat", "--data", "IN/rows.jsonl"), CHAT),
    "pretrain, text": Reader((*PRETRAIN, "--train_data", "IN/text.txt"), None, "text.txt"),
    "train-lm, text": Reader((*TRAIN_LM, "--train_data", "IN/text.txt"), None, "text.txt"),
    "pretrain, stop words": Reader(
        (*PRETRAIN, "--train_data", "DATA/triples.jsonl", "--stop_words", "IN/words.txt"), None, "words.txt"
    ),
    "explain, stop words": Reader(
        ("explain", "a text", "--model", "DATA/llara", "--stop_words", "IN/words.txt"), None, "words.txt"
    ),
    "generate, prompt": Reader(("generate", "--model", "DATA/lm", "--prompt_file", "IN/p.txt"), None, "p.txt"),
    "encode, lines": Reader(
        ("encode", "--model", "DATA/biencoder", "--data", "IN/a.txt", "--output", "OUT.safetensors"), None, "a.txt"
    ),
    "mine, lines": Reader((*MINE, "--data", "DATA/rows.jsonl", "--corpus", "IN/a.txt"), None, "a.txt"),
    "perplexity, text": Reader((*PERPLEXITY, "--data", "IN/a.txt"), None, "a.txt"),
    "evaluate, qrels.tsv": Reader(EVALUATE, None, "beir/qrels.tsv"),
    "finetune, config": Reader(
        (*FINETUNE, "--train_data", "DATA/pairs.jsonl", "--config", "IN/c.yaml"), None, "c.yaml"
    ),
    "mine, config": Reader((*MINE, "--data", "DATA/rows.jsonl", "--config", "IN/c.yaml"), None, "c.yaml"),
}  # fmt: skip

# Kind of a file of rows -> what its second line is; where there is a `{}`, the message names that line.
LINES = {
    "cut JSON": "is no JSON",
    "nested": "is nested too deep",
    "no object": "is a list and must be an object",
    "wrong type": "{field}",
    "missing field": "{field}",
    "null": "{field}",
    "latin-1": "is not UTF-8 (byte 0xe9)",
}
# Kind of any file -> what the message says of it.
WHOLE = {
    "gzip": "is compressed by gzip",
    "utf-16": "is UTF-16",
    "binary": "is not UTF-8",
    "no rights": "Permission denied",
    "loop": "is a symbolic link that leads to",
    "folder": "",
    "absent": "",
    "empty": "",
    "blank": "",
}
# What there is nothing wrong with.
FINE = {("finetune, config", "empty"), ("finetune, config", "blank"), ("mine, config", "empty"),
        ("mine, config", "blank"), ("generate, prompt", "blank")}  # fmt: skip


def cases() -> list[tuple[str, str]]:
    """Every reader with every kind of file that it can have."""
    rows = [(name, kind) for name, reader in READERS.items() if reader.row for kind in (*LINES, *WHOLE)]
    texts = [(name, kind) for name, reader in READERS.items() if not reader.row for kind in ("latin-1", *WHOLE)]
    return [case for case in rows + texts if case not in FINE]


def make(reader: Reader, kind: str, folder: Path) -> Path:
    """The file of a kind, in its place below `folder`."""
    if reader.file.startswith("beir"):
        write_beir(folder / "beir")
        if "qrels" in reader.file:
            shutil.rmtree(folder / "beir" / "qrels")
    if "IN/mixture.yaml" in reader.argv:
        (folder / "mixture.yaml").write_text(json.dumps([{"data": str(folder / "rows.jsonl"), "name": "a"}]))
    path = folder / reader.file
    path.unlink(missing_ok=True)
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
        (path / "x.bin").write_bytes(b"\xff\x00")
    elif kind != "absent":
        path.write_bytes(_content(reader, kind))
        path.chmod(0 if kind == "no rights" else 0o644)
    return path


def _content(reader: Reader, kind: str) -> bytes:
    good = reader.line()
    lacking = {name: value for name, value in (reader.row or {}).items() if name != reader.field}
    return {
        "cut JSON": good + good[:-8],
        "nested": good + b'{"a": ' + b"[" * 100_000 + b"\n",
        "no object": good + b"[1]\n",
        "wrong type": good + reader.line(**{reader.field: 5.5}),
        "missing field": good + (json.dumps(lacking) + "\n").encode(),
        "null": good + reader.line(**{reader.field: None}),
        "latin-1": good + '{"a": "\u00e9"}\n'.encode("latin-1"),
        "gzip": gzip.compress(good),
        "utf-16": good.decode().encode("utf-16"),
        "binary": bytes(range(128, 256)) * 9,
        "no rights": good,
        "empty": b"",
        "blank": b"\n  \n\t\n",
    }[kind]


def prepare_models(data: Path) -> Path:
    """The folder with good data and models."""
    prepare(data)
    settings = {"context_window_size": 64, "chunk_size": 8, "retrieval_method": "bm25"}
    SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **settings).save_pretrained(data / "lm")
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_pretrained(data / "llara")
    return data
