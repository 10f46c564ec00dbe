"""`lookback score`: interruption, several processes, and what it refuses."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import datasets
import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support import ROOT
from tests.support.feedback import MANY, save_backbone
from tests.support.files import read_rows, write_rows
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from trainers.biencoder.rows import load_biencoder_rows
from trainers.commands import score as command
from trainers.commands.score import main
from trainers.jobs.parts import PartFiles


@pytest.fixture
def run(tmp_path):
    """Runs the command on `MANY`; the output's path comes back."""
    model, data = save_backbone(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl", MANY)

    def call(name: str, *extra: str) -> Path:
        main(options(model, data, tmp_path / name, *extra))
        return tmp_path / name

    return call


def options(model: str, data: str, output: Path, *extra: str) -> list[str]:
    return ["--model", model, "--data", data, "--output", str(output), "--batch_size", "2", *extra]


def interrupt(monkeypatch, run, name, groups, *extra):
    """A run that dies after so many groups."""
    append, done = PartFiles.append, []

    def append_or_die(*arguments):
        if len(done) == groups:
            raise KeyboardInterrupt
        done.append(append(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(PartFiles, "append", append_or_die)
        with pytest.raises(KeyboardInterrupt):
            run(name, *extra)


def test_rows_come_back_in_order_with_their_scores(run, capsys):
    output = run("out.jsonl")
    rows = read_rows(output)
    assert [{k: v for k, v in row.items() if k != "teacher_scores"} for row in rows] == MANY
    assert all(len(row["teacher_scores"]) == 3 for row in rows)
    assert len(load_biencoder_rows(output, group_size=3)) == len(MANY)
    assert f"{len(MANY)} rows" in capsys.readouterr().out
    assert sorted(path.name for path in output.parent.iterdir()) == ["model", "out.jsonl", "rows.jsonl"]


def test_other_fields_are_kept_as_they_are(run, tmp_path):
    odd = {
        **MANY[0],
        "date": "2020-01-01",
        "nothing": None,
        "nested": {"a": [1, None]},
        "text": "a\u2028b",
        "id": 2**60,
    }
    rows = [odd, {"query": "who?", "history": ["one", "two"], "answers": ["me"], "task": "chat", "date": 7}]
    write_rows(tmp_path / "odd.jsonl", rows)
    with (tmp_path / "odd.jsonl").open("a") as file:
        file.write("\n")
    found = read_rows(run("out.jsonl", "--data", str(tmp_path / "odd.jsonl")))
    assert [{k: v for k, v in row.items() if k != "teacher_scores"} for row in found] == rows
    datasets.Dataset.from_list([{**MANY[0], "date": datetime(2020, 1, 1)}]).to_parquet(tmp_path / "odd.parquet")
    (row,) = read_rows(run("table.jsonl", "--data", str(tmp_path / "odd.parquet")))
    assert row == {**MANY[0], "date": "2020-01-01 00:00:00", "teacher_scores": row["teacher_scores"]}


@pytest.mark.parametrize(
    "text, message", [("{]", "line 1 is no JSON"), ("[1]", "line 1 is a list"), ("\n", "holds no row")]
)
def test_files_without_rows(run, tmp_path, text, message):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        run("out.jsonl", "--data", str(tmp_path / "bad.jsonl"))


@pytest.mark.cases(1)
@pytest.mark.parametrize("cut", [0, 1, 40])
def test_an_interrupted_run_goes_on_to_the_same_file(run, monkeypatch, capsys, cut):
    whole = run("whole.jsonl")
    interrupt(monkeypatch, run, "out.jsonl", 3)
    (part,) = (whole.parent / "out.jsonl.parts").glob("part-*")
    os.truncate(part, part.stat().st_size - cut)
    assert not (whole.parent / "out.jsonl").exists()
    scored = []
    score = command.RowFeedback.score
    monkeypatch.setattr(
        command.RowFeedback, "score", lambda self, group: (scored.append(group), score(self, group))[1]
    )
    output = run("out.jsonl")
    assert output.read_bytes() == whole.read_bytes()
    assert scored == list(range(3 if cut == 0 else 2, 4))
    assert f"{scored[0]} of 4 groups by an earlier run" in capsys.readouterr().out


def test_garbage_in_a_part_is_done_again(run, monkeypatch):
    whole = run("whole.jsonl")
    interrupt(monkeypatch, run, "out.jsonl", 2)
    (part,) = (whole.parent / "out.jsonl.parts").glob("part-*")
    first = part.read_bytes().splitlines(keepends=True)[0]
    part.write_bytes(first + b"\0" * 100 + b"\n")
    assert run("out.jsonl").read_bytes() == whole.read_bytes()


def _replace_settings_alone(source, target, replace=os.replace):
    if Path(target).name != "settings.json":
        raise KeyboardInterrupt
    replace(source, target)


def test_an_interruption_while_joining_loses_nothing(run, monkeypatch):
    whole = run("whole.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _replace_settings_alone)
        with pytest.raises(KeyboardInterrupt):
            run("out.jsonl")
    assert not (whole.parent / "out.jsonl").exists()
    assert run("out.jsonl").read_bytes() == whole.read_bytes()


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "extra, message",
    [
        (["--score", "sum"], "score was 'mean' and is 'sum'"),
        (["--batch_size", "3"], "batch_size was 2 and is 3"),
        (["--context_window_size", "128"], "context_window_size was .* and is 128"),
    ],
)
def test_other_settings_do_not_go_on(run, monkeypatch, extra, message):
    interrupt(monkeypatch, run, "out.jsonl", 2)
    with pytest.raises(ValueError, match=f"{message}.*--overwrite"):
        run("out.jsonl", *extra)
    anew = run("out.jsonl", *extra, "--overwrite")
    assert anew.read_bytes() == run("other.jsonl", *extra).read_bytes()


def test_other_data_or_weights_do_not_go_on(run, monkeypatch, tmp_path):
    interrupt(monkeypatch, run, "out.jsonl", 2)
    write_rows(tmp_path / "rows.jsonl", [*MANY[:-1], {**MANY[-1], "answers": ["another"]}])
    with pytest.raises(ValueError, match="sha256 of the data was"):
        run("out.jsonl")
    write_rows(tmp_path / "rows.jsonl", MANY)
    tiny_backbone(seed=1).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="sha256 of the weights was"):
        run("out.jsonl")


def test_the_same_weights_in_another_dtype_do_not_go_on(run, monkeypatch, tmp_path):
    tiny_backbone().to(torch.bfloat16).save_pretrained(tmp_path / "model")
    interrupt(monkeypatch, run, "out.jsonl", 1)
    with pytest.raises(ValueError, match=r"dtype of the weights was 'bfloat16' and is 'float32'.*--overwrite"):
        run("out.jsonl", "--dtype", "float32")


def test_a_finished_output_is_kept(run):
    output = run("out.jsonl")
    before = output.read_bytes()
    with pytest.raises(ValueError, match=r"out.jsonl is there already.*--overwrite"):
        run("out.jsonl", "--score", "sum")
    assert output.read_bytes() == before
    run("out.jsonl", "--score", "sum", "--overwrite")
    assert output.read_bytes() != before


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--task", "tools"], "--task='tools' must be one of qa"),
        (["--score", "max"], "--score='max' must"),
        (["--target", "pos"], "--target='pos' must"),
        (["--candidates", "none"], "--candidates='none' must"),
        (["--batch_size", "0"], "--batch_size=0 must be at least 1"),
        (["--bm25_candidates", "1", "--random_candidates", "0"], "one key teaches nothing"),
        (["--task", "document", "--bm25_candidates", "0", "--random_candidates", "0"], "--dense_candidates=0 must be"),
        (["--output", "out.json"], "must end in .jsonl"),
        (["--context_window_size", "1000"], "must divide into chunks of chunk_size=32"),
    ],
)
def test_bad_arguments(run, extra, message):
    with pytest.raises(ValueError, match=message):
        run("out.jsonl", *extra)


