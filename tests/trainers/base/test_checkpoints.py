"""Checkpoints are written whole or not at all: kills and full disks in the middle, best and old ones."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import trainer as transformers_trainer
from transformers.trainer_utils import get_last_checkpoint

from modeling_biencoder import BiEncoderModel
from tests.support.faults.copies import kill_myself, killed
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments, weights
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.base import checkpoints
from trainers.base.checkpoints import remove_old, tidy


def make_trainer(folder: Path, **settings) -> BiEncoderTrainer:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
    given = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, **settings}
    return BiEncoderTrainer(model, arguments(BiEncoderTrainingArguments, folder, **given), PAIRS, PAIRS)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def at_step(monkeypatch, step: int, module, name: str, act) -> None:
    """Let a function that writes a part of the checkpoint do `act` in place of it, from `step` on."""
    original, calls = getattr(module, name), []

    def counting(*arguments, **keywords):
        calls.append(name)
        return act() if len(calls) >= step else original(*arguments, **keywords)

    monkeypatch.setattr(module, name, counting)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_before_the_new_checkpoint_is_in_its_place_leaves_the_one_before(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    trainer = make_trainer(tmp_path / "out")
    at_step(monkeypatch, 2, BiEncoderTrainer, "_complete", kill_myself)
    killed(trainer.train)
    monkeypatch.undo()
    assert names(tmp_path / "out") == {"checkpoint-1", ".writing"}
    assert Path(get_last_checkpoint(tmp_path / "out")).name == "checkpoint-1"
    resumed = make_trainer(tmp_path / "out")
    resumed.train(resume_from_checkpoint=True)
    assert {"checkpoint-1", "checkpoint-2", "checkpoint-3"} == names(tmp_path / "out")
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(resumed.model)[name], value, rtol=0, atol=1e-6)


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), RuntimeError("[enforce fail at inline_container.cc:1] . unexpected pos")],
)
def test_a_full_disk_is_said_and_leaves_the_checkpoints_before(tmp_path, monkeypatch, error):
    def no_space():
        raise error

    trainer = make_trainer(tmp_path)
    at_step(monkeypatch, 3, transformers_trainer.torch, "save", no_space)  # training_args, optimizer, scheduler
    with pytest.raises(OSError, match=r"(?i)no space left") as raised:
        trainer.train()
    assert "those before are whole" in raised.value.__notes__[0]
    assert names(tmp_path) == set()


@pytest.mark.slow
def test_best_and_old_checkpoints_are_as_in_transformers(tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=4, save_total_limit=2, load_best_model_at_end=True, eval_strategy="steps", eval_steps=1,
        metric_for_best_model="eval_loss", greater_is_better=True, learning_rate=0.1,
    )  # fmt: skip
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path and best.is_dir() and best.name == f"checkpoint-{trainer.state.best_global_step}"
    kept = names(tmp_path)
    assert len(kept) == 2 and {best.name, "checkpoint-4"} <= kept
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(best)
    saved = BiEncoderModel.from_pretrained(best).state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.slow
def test_the_same_step_again_replaces_its_checkpoint(tmp_path, monkeypatch):
    make_trainer(tmp_path, max_steps=1).train()
    (tmp_path / "checkpoint-1" / "old").touch()
    make_trainer(tmp_path, max_steps=1).train()
    assert not (tmp_path / "checkpoint-1" / "old").exists() and names(tmp_path) == {"checkpoint-1"}
    assert (tmp_path / "checkpoint-1" / "training_args.json").exists()
    assert not (tmp_path / "checkpoint-1" / "training_args.bin").exists()
    (tmp_path / checkpoints.PARTIAL).mkdir()
    shutil.move(tmp_path / "checkpoint-1", tmp_path / checkpoints.PARTIAL / "replaced-checkpoint-1")
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "checkpoint-is-incomplete.txt").touch()
    tidy(tmp_path)  # as a process left it that ended between the two renames
    assert names(tmp_path) == {"checkpoint-1"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_piece_of_it(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, save_total_limit=1)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", half_removed)
    killed(trainer.train)
    monkeypatch.undo()
    assert names(tmp_path) == {"checkpoint-2", ".writing"}
    resumed = make_trainer(tmp_path, save_total_limit=1)
    resumed.train(resume_from_checkpoint=True)
    assert names(tmp_path) == {"checkpoint-3"} and resumed.state.global_step == 3


@pytest.mark.slow
def test_a_kill_before_the_oldest_is_removed_leaves_none_too_many_where_the_run_is_over(tmp_path):
    make_trainer(tmp_path).train()  # as the process left it that ended behind its last checkpoint
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    make_trainer(tmp_path, save_total_limit=2).train(resume_from_checkpoint=True)
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-3"}


def half_removed(folder, **_):
    """Remove one file of an old checkpoint and end the process."""
    for path in Path(folder).glob("*checkpoint-1/*.json"):
        path.unlink()
        kill_myself()


def test_old_checkpoints_go_by_their_number_and_the_new_and_the_best_stay(tmp_path):
    for step in (9, 10, 100, 2):  # the times of the folders are in another order
        (tmp_path / f"checkpoint-{step}").mkdir()
    remove_old(tmp_path, 2, {tmp_path / "checkpoint-100"})
    assert names(tmp_path) == {"checkpoint-10", "checkpoint-100"}
    (tmp_path / "checkpoint-3").mkdir()
    remove_old(tmp_path, 1, {tmp_path / "checkpoint-3", tmp_path / "checkpoint-10"})  # a new run beside an old one
    assert names(tmp_path) == {"checkpoint-3", "checkpoint-10"}
