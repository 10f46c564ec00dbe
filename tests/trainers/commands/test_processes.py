"""Two and three processes write what one does, to the byte."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from modeling_srlm import SelfRetrievalLM
from tests.support import ROOT
from tests.support.beir import write_beir
from tests.support.faults.jobs import prepare
from tests.support.faults.runs import ENVIRONMENT, Server, files, server
from tests.support.faults.workers import Forked, accelerate_launch
from tests.support.files import write_rows
from tests.support.perplexity import ROWS as CHATS
from tests.support.tiny import TEXT, random_ids, tiny_backbone, tiny_tokenizer

WINDOW = ["--context_window_size", "128", "--chunk_size", "16", "--key_num", "2"]
COMMANDS = {
    "score": ["--model", "DATA/backbone", "--data", "DATA/many.jsonl", "--output", "OUT/out.jsonl",
              "--batch_size", "3"],
    "score documents": ["--model", "DATA/backbone", "--task", "document", "--data", "DATA/texts", "--output",
                        "OUT/out.jsonl", "--target_size", "32", *WINDOW[:4]],
    "mine": ["--model", "DATA/biencoder", "--data", "DATA/rows.jsonl", "--corpus", "DATA/corpus.jsonl", "--output",
             "OUT/out.jsonl", "--retriever", "both", "--num_negatives", "3", "--block_size", "8", "--batch_size", "3"],
    "encode": ["--model", "DATA/biencoder", "--data", "DATA/corpus.jsonl", "--output", "OUT/out.safetensors",
               "--batch_size", "4"],
    "encode to int8": ["--model", "DATA/biencoder", "--data", "DATA/corpus.jsonl", "--output", "OUT/out.parquet",
                       "--batch_size", "4", "--precision", "int8"],
    "evaluate": ["--model", "DATA/biencoder", "--data", "DATA/beir", "--output", "OUT/out.json", "--baseline", "bm25",
                 "--batch_size", "3"],
    "perplexity": ["--model", "DATA/backbone", "--data", "DATA/texts", "--methods", "no", "bm25", "self", "--report",
                   "OUT/report.html", *WINDOW],
    "perplexity of chats": ["--model", "DATA/backbone", "--task", "chat", "--data", "DATA/chats.jsonl", "--batch_size",
                            "2", "--report", "OUT/report.html", *WINDOW],
}  # fmt: skip


@pytest.fixture(scope="module")
def commands() -> Iterator[Server]:
    """Where processes begin without loading everything anew."""
    if not hasattr(os, "fork") or not Path("/proc").is_dir():
        pytest.skip("needs Linux")
    with server() as running:
        yield running


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("data"))
    (folder / "texts").mkdir()
    for number in range(5):  # of unequal lengths
        (folder / "texts" / f"{number}.txt").write_text(TEXT * (4 + 3 * number % 7))
    write_rows(folder / "chats.jsonl", CHATS)
    (folder / "beir").mkdir()
    write_beir(folder / "beir")
    return folder


def argv(name: str, data: Path, place: Path) -> list[str]:
    texts = [name.split()[0], *COMMANDS[name]]
    return [text.replace("DATA", str(data)).replace("OUT", str(place)) for text in texts]


def torchrun(number: int, module: str) -> list[str]:
    return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(number), "-m", module]


def run(command: list[str]) -> str:
    environment = {**os.environ, **ENVIRONMENT}
    ended = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def written(folder: Path, alone: Path) -> dict[str, bytes]:
    """The files that a command wrote, as if it had written them beside those of one process."""
    return {file: (folder / file).read_bytes().replace(bytes(folder), bytes(alone)) for file in files(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_two_and_three_processes_write_what_one_does(commands, data, tmp_path, name):
    for number in (1, 2, 3):
        place = tmp_path / str(number)
        place.mkdir()
        ends = Forked(commands, argv(name, data, place), number).wait_for_both()
        assert [ended.status for ended in ends] == [0] * number, ends
        assert f"{number} process" in ends[0].said
        assert written(place, tmp_path / "1") == written(tmp_path / "1", tmp_path / "1") != {}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate launch"])
def test_launched_processes_do_so_too(commands, data, tmp_path, launcher):
    alone, place = tmp_path / "alone", tmp_path / "place"
    for folder in (alone, place):
        folder.mkdir()
    assert commands.run(argv("evaluate", data, alone)).status == 0
    start = torchrun(3, "trainers.cli") if launcher == "torchrun" else accelerate_launch([])
    said = run([*start, *argv("evaluate", data, place)])
    assert said.startswith("3 processes\n" if launcher == "torchrun" else "2 processes\n")
    assert written(place, alone) == written(alone, alone) != {}


def perplexity(rank: int, number: int) -> float:
    """Of this process's share of the rows."""
    settings = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "retrieval_method": "bm25"}
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **settings)
    rows = [random_ids(150 + 20 * row, seed=row)[None] for row in range(5)]
    batches = [{"input_ids": ids, "labels": torch.where(torch.arange(ids.shape[1]) < 100, -100, ids)} for ids in rows]
    return model.compute_perplexity(batches[rank::number], show_progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_the_perplexity_of_all_processes_is_that_of_one(number):
    said = run(torchrun(number, "tests.trainers.commands.test_processes"))
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert sorted(one["rank"] for one in found) == [*range(number)]
    assert all(one["perplexity"] == pytest.approx(perplexity(0, 1), rel=1e-6) for one in found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    print(json.dumps({"rank": rank, "perplexity": perplexity(rank, size)}), flush=True)
    distributed.destroy_process_group()