def test_the_output_is_never_part_of_the_data(run, tmp_path):
    with pytest.raises(ValueError, match="lies in --data"):
        run("rows.jsonl", "--overwrite")
    with pytest.raises(ValueError, match="lies in --data"):
        run("out.jsonl", "--data", str(tmp_path))


def test_candidates_of_a_retriever_that_is_not_there(run, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 8)
    extra = ["--task", "document", "--data", str(tmp_path / "text.txt"), "--context_window_size", "64"]
    with pytest.raises(ValueError, match="dense_candidates is 2 and the model has no retriever"):
        run("out.jsonl", *extra, "--dense_candidates", "2")


def test_documents_by_the_command(run, monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 8)
    extra = ["--task", "document", "--data", str(tmp_path / "text.txt"), "--context_window_size", "64"]
    extra += ["--chunk_size", "16", "--target_size", "32", "--cuts", "4"]
    whole = run("whole.jsonl", *extra)
    interrupt(monkeypatch, run, "out.jsonl", 2, *extra)
    assert run("out.jsonl", *extra).read_bytes() == whole.read_bytes()
    rows = read_rows(whole)
    assert len(rows) == 4 * 2 and all(set(row) == {"query", "pos", "neg", "teacher_scores"} for row in rows)
    every = read_rows(run("all.jsonl", *extra, "--candidates", "all"))
    assert [row["query"] for row in every] == [row["query"] for row in rows]
    assert sum(len(row["neg"]) for row in every) > sum(len(row["neg"]) for row in rows)
    assert len(load_biencoder_rows(whole, group_size=2)) == len(rows)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_two_processes_name_one_mistake(tmp_path):
    model, data = save_backbone(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl", MANY)
    (tmp_path / "out.jsonl").write_text("kept")
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    failed = subprocess.run(
        [*two, "trainers.cli", "score", *options(model, data, tmp_path / "out.jsonl")],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode != 0
    assert "out.jsonl is there already" in failed.stderr
    assert (tmp_path / "out.jsonl").read_text() == "kept"


def test_documents_of_a_model_that_keeps_states(tmp_path, capsys):
    model = SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), context_window_size=64, chunk_size=16, target_size=32, reuse_states=True,
        retrieval_method="random", key_num=3,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "srlm")
    data = write_rows(tmp_path / "texts.jsonl", [{"text": TEXT * 5}])
    kept, plain = options(str(tmp_path / "srlm"), data, tmp_path / "kept.jsonl"), save_backbone(tmp_path / "plain")
    main([*kept, "--task", "document", "--store_dtype", "int8"])
    asked = ["--context_window_size", "64", "--chunk_size", "16", "--target_size", "32"]
    main([*options(plain, data, tmp_path / "asked.jsonl"), "--task", "document", *asked, "--reuse_states"])
    main([*options(plain, data, tmp_path / "exact.jsonl"), "--task", "document", *asked])
    rows, same, exact = (read_rows(tmp_path / f"{name}.jsonl") for name in ("kept", "asked", "exact"))
    assert [row["query"] for row in rows] == [row["query"] for row in same] and len(rows) > 5
    for row, other in zip(rows, same, strict=True):
        assert sorted(row["teacher_scores"]) == pytest.approx(sorted(other["teacher_scores"]), abs=0.05)
        assert row["teacher_scores"] != other["teacher_scores"]  # int8
    assert [row["teacher_scores"] for row in exact] != [row["teacher_scores"] for row in same]
    data = write_rows(tmp_path / "rows.jsonl", MANY)
    main(options(str(tmp_path / "srlm"), data, tmp_path / "rows_kept.jsonl"))
    main(options(plain, data, tmp_path / "rows_plain.jsonl"))
    assert (tmp_path / "rows_kept.jsonl").read_bytes() == (tmp_path / "rows_plain.jsonl").read_bytes()


