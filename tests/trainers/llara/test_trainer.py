import datasets
import pytest
import torch
from transformers import TrainingArguments

from modeling_llara import LlaraForPreTraining
from modeling_llara.loss_llara import weigh_by_uncertainty
from tests.support import quick_first
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PASSAGES, arguments, assert_moved, assert_same_weights, logged, weights
from trainers import LlaraTrainer, LlaraTrainingArguments


def make_trainer(folder, family="llama", rows=PASSAGES, evaluation=None, **settings):
    model = LlaraForPreTraining.from_backbone(tiny_backbone(family), tiny_tokenizer())
    args = arguments(LlaraTrainingArguments, folder, **{"max_length": 128, **settings})
    return LlaraTrainer(model, args, rows, evaluation)


@pytest.mark.cases(1)
@pytest.mark.parametrize("missing", ["summarize", "predict"])
def test_a_prompt_that_is_not_used(tmp_path, missing):
    """Rows may have targets for it: they are for nothing."""
    whole = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
    ids = {name: getattr(whole.config, name) for name in ("summarize_prompt_ids", "predict_prompt_ids", "prefix_ids")}
    model = LlaraForPreTraining.from_backbone(whole.backbone, whole.tokenizer, **{**ids, f"{missing}_prompt_ids": []})
    texts = [row["text"] for row in PASSAGES if "text" in row] or ["The library reads.", "A query finds it."]
    rows = [dict.fromkeys(("input", "output_summarize", "output_predict"), text) for text in texts]
    trainer = LlaraTrainer(model, arguments(LlaraTrainingArguments, tmp_path, max_length=128, max_steps=2), rows, rows)
    trainer.train()
    measured = trainer.evaluate()
    used = {"summarize": "predict", "predict": "summarize"}[missing]
    assert measured[f"eval_bow_{used}_loss"] > 0
    assert f"eval_{missing}_precision@8" not in measured and f"eval_{used}_precision@8" in measured


def test_a_tokenizer_without_the_prompts_tokens_is_refused_before_training(tmp_path):
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
    with pytest.raises(ValueError, match="ends the summarize prompt with the ids"):
        args = arguments(LlaraTrainingArguments, tmp_path, max_length=128)
        LlaraTrainer(model, args, PASSAGES, processing_class=tiny_tokenizer())


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_falls_and_every_parameter_moves(tmp_path, family):
    trainer = make_trainer(tmp_path, family, max_steps=10, per_device_train_batch_size=8)
    before = weights(trainer.model)
    trainer.train()
    assert_moved(before, trainer.model)
    for name in ("loss", "ar_loss", "bow_summarize_loss", "bow_predict_loss"):
        values = logged(trainer, name)
        assert len(values) == 10 and values[-1] < 0.9 * values[0], name


