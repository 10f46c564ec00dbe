import math

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from tests.support.training import SENTENCES, arguments, assert_moved, assert_same_weights, logged, weights
from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments

TEXTS = [{"text": " ".join(SENTENCES[i:] + SENTENCES[:i]) * 3} for i in range(4)]
CHATS = [
    {"history": list(SENTENCES[: i + 1]), "query": "and then?", "answers": [SENTENCES[-1] * (i + 1)]} for i in range(3)
]
# Documents as blocks, with unequal numbers of tokens that are scored.
UNEQUAL = [
    {"input_ids": row, "labels": [-100] * (64 - scored) + row[64 - scored :]}
    for row, scored in zip(random_ids(4, 64).tolist(), (16, 3, 8, 11), strict=True)
]


def make_trainer(folder, family="llama", rows=TEXTS, evaluation=None, method="bm25", peft_config=None, **settings):
    retriever = None
    if method == "hybrid":
        retriever = BiEncoderModel.from_backbone(tiny_backbone(seed=1), tiny_tokenizer(), pooling="mean")
    model = SelfRetrievalLM.from_components(
        tiny_backbone(family),
        tiny_tokenizer(),
        retriever,
        retrieval_method=method,
        context_window_size=32,
        chunk_size=8,
        key_num=1,
    )
    args = arguments(SelfRetrievalTrainingArguments, folder, document_length=96, target_size=16, **settings)
    return SelfRetrievalTrainer(model, args, rows, evaluation, peft_config=peft_config)


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_falls_and_every_parameter_moves(tmp_path, family):
    trainer = make_trainer(tmp_path, family, max_steps=6)
    before = weights(trainer.model)
    trainer.train()
    assert_moved(before, trainer.model)
    losses, perplexities = logged(trainer, "loss"), logged(trainer, "perplexity")
    assert losses[-1] < 0.85 * losses[0]
    assert perplexities == pytest.approx([math.exp(loss) for loss in losses], rel=1e-4)


