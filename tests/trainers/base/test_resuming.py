"""A run goes on at the row that comes next, or is refused by the name of what changed."""

import json

import pytest

from tests.support.trainers import make_trainer
from tests.support.training import PASSAGES, assert_same_weights, weights
from trainers.base.resuming import ORDER

FAMILIES = ["biencoder", "llara", "srlm"]
SETTINGS = {"per_device_train_batch_size": 2, "save_steps": 1, "max_steps": 3}


@pytest.fixture
def checkpoint(tmp_path):
    """That of LLaRA's first step."""
    make_trainer("llara", tmp_path / "run", **{**SETTINGS, "max_steps": 1}).train()
    return str(tmp_path / "run" / "checkpoint-1")


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"per_device_train_batch_size": 4}, r"rows a step .*=2, and this run has 4"),
        ({"gradient_accumulation_steps": 2}, r"rows a step .*=2, and this run has 4"),
        ({"seed": 8}, "seed=7, and this run has 8"),
        ({"data_seed": 8}, "data_seed=7, and this run has 8"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy='random', and this run has 'sequential'"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last=False, and this run has True"),
    ],
)
def test_another_order_is_refused_by_name(tmp_path, checkpoint, changed, told):
    trainer = make_trainer("llara", tmp_path / "other", **{**SETTINGS, **changed})
    before = weights(trainer.model)
    with pytest.raises(ValueError, match=rf"checkpoint-1' was written with {told}, .*set it as it was"):
        trainer.train(resume_from_checkpoint=checkpoint)
    assert_same_weights(weights(trainer.model), before, 0.0)


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("rows", "told"),
    [(PASSAGES[:7], "rows in train_dataset=8, and this run has 7"), ([*PASSAGES[1:], PASSAGES[0]], "contents of")],
)
def test_other_rows_are_refused(tmp_path, checkpoint, rows, told):
    trainer = make_trainer("llara", tmp_path / "other", **SETTINGS)
    trainer.train_dataset = trainer.prepare_training(rows)
    with pytest.raises(ValueError, match=told):
        trainer.train(resume_from_checkpoint=checkpoint)


@pytest.mark.slow
def test_what_is_no_other_order_goes_on(tmp_path, checkpoint):
    more = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "data_seed": 7, "max_steps": 4}
    for settings in ({**SETTINGS, **more}, {**SETTINGS, "max_steps": 2, "seed": 8, "ignore_data_skip": True}):
        trainer = make_trainer("llara", tmp_path / "more", **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.global_step == settings["max_steps"]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_keeps_it_and_an_older_checkpoint_goes_on_without(tmp_path, family):
    make_trainer(family, tmp_path, **{**SETTINGS, "max_steps": 1}).train()
    kept = json.loads((tmp_path / "checkpoint-1" / ORDER).read_text())
    assert kept["rows_a_step"] == 2 and kept["rows"] == 8 and kept["seed"] == kept["data_seed"] == 7
    changed = {**SETTINGS, "seed": 8, "max_steps": 2}
    with pytest.raises(ValueError, match="seed=7"):
        make_trainer(family, tmp_path, **changed).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-1" / ORDER).unlink()
    trainer = make_trainer(family, tmp_path, **changed)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 2
