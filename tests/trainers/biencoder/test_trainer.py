import datasets
import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support import quick_first
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, SENTENCES, arguments, assert_moved, assert_same_weights, logged, weights
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, RetrievalEvaluator


def make_trainer(folder, family="llama", rows=PAIRS, evaluation=None, **settings):
    model = BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), tiny_tokenizer(), temperature=0.1)
    args = arguments(BiEncoderTrainingArguments, folder, **{"train_group_size": 3, **settings})
    return BiEncoderTrainer(model, args, rows, evaluation)


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_loss_falls_and_every_parameter_moves(tmp_path, family):
    trainer = make_trainer(tmp_path, family, max_steps=8, per_device_train_batch_size=8)
    before = weights(trainer.model)
    trainer.train()
    assert_moved(before, trainer.model)
    for name in ("loss", "contrastive_loss"):
        assert logged(trainer, name)[-1] < 0.5 * logged(trainer, name)[0], name
    parts = zip(logged(trainer, "contrastive_loss"), logged(trainer, "distillation_loss"), strict=True)
    assert logged(trainer, "loss") == pytest.approx([sum(losses) for losses in parts], rel=1e-5)


def test_accumulation_equals_the_big_batch_where_queries_meet_their_own_passages(tmp_path):
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 3, "in_batch_negatives": False}
    whole = make_trainer(tmp_path / "whole", rows=PAIRS[:7], **settings)
    before = weights(whole.model)
    whole.train()
    settings |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    parts = make_trainer(tmp_path / "parts", rows=PAIRS[:7], **settings)
    parts.train()
    assert_same_weights(weights(parts.model), weights(whole.model), 1e-5)
    assert max((before[name] - value).abs().max() for name, value in weights(whole.model).items()) > 1e-2
    for name in ("loss", "contrastive_loss", "distillation_loss", "grad_norm"):
        assert logged(parts, name) == pytest.approx(logged(whole, name), rel=1e-4), name


@pytest.mark.parametrize("accumulation", quick_first([2, 1]))
def test_sub_batches_train_the_same_weights(tmp_path, accumulation):
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 3, "per_device_train_batch_size": 3}
    settings |= {"gradient_accumulation_steps": accumulation}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    parts = make_trainer(tmp_path / "parts", **settings, sub_batch_size=4, gradient_checkpointing=True)
    parts.train()
    assert_same_weights(weights(parts.model), weights(whole.model), 1e-5)


def test_every_loss_is_logged_by_name_and_weighed(tmp_path):
    wanted = {"symmetric_weight": 0.5, "margin_mse_weight": 0.1, "distillation": "ranked", "distillation_weight": 2.0}
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), embedding_dims=[8])
    args = arguments(BiEncoderTrainingArguments, tmp_path, train_group_size=3, matryoshka_weights=[0.25], **wanted)
    trainer = BiEncoderTrainer(model, args, PAIRS, PAIRS)
    trainer.train()
    weighed = {"contrastive_loss": 1.0, "symmetric_loss": 0.5, "margin_mse_loss": 0.1, "distillation_loss": 2.0}
    parts = [
        weight * width_weight * value
        for name, weight in weighed.items()
        for suffix, width_weight in (("", 1.0), ("_8", 0.25))
        for value in logged(trainer, name + suffix)[:1]
    ]
    assert len(parts) == 8
    assert sum(parts) == pytest.approx(logged(trainer, "loss")[0], rel=1e-4)
    assert {f"eval_{name}" for name in weighed} <= trainer.evaluate().keys()


def test_wrong_objectives_are_errors_before_a_model_loads(tmp_path):
    with pytest.raises(ValueError, match=r"teacher_temperature=0\.0 must be a finite number above 0"):
        arguments(BiEncoderTrainingArguments, tmp_path, teacher_temperature=0.0)


def test_first_loss_is_the_models_own_on_the_collated_batch(tmp_path):
    trainer = make_trainer(tmp_path, rows=PAIRS[:4], max_steps=1)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    expected = trainer.model(**batch)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([expected.loss.item()], rel=1e-5)
    assert logged(trainer, "distillation_loss") == pytest.approx([expected.distillation_loss.item()], rel=1e-5)
    own = trainer.model(**batch, in_batch_negatives=False).contrastive_loss
    assert abs(own - expected.contrastive_loss) > 1e-3


@pytest.mark.slow
def test_negatives_are_drawn_anew_in_each_epoch_and_the_same_by_every_run(tmp_path):
    seen = []
    for name in ("one", "two"):
        trainer = make_trainer(tmp_path / name, max_steps=4)
        trainer.train()
        assert int(trainer.train_dataset._epoch) == 1
        by_epoch = []
        for epoch in (0, 1):
            trainer.train_dataset.set_epoch(epoch)
            by_epoch.append([trainer.train_dataset[i]["passage_ids"] for i in range(len(PAIRS))])
        seen.append(by_epoch)
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1]


def test_lengths_and_teacher_scores_follow_the_arguments(tmp_path):
    trainer = make_trainer(tmp_path, query_max_length=4, passage_max_length=6, use_teacher_scores=False)
    examples = [trainer.train_dataset[i] for i in range(len(PAIRS))]
    assert {len(example["query_ids"]) for example in examples} == {4}
    assert {len(ids) for example in examples for ids in example["passage_ids"]} == {6}
    assert "teacher_scores" not in trainer.data_collator(examples)
    assert trainer.model.config.max_length == 512


