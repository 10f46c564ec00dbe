"""The commands that write and are soon done: what they are called with, and what was in their place before."""

import shutil
from pathlib import Path

from safetensors.torch import load_file
from torch.testing import assert_close

from tests.support.beir import write_beir
from tests.support.files import write_rows
from tests.support.perplexity import ROWS as CHATS

from .disks import Work, contents
from .runs import Server, files

_LORA = ["--lora_rank", "2", "--max_steps", "1", "--use_cpu", "--report_to", "none", "--save_strategy", "no"]
_PAIRS = ["--train_data", "DATA/pairs.jsonl", "--train_group_size", "2", "--pooling", "mean"]
_DEMO = [
    "--backbone", "DATA/backbone", "--output_dir", "OUT/demo", "--llara_steps", "2", "--biencoder_steps", "2",
    "--code_pairs", "16", "--holdout_pairs", "16", "--feedback_documents", "1", "--document_length", "1600",
    "--max_documents", "1",
]  # fmt: skip
_WINDOW = ["--context_window_size", "128", "--chunk_size", "16", "--key_num", "2"]
ARGUMENTS = {
    "evaluate": ["--model", "DATA/biencoder", "--data", "DATA/beir", "--output", "OUT/out.json"],
    "perplexity": [
        "--model", "DATA/backbone", "--data", "DATA/document.txt", "--methods", "no", "bm25", "--report",
        "OUT/report.html", *_WINDOW,
    ],
    "perplexity of chats": [
        "--model", "DATA/backbone", "--task", "chat", "--data", "DATA/chats.jsonl", "--report", "OUT/report.html",
        *_WINDOW,
    ],
    "merge": ["--model", "DATA/adapter", "--output", "OUT/merged"],
    "convert": ["--model", "DATA/llara", "--output", "OUT/biencoder"],
    "evaluate from the Hub": ["--model", "user/repo", "--data", "DATA/beir", "--output", "OUT/out.json"],
    "pull": ["--repo_id", "user/repo", "--local_dir", "OUT/pulled"],
    "pull into the cache": ["--repo_id", "user/repo"],
    "demo": _DEMO,
}  # fmt: skip


def prepare_writers(data: Path, server: Server) -> None:
    """What these commands read, beside what `jobs.prepare` wrote."""
    (data / "beir").mkdir()
    write_beir(data / "beir")
    (data / "document.txt").write_text((data / "text.txt").read_text()[:3000])
    write_rows(data / "chats.jsonl", CHATS)
    trainings = {
        "adapter": ["finetune", *_PAIRS, *_LORA],
        "llara": ["pretrain", "--train_data", "DATA/triples.jsonl", "--max_length", "128", *_LORA[2:]],
    }
    for name, arguments in trainings.items():
        ended = server.run(
            [text.replace("DATA", str(data)) for text in arguments]
            + ["--model", str(data / "backbone"), "--output_dir", str(data / name)]
        )
        assert ended.status == 0, ended.said


def writer(name: str, data: Path, endpoint: str) -> Work:
    """The command under its name in `ARGUMENTS`."""

    def argv(place: Path) -> list[str]:
        places = {"DATA": str(data), "OUT": str(place)}
        texts = [name.split()[0], *ARGUMENTS[name]]
        for key, folder in places.items():
            texts = [text.replace(key, folder) for text in texts]
        return texts

    pulls = "Hub" in name or name.startswith("pull")
    settings = (lambda place: {"hub": [endpoint, str(place / "home")]}) if pulls else (lambda place: {})
    return Work(name.split()[0], argv, assert_same_demo if name == "demo" else assert_same_files, settings)


def assert_same_files(whole: Path, other: Path) -> None:
    """But for the Hub client's own files."""
    own = ("home/", ".cache/")
    assert [name for name in files(whole) if not any(part in name for part in own)] == [
        name for name in files(other) if not any(part in name for part in own)
    ]
    for name, content in contents(whole).items():
        if "snapshots" in name or not any(part in name for part in own):
            assert (other / name).read_bytes().replace(bytes(other), bytes(whole)) == content, name


def assert_same_demo(whole: Path, other: Path) -> None:
    """Its report has plots and seconds."""
    assert files(whole) == files(other)
    for name in files(whole):
        if name.endswith(".safetensors"):
            assert_close(load_file(other / name), load_file(whole / name), rtol=0, atol=1e-6)


def former(whole: Path, place: Path) -> None:
    """What an earlier run of the command left, a little different in every text."""
    shutil.copytree(whole, place, dirs_exist_ok=True, symlinks=True)
    for name in files(place):
        if name.endswith((".json", ".html", ".md", ".py")) and "home/" not in name:
            with (place / name).open("a") as file:
                file.write("\n")
