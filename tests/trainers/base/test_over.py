"""A run that is over takes no further step, wherever it ends."""

import pytest

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES, SENTENCES, arguments, assert_same_weights, weights
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)


def make_trainer(family, folder, **settings):
    given = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, **settings}  # an epoch is 2 steps
    if family == "biencoder":
        model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
        return BiEncoderTrainer(model, arguments(BiEncoderTrainingArguments, folder, **given), PAIRS)
    if family == "llara":
        model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
        return LlaraTrainer(model, arguments(LlaraTrainingArguments, folder, **given), PASSAGES)
    settings = {"context_window_size": 16, "chunk_size": 4, "retrieval_method": "bm25"}
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **settings)
    own = {"document_length": 24, "target_size": 8}
    rows = [{"text": " ".join(SENTENCES)[:90]}] * 8
    return SelfRetrievalTrainer(model, arguments(SelfRetrievalTrainingArguments, folder, **own, **given), rows)


@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
@pytest.mark.parametrize("accumulation", [1, 2])
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