@pytest.mark.parametrize("streaming", quick_first([False, True]))
def test_resumed_run_ends_in_the_same_weights(tmp_path, streaming):
    """Resumed within the first epoch; the second one draws other negatives."""
    rows = datasets.Dataset.from_list(PAIRS)
    rows = rows.to_iterable_dataset() if streaming else rows
    settings = {"rows": rows, "max_steps": 6, "per_device_train_batch_size": 2}
    straight = make_trainer(tmp_path, save_strategy="steps", save_steps=3, **settings)
    straight.train()
    resumed = make_trainer(tmp_path / "other", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 6
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)


def test_evaluation_during_training_and_best_checkpoint(tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=4, evaluation=PAIRS[:3], eval_strategy="steps", eval_steps=2, save_strategy="steps",
        save_steps=2, load_best_model_at_end=True, learning_rate=1.0,
    )  # fmt: skip
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert len(losses) == len(logged(trainer, "eval_contrastive_loss")) == 2
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)
    again = BiEncoderModel.from_pretrained(trainer.state.best_model_checkpoint)
    torch.testing.assert_close(again.encode(SENTENCES), trainer.model.encode(SENTENCES), atol=1e-6, rtol=0)


def test_a_llara_model_brings_its_prompts_and_pooling(tmp_path):
    llara = LlaraForPreTraining.from_backbone(tiny_backbone("llama"), tiny_tokenizer())
    llara.save_pretrained(tmp_path / "llara")
    for source in (llara, str(tmp_path / "llara")):
        args = arguments(BiEncoderTrainingArguments, tmp_path / "run", max_steps=1, train_group_size=2)
        trainer = BiEncoderTrainer(source, args, PAIRS, model_kwargs={"temperature": 0.05})
        config = trainer.model.config
        assert (config.pooling, config.pooling_k, config.temperature) == ("mean_last_k", 8, 0.05)
        example = trainer.train_dataset[0]
        assert example["query_ids"][-8:] == llara.config.predict_token_ids
        assert all(ids[-8:] == llara.config.summarize_token_ids for ids in example["passage_ids"])
        trainer.train()


@pytest.mark.parametrize("name", ["bf16_full_eval", "fp16_full_eval"])
def test_retrieval_is_not_evaluated_in_a_type_of_its_own(tmp_path, name):
    retrieval = RetrievalEvaluator({"q": "the hammer"}, {"p": "it is here", "n": "no"}, {"q": {"p": 1}})
    with pytest.raises(ValueError, match=f"{name}=True must be False beside retrieval data"):
        make_trainer(tmp_path, evaluation={"rows": PAIRS, "search": retrieval}, **{name: True})
    trainer = make_trainer(tmp_path, evaluation=PAIRS, **{name: True})
    with pytest.raises(ValueError, match=f"{name}=True must be False beside retrieval data"):
        trainer.evaluate(retrieval)


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"Row 1 .*'query' is missing"):
        make_trainer(tmp_path, rows=[PAIRS[0], {"pos": ["x"], "neg": ["y"]}])
    with pytest.raises(ValueError, match=r"Row 0 .*'neg' is empty, but train_group_size=3"):
        make_trainer(tmp_path, rows=[{"query": "q", "pos": ["p"]}])
    with pytest.raises(ValueError, match="leaves no negatives"):
        make_trainer(tmp_path, train_group_size=1, in_batch_negatives=False)


PAIRS_ALONE = [{"query": row["query"], "positive": row["pos"][0]} for row in PAIRS]


@pytest.mark.cases(1)
@pytest.mark.parametrize(("rows", "batch_size"), [(PAIRS_ALONE[:4], 1), (PAIRS_ALONE[:1], 8)])
@pytest.mark.parametrize("streaming", [False, True])
def test_one_query_a_batch_with_one_passage_is_refused_before_the_first_step(tmp_path, rows, batch_size, streaming):
    if streaming and batch_size > 1:
        return  # a stream's data set starts anew within a batch
    settings = {"max_steps": 2, "per_device_train_batch_size": batch_size, "streaming": streaming}
    trainer = make_trainer(tmp_path, rows=rows, **settings)
    with pytest.raises(ValueError, match=r"one query a batch with one passage .* batch size of 2 or more"):
        trainer.train()


def test_so_it_is_refused_where_it_is_evaluated(tmp_path):
    settings = {"per_device_eval_batch_size": 1}
    told = r"one query a batch with one passage .*nothing is measured: .* batch size of 2 or more"
    with pytest.raises(ValueError, match=told):
        make_trainer(tmp_path, evaluation=PAIRS_ALONE[:4], **settings)
    trainer = make_trainer(tmp_path, **settings)
    with pytest.raises(ValueError, match=told):
        trainer.evaluate(PAIRS_ALONE[:4])
    assert trainer.evaluate(PAIRS[:4])["eval_contrastive_loss"] > 0  # negatives of its own are company


def test_a_last_batch_of_one_pair_is_warned_of_and_negatives_of_its_own_are_company(tmp_path, caplog):
    make_trainer(tmp_path / "a", rows=PAIRS_ALONE[:3], num_train_epochs=1, per_device_train_batch_size=2).train()
    assert "last batch of 3 rows is one query with one passage" in caplog.text
    assert "dataloader_drop_last=True" in caplog.text
    caplog.clear()
    make_trainer(tmp_path / "b", rows=PAIRS[:2], max_steps=1, per_device_train_batch_size=1).train()
    assert "one passage" not in caplog.text
