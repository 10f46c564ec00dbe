"""Two and three gloo processes train as one does: run by `torchrun`, the way a user would."""

import pytest
import torch
from safetensors.torch import load_file

from tests.support.together import LOOKING_BACK, assert_same_run, together, train
from tests.support.training import assert_same_weights, weights

KINDS = ["in_batch", "own_group", "sub_batches", "llara", "llara_learned", "documents", "chats", "kept_states"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_end_in_the_weights_of_one(tmp_path, kind):
    # Micro-batches of 2 on two processes are micro-batches of 4 on one: the same rows, for 20 steps of 8.
    train(kind, tmp_path / "alone")
    together(kind, tmp_path / "together")
    assert_same_run(tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sub_batches", "llara", "documents"])
def test_so_do_three(tmp_path, kind):
    train(kind, tmp_path / "alone", rows=6)
    together(kind, tmp_path / "together", processes=3, rows=6)
    assert_same_run(tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes", "rows"), [("llara_learned", 2, 5), ("llara", 3, 7), ("chats", 3, 7)])
def test_each_row_counts_once_where_the_last_batch_does_not_fill(tmp_path, kind, processes, rows):
    """One row remains for the last batch, the other processes have none; so it is behind a checkpoint in an epoch."""
    settings = {"rows": rows, "joint": processes, "save_strategy": "steps", "save_steps": 3}
    train(kind, tmp_path / "alone", **settings)
    together(kind, tmp_path / "together", processes, **settings)
    assert_same_run(tmp_path / "together", tmp_path / "alone")
    together(kind, tmp_path / "together", processes, resume="checkpoint-3", **settings)
    assert_same_run(tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
def test_every_process_ends_with_the_best_weights(tmp_path):
    """Of four steps the second, by a metric that grows: the highest loss."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    settings |= {"load_best_model_at_end": True, "greater_is_better": True, "learning_rate": 1e-4}
    together("in_batch", tmp_path, **settings)  # where both are seen to have the same weights
    best, last, saved = (
        load_file(tmp_path / folder / "model.safetensors") for folder in ("checkpoint-2", "checkpoint-4", "saved")
    )
    assert_same_weights(saved, best, 0.0)
    assert any(not torch.equal(last[name], value) for name, value in best.items())


@pytest.mark.slow
def test_the_weights_that_are_compared_did_move(tmp_path):
    for kind in ("in_batch", "llara", LOOKING_BACK[0]):
        before = weights(train(kind, tmp_path / kind / "before", max_steps=1, learning_rate=0.0).model)
        after = weights(train(kind, tmp_path / kind / "after").model)
        assert max((after[name] - value).abs().max() for name, value in before.items()) > 1e-3
