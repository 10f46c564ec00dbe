"""A run that is over takes no further step, wherever it ends."""

import pytest

from tests.support import quick_first
from tests.support.trainers import make_trainer
from tests.support.training import assert_same_weights, weights


@pytest.mark.parametrize("family", quick_first(["llara", "biencoder", "srlm"]))
@pytest.mark.parametrize("accumulation", quick_first([2, 1]))
def test_a_run_that_is_over_takes_no_step(tmp_path, family, accumulation):
    settings = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4 // accumulation}
    whole = make_trainer(family, tmp_path, **settings)
    whole.train()
    assert whole.state.global_step == 3 and whole.state.epoch == 1.5
    for _ in range(2):  # as by the same command on the finished folder
        again = make_trainer(family, tmp_path, **settings)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 3
        assert_same_weights(weights(whole.model), weights(again.model), 0.0)