@pytest.mark.slow
def test_accumulation_equals_the_big_batch_for_unequal_targets(tmp_path):
    settings = {"rows": UNEQUAL, "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 2, "learning_rate": 0.5}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    parts = make_trainer(tmp_path / "parts", **settings, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    parts.train()
    assert_same_weights(weights(parts.model), weights(whole.model), 1e-5)
    assert logged(parts, "perplexity") == pytest.approx(logged(whole, "perplexity"), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_evaluation_is_the_perplexity_of_all_scored_tokens(tmp_path, batch_size):
    trainer = make_trainer(tmp_path, evaluation=UNEQUAL, per_device_eval_batch_size=batch_size)
    trainer.model.eval()
    total, tokens = 0.0, 0
    for row in UNEQUAL:
        with torch.no_grad():
            output = trainer.model(**{name: torch.tensor([ids]) for name, ids in row.items()})
        assert output.num_scored_tokens == sum(label >= 0 for label in row["labels"])
        total += output.loss.item() * output.num_scored_tokens
        tokens += output.num_scored_tokens
    assert trainer.evaluate()["eval_perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)


def test_evaluation_of_equal_targets_is_the_models_perplexity(tmp_path):
    trainer = make_trainer(tmp_path, evaluation=TEXTS, max_steps=1, eval_strategy="steps", eval_steps=1)
    trainer.train()
    metrics = trainer.evaluate()
    assert [metrics["eval_perplexity"]] == pytest.approx(logged(trainer, "eval_perplexity")[:1], rel=1e-6)
    # The model's is a mean over batches: the same where each batch has as many rows, and each row as many targets.
    trainer.args.per_device_eval_batch_size = 4
    assert len(trainer.eval_dataset) == 12
    assert all(sum(label >= 0 for label in row["labels"]) == 16 for row in trainer.eval_dataset.rows)
    expected = trainer.model.compute_perplexity(trainer.get_eval_dataloader(), show_progress=False)
    assert metrics["eval_perplexity"] == pytest.approx(expected, rel=1e-5)


def test_chats_train_and_are_weighed_by_their_answers_tokens(tmp_path):
    trainer = make_trainer(tmp_path, rows=CHATS, evaluation=CHATS, method="recent", max_steps=2)
    before = trainer.evaluate()
    tokens, total = 0, 0.0
    for row, example in zip(CHATS, trainer.eval_dataset, strict=True):
        output = trainer.model.forward_with_history_retrieval([row["query"]], [row["history"]], row["answers"])
        assert trainer.count_items(trainer.data_collator([example])).tolist() == [output.num_scored_tokens]
        tokens += output.num_scored_tokens
        total += output.loss.item() * output.num_scored_tokens
    assert before["eval_perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before["eval_loss"]


def test_resumed_run_ends_in_the_same_weights(tmp_path):
    straight = make_trainer(tmp_path, max_steps=4, per_device_train_batch_size=3, save_strategy="steps", save_steps=2)
    straight.train()
    resumed = make_trainer(tmp_path / "other", max_steps=4, per_device_train_batch_size=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)
    again = SelfRetrievalTrainer(
        str(tmp_path / "checkpoint-4"),
        arguments(SelfRetrievalTrainingArguments, tmp_path, document_length=96, target_size=16),
        eval_dataset=TEXTS,
    )
    assert again.model.config.context_window_size == 32
    assert again.evaluate()["eval_loss"] == pytest.approx(straight.evaluate(TEXTS)["eval_loss"], abs=1e-6)


@pytest.mark.parametrize("method", quick_first(["self", "bm25", "oracle", "hybrid"]))
def test_gradient_checkpointing_and_every_method_train_the_same(tmp_path, method):
    trained = {}
    for checkpointing in (False, True):
        trainer = make_trainer(tmp_path, method=method, max_steps=2, gradient_checkpointing=checkpointing)
        trainer.train()
        assert trainer.model.language_model.is_gradient_checkpointing == checkpointing
        trained[checkpointing] = weights(trainer.model)
    assert_same_weights(trained[False], trained[True], 1e-5)


@pytest.mark.slow
def test_the_index_is_refreshed_every_n_steps(tmp_path):
    def count(trainer):
        calls = []
        trainer.model.language_model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append(module.training), with_kwargs=True
        )
        trainer.train()
        return calls.count(False)  # `self` reads chunks in evaluation mode

    settings = {"method": "self", "max_steps": 8, "rows": TEXTS[:1], "per_device_train_batch_size": 16}
    anew = make_trainer(tmp_path / "anew", **settings)
    first = make_trainer(tmp_path / "first", **settings, index_refresh_steps=8)
    second = make_trainer(tmp_path / "second", **settings, index_refresh_steps=4)
    passes = [count(trainer) for trainer in (anew, first, second)]
    assert passes[0] == 8 * passes[1]
    assert passes[2] == 2 * passes[1]
    assert first.model.embedding_cache is None
    frozen = [make_trainer(tmp_path / str(n), method="hybrid", max_steps=3, index_refresh_steps=n) for n in (None, 2)]
    for trainer in frozen:
        trainer.train()
    assert_same_weights(weights(frozen[0].model), weights(frozen[1].model), 0.0)


@pytest.mark.slow
def test_a_resumed_run_with_a_kept_index_ends_in_the_same_weights(tmp_path):
    settings = {"method": "self", "max_steps": 6, "index_refresh_steps": 4}
    straight = make_trainer(tmp_path, **settings, save_strategy="steps", save_steps=3)
    straight.train()
    resumed = make_trainer(tmp_path / "other", **settings, save_strategy="steps", save_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)


@pytest.mark.slow
def test_lora_trains_alone_and_resumes(tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    settings = {"max_steps": 4, "peft_config": lora}
    straight = make_trainer(tmp_path, **settings, save_strategy="steps", save_steps=2)
    before = weights(straight.model)
    straight.train()
    assert_moved(before, straight.model)
    resumed = make_trainer(tmp_path / "other", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)


def test_a_plain_backbone_gets_bm25_and_the_settings_given(tmp_path):
    tiny_backbone("llama").save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    args = arguments(SelfRetrievalTrainingArguments, tmp_path / "run")
    trainer = SelfRetrievalTrainer(
        str(tmp_path / "lm"), args, model_kwargs={"context_window_size": 64, "chunk_size": 16}
    )
    assert (trainer.model.config.retrieval_method, trainer.model.config.chunk_size) == ("bm25", 16)
    torch.testing.assert_close(
        trainer.model.get_input_embeddings().weight, tiny_backbone("llama").model.embed_tokens.weight
    )


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_chats_have_no_order_by_length(tmp_path, strategy):
    with pytest.raises(ValueError, match=f"train_sampling_strategy='{strategy}' needs the lengths of rows, and chats"):
        make_trainer(tmp_path, rows=CHATS, train_sampling_strategy=strategy)
    make_trainer(tmp_path, evaluation=CHATS, train_sampling_strategy=strategy)  # which are evaluated in their order


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"Row 1 .*'text' is missing"):
        make_trainer(tmp_path, rows=[TEXTS[0], {"text": None}])
    with pytest.raises(ValueError, match="index_refresh_steps=0"):
        SelfRetrievalTrainingArguments(str(tmp_path), index_refresh_steps=0)
    with pytest.raises(ValueError, match="target_size=8 must be less than document_length=8"):
        SelfRetrievalTrainingArguments(str(tmp_path), document_length=8, target_size=8)
