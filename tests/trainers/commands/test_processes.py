"""Two processes under `accelerate launch` and three under torchrun write what one does, to the byte."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from modeling_srlm import SelfRetrievalLM
from tests.support import ROOT
from tests.support.beir import write_beir
from tests.support.faults.jobs import prepare
from tests.support.faults.runs import ENVIRONMENT, files
from tests.support.faults.workers import accelerate_launch
from tests.support.files import write_rows
from tests.support.perplexity import ROWS as CHATS
from tests.support.tiny import TEXT, random_ids, tiny_backbone, tiny_tokenizer
from trainers import cli

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


def torchrun(number: int, module: str, arguments: list[str]) -> list[str]:
    return ["torch.distributed.run", "--standalone", "--nproc_per_node", str(number), "-m", module, *arguments]


def run(command: list[str]) -> str:
    environment = {**os.environ, **ENVIRONMENT}
    ended = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_two_and_three_processes_write_what_one_does(data, tmp_path, monkeypatch, capsys, name):
    places = [tmp_path / number for number in ("one", "two", "three")]
    for place in places:
        place.mkdir()
    monkeypatch.setattr("sys.argv", ["lookback", *argv(name, data, places[0])])
    cli.main()
    said = [capsys.readouterr().out, run(accelerate_launch(argv(name, data, places[1])))]
    said.append(run(torchrun(3, "trainers.cli", argv(name, data, places[2]))))
    assert [text.splitlines()[0] for text in said] == ["1 process", "2 processes", "3 processes"]
    written = {file: (places[0] / file).read_bytes() for file in files(places[0])}
    assert written
    for place, text in zip(places[1:], said[1:], strict=True):
        assert files(place) == list(written)
        for file, content in written.items():
            assert (place / file).read_bytes().replace(bytes(place), bytes(places[0])) == content, file
        if name in ("evaluate", "perplexity", "perplexity of chats"):  # which print figures, not where and how fast
            assert text.splitlines()[1:] == said[0].splitlines()[1:]


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
    said = run(torchrun(number, "tests.trainers.commands.test_processes", []))
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert sorted(one["rank"] for one in found) == [*range(number)]
    assert all(one["perplexity"] == pytest.approx(perplexity(0, 1), rel=1e-6) for one in found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    print(json.dumps({"rank": rank, "perplexity": perplexity(rank, size)}), flush=True)
    distributed.destroy_process_group()
