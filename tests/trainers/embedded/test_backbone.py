"""The embedded corpus and the training of its backbone."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainers.embedded import train_backbone
from trainers.embedded.corpus import HOLDOUT_MODULES, code_pairs, is_holdout, standard_library
from trainers.embedded.muon import MuonWithAdamW
from trainers.embedded.packing import SHAPES, plain_sequences, retrieval_sequences
from trainers.embedded.train_backbone import build_model, last_whole_checkpoint, prepare, train_tokenizer


@pytest.fixture(scope="module")
def splits():
    return {split: standard_library(split) for split in ("train", "holdout")}


@pytest.mark.slow
def test_the_splits_share_nothing(splits):
    assert len(HOLDOUT_MODULES) == 17
    assert {document.name.split("/")[0].removesuffix(".py") for document in splits["holdout"]} == set(HOLDOUT_MODULES)
    names = {document.name for document in splits["train"]}
    assert len(names) > 500
    assert not any(is_holdout(name) for name in names)
    assert not {"test/test_argparse.py", "test/test_typing.py", "test/test_tarfile.py"} & names
    known = {line.strip() for document in splits["holdout"] for line in document.text.splitlines()}
    for document in splits["train"]:
        lines = [line.strip() for line in document.text.splitlines() if len(line.strip()) >= 24]
        assert sum(line in known for line in lines) <= 0.1 * len(lines), document.name


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"'test'.*'train' and 'holdout'"):
        standard_library("test")


@pytest.mark.slow
def test_code_pairs_hide_the_docstring():
    pairs = code_pairs("holdout")
    assert len(pairs) > 500
    assert len({pair.passage for pair in pairs}) == len({pair.query for pair in pairs}) == len(pairs)
    assert not any(pair.query in " ".join(pair.passage.split()) for pair in pairs)
    assert all(pair.passage.startswith("def (") and "\n    " in pair.passage for pair in pairs)
    assert code_pairs("holdout", 5) == pairs[:5]


def test_retrieval_rows_are_values_before_their_window():
    tokens = np.random.default_rng(0).integers(3, 400, 6000)
    rows = list(retrieval_sequences(tokens, 1024, np.random.default_rng(1)))
    assert len(rows) >= 8
    starts = {tuple(tokens[at : at + 32]): at for at in range(0, 6000 - 31, 32)}
    for row in rows:
        values, window = next(shape for shape in SHAPES if tuple(row[shape[0] * 64 :][:32]) in starts
                              and len(row) == shape[0] * 64 + shape[1])  # fmt: skip
        begin = starts[tuple(row[values * 64 :][:32])]
        assert np.array_equal(row[values * 64 :], tokens[begin : begin + window])
        keys = [starts[tuple(row[at : at + 32])] for at in range(0, values * 64, 64)]
        assert keys == sorted(keys)
        assert keys[-1] + 64 <= begin
        for number, key in enumerate(keys):
            assert np.array_equal(row[number * 64 : number * 64 + 64], tokens[key : key + 64])


def test_plain_rows_are_the_documents():
    documents = [np.full(700, 5), np.full(900, 6)]
    rows = plain_sequences(documents, 256, 1, np.random.default_rng(0))
    assert rows.shape[1] == 256
    assert set(np.unique(rows)) <= {1, 5, 6}


@pytest.mark.slow
def test_muon_with_adamw_learns_and_resumes():
    tokenizer = train_tokenizer(["def add(a, b):\n    return a + b\n" * 20])
    torch.manual_seed(0)
    model = build_model(tokenizer)
    assert 3e6 < model.num_parameters() < 12e6
    optimizer = MuonWithAdamW.for_model(model)
    ids = torch.tensor([tokenizer("def add(a, b):\n    return a + b\n")["input_ids"]])

    def step(model, optimizer):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    losses = [step(model, optimizer) for _ in range(3)]
    assert losses[2] < losses[0] - 1
    copy = build_model(tokenizer)
    copy.load_state_dict(model.state_dict())
    resumed = MuonWithAdamW.for_model(copy)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    assert [step(copy, resumed) for _ in range(2)] == pytest.approx(
        [step(model, optimizer) for _ in range(2)], abs=1e-5
    )


def test_it_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    for step, state in ((2, "{}"), (10, "{}"), (12, '{"half'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_rows_that_were_made_with_other_settings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(train_backbone, "standard_library", lambda _: [SimpleNamespace(text="a = 1\n" * 2000)])
    monkeypatch.setattr(train_backbone, "installed_packages", lambda *_: [])
    rows = prepare(tmp_path, seed=1, package_chars=5)[1]
    assert np.array_equal(prepare(tmp_path, seed=1, package_chars=5)[1], rows)
    for name, other in (("seed", (2, 5)), ("package_chars", (1, 6))):
        with pytest.raises(ValueError, match=f"--{name}={other[name != 'seed']} must be as it was"):
            prepare(tmp_path, *other)


def test_a_run_goes_on_with_the_batch_size_and_the_tokens_that_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(train_backbone, "prepare", lambda *_: 1 / 0)  # before any work
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"train_batch_size": 4, "max_steps": 10}')

    def run(batch_size, tokens):
        options = ["--output_dir", str(tmp_path), "--batch_size", str(batch_size), "--tokens", str(tokens)]
        monkeypatch.setattr("sys.argv", ["train_backbone", *options, "--no-compile"])
        train_backbone.main()

    with pytest.raises(ValueError, match="--batch_size=2 must be as it was, 4"):
        run(2, 2 * 10 * 1024)
    with pytest.raises(ValueError, match="--tokens=45056 makes 11 steps and must make as many as it did, 10"):
        run(4, 11 * 4 * 1024)
    with pytest.raises(ZeroDivisionError):
        run(4, 10 * 4 * 1024)