def test_rows_need_no_room_in_a_store(tmp_path):
    """The repo's own limit is for its own window, and nothing is kept of rows."""
    model = SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), context_window_size=64, chunk_size=16, reuse_states=True, key_num=1,
        store_limit=96,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "srlm")
    data = write_rows(tmp_path / "rows.jsonl", MANY)
    main(options(str(tmp_path / "srlm"), data, tmp_path / "scored.jsonl"))
    assert len(read_rows(tmp_path / "scored.jsonl")) == len(MANY)


def test_documents_with_another_retriever_are_another_run(tmp_path, monkeypatch):
    sizes = {"context_window_size": 64, "chunk_size": 16, "target_size": 32}
    data = write_rows(tmp_path / "texts.jsonl", [{"text": TEXT * 5}, {"text": TEXT * 6}])
    asked = options(str(tmp_path / "srlm"), data, tmp_path / "out.jsonl")
    asked += ["--task", "document", "--dense_candidates", "3", "--bm25_candidates", "0"]
    for seed in (0, 1):
        retriever = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
        for weight in retriever.parameters():
            torch.nn.init.normal_(weight, std=0.3 + seed)
        model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), retriever=retriever, **sizes)
        model.save_pretrained(tmp_path / "srlm")
        if seed == 0:
            interrupt(monkeypatch, lambda name, *extra: main([*asked, *extra]), "out.jsonl", 1)
    with pytest.raises(ValueError, match="sha256 of the retriever"):
        main(asked)


@pytest.mark.parametrize("extra", [["--reuse_states"], ["--task", "qa", "--store_limit", "900"]])
def test_kept_states_are_for_documents(run, extra):
    with pytest.raises(ValueError, match=rf"{extra[-2] if len(extra) > 2 else extra[0]}=.* is for --task document"):
        run("out.jsonl", *extra)