def test_logged_loss_is_the_weighted_sum_of_its_components(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer.train()
    config = trainer.model.config
    names = ("loss", "ar_loss", "bow_summarize_loss", "bow_predict_loss")
    for loss, ar, summarize, predict in zip(*(logged(trainer, name) for name in names), strict=True):
        expected = config.ar_loss_weight * ar + config.bow_loss_weight * (summarize + predict) / 2
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", quick_first([2, 1]))
def test_accumulation_equals_the_big_batch(tmp_path, micro_batch):
    """Rows of unequal lengths, some without a predict target: a mean of the micro-batches' means would differ."""
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 3, "learning_rate": 0.5}
    whole = make_trainer(tmp_path / "whole", rows=PASSAGES[:7], **settings)
    before = weights(whole.model)
    whole.train()
    settings |= {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": 4 // micro_batch}
    parts = make_trainer(tmp_path / "parts", rows=PASSAGES[:7], **settings)
    parts.train()
    assert_same_weights(weights(parts.model), weights(whole.model), 1e-5)
    assert max((before[name] - value).abs().max() for name, value in weights(whole.model).items()) > 1e-2
    for name in ("loss", "ar_loss", "bow_summarize_loss", "bow_predict_loss", "grad_norm"):
        assert logged(parts, name) == pytest.approx(logged(whole, name), rel=1e-4), name


@pytest.mark.slow
def test_accumulation_with_prompts_of_ones_own_and_no_prefix(tmp_path):
    """A row's first token, which nothing predicts, stands behind the padding of a batch and not in a row by itself."""
    own = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
    prompts = {name: getattr(own.config, name) for name in ("summarize_prompt_ids", "predict_prompt_ids")}
    own.save_pretrained(tmp_path / "own")
    losses = []
    for size in (4, 2):
        model = LlaraForPreTraining.from_pretrained(tmp_path / "own")
        model = LlaraForPreTraining.from_backbone(model.backbone, model.tokenizer, **prompts)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "max_steps": 1}
        args = arguments(LlaraTrainingArguments, tmp_path, max_length=128, **settings)
        trainer = LlaraTrainer(model, args, [{"input": row["input"]} for row in PASSAGES[:7:2]])
        trainer.train()
        losses.append(logged(trainer, "loss")[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.cases(1)
@pytest.mark.parametrize("fields", [{}, {"loss_weighting": "uncertainty"}])
def test_the_loss_of_an_evaluation_is_that_of_its_means(tmp_path, fields):
    """Whatever the batch: with the means over tokens and rows, by the weights of the training."""
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer(), **fields)
    found = []
    for size in (8, 3, 1):
        args = arguments(LlaraTrainingArguments, tmp_path, max_length=128, per_device_eval_batch_size=size)
        found.append(LlaraTrainer(model, args, eval_dataset=PASSAGES).evaluate())
    names = ("ar", "bow_summarize", "bow_predict")
    for one in found:
        losses = torch.tensor([one[f"eval_{name}_loss"] for name in names])
        if fields:
            expected = weigh_by_uncertainty(losses, model.loss_weighting.log_variances.detach()).sum()
        else:
            weights = [model.config.ar_loss_weight, *[model.config.bow_loss_weight / 2] * 2]
            expected = (losses * torch.tensor(weights)).sum()
        assert one["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert one["eval_loss"] == pytest.approx(found[0]["eval_loss"], rel=1e-6)


@pytest.mark.cases(1)
@pytest.mark.parametrize("streaming", [False, True])
def test_data_of_blank_texts_alone_are_named(tmp_path, streaming):
    (tmp_path / "blank.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    source = str(tmp_path / "blank.jsonl")
    message = r"(blank\.jsonl' holds|evaluation data hold) no row, or blank texts alone|The streamed data set"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, rows=source, streaming=streaming).train()
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, evaluation=source, streaming=streaming).evaluate()


def test_logging_window_is_a_mean_over_items(tmp_path):
    """All rows in one window: whatever the batch, the mean over tokens and rows is that of the evaluation."""
    settings = {"learning_rate": 0.0, "weight_decay": 0.0}
    trainer = make_trainer(
        tmp_path, max_steps=4, per_device_train_batch_size=2, logging_steps=4, evaluation=PASSAGES, **settings
    )
    trainer.train()
    for batch_size in (3, 8):
        trainer.args.per_device_eval_batch_size = batch_size
        metrics = trainer.evaluate()
        for name in ("ar_loss", "bow_summarize_loss", "bow_predict_loss"):
            assert logged(trainer, name) == pytest.approx([metrics[f"eval_{name}"]], rel=1e-5), name


def test_evaluation_during_training_and_by_name(tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1,
        evaluation={"first": PASSAGES[:2], "rest": PASSAGES[2:]},
    )  # fmt: skip
    trainer.train()
    for name in ("loss", "ar_loss", "bow_summarize_loss", "bow_predict_loss"):
        assert len(logged(trainer, f"eval_first_{name}")) == len(logged(trainer, f"eval_rest_{name}")) == 2
    assert len(logged(trainer, "ar_loss")) == 2


@pytest.mark.parametrize("streaming", quick_first([False, True]))
def test_resumed_run_ends_in_the_same_weights(tmp_path, streaming):
    rows = datasets.Dataset.from_list(PASSAGES)
    rows = rows.to_iterable_dataset() if streaming else rows
    settings = {"rows": rows, "max_steps": 6, "per_device_train_batch_size": 3}
    straight = make_trainer(tmp_path, save_strategy="steps", save_steps=3, **settings)
    straight.train()
    resumed = make_trainer(tmp_path / "other", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 6
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)


def test_checkpoint_is_a_whole_repo(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2, evaluation=PASSAGES)
    trainer.train()
    again = LlaraTrainer(
        str(tmp_path / "checkpoint-2"), arguments(LlaraTrainingArguments, tmp_path, max_length=128),
        eval_dataset=PASSAGES,
    )  # fmt: skip
    assert again.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-6)


def test_backbone_by_path_gets_prompts_and_plain_text_trains(tmp_path):
    tiny_backbone("llama").save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    args = arguments(LlaraTrainingArguments, tmp_path / "run", max_steps=1)
    trainer = LlaraTrainer(
        tmp_path / "backbone", args, [{"text": row["input"]} for row in PASSAGES],
        model_kwargs={"num_summary_tokens": 3, "num_predict_tokens": 3},
    )  # fmt: skip
    trainer.train()
    assert len(trainer.model.config.summarize_token_ids) == 3
    assert len(logged(trainer, "ar_loss")) == len(logged(trainer, "bow_summarize_loss")) == 1
    assert logged(trainer, "bow_predict_loss") == []


def test_bad_input(tmp_path):
    args = arguments(LlaraTrainingArguments, tmp_path)
    model = LlaraForPreTraining.from_backbone(tiny_backbone("llama"), tiny_tokenizer())
    with pytest.raises(ValueError, match=r"Row 1 .*'input' is missing"):
        LlaraTrainer(model, args, [PASSAGES[0], {"output_predict": "x"}])
    with pytest.raises(TypeError, match="must be a LlaraTrainingArguments"):
        LlaraTrainer(model, TrainingArguments(str(tmp_path)), PASSAGES)
    with pytest.raises(TypeError, match="pass a repo id, a folder or a transformers model"):
        LlaraTrainer(torch.nn.Linear(1, 1), args, PASSAGES)
    with pytest.raises(ValueError, match=r"model_kwargs \['ar_loss_weight'\]"):
        LlaraTrainer(model, args, PASSAGES, model_kwargs={"ar_loss_weight": 1.0})
    with pytest.raises(ValueError, match="max_length=0 must be at least 1"):
        LlaraTrainingArguments(str(tmp_path), max_length=0)
    with pytest.raises(ValueError, match="remove_unused_columns"):
        LlaraTrainingArguments(str(tmp_path), remove_unused_columns=True)
