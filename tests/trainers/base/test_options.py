"""Options of transformers' Trainer: each works, or is refused by name before anything is loaded."""

import dataclasses

import datasets
import pytest
import torch
from transformers import TrainingArguments

from tests.support.trainers import make_trainer
from tests.support.training import CHATS, PASSAGES, logged, weights
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)
from trainers.base.options import SETTINGS, TRAINER_ARGUMENTS

FAMILIES = ["biencoder", "llara", "srlm"]
TRAINERS = [BiEncoderTrainer, LlaraTrainer, SelfRetrievalTrainer]
ARGUMENTS = [BiEncoderTrainingArguments, LlaraTrainingArguments, SelfRetrievalTrainingArguments]
OTHER = {
    "label_smoothing_factor": 0.1, "average_tokens_across_devices": False, "label_names": ["labels"],
    "include_for_metrics": ["inputs"], "batch_eval_metrics": True, "eval_do_concat_batches": False,
    "length_column_name": "size", "use_liger_kernel": True, "do_predict": True,
}  # fmt: skip


@pytest.mark.parametrize("kind", ARGUMENTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_would_do_nothing_are_refused_by_name(tmp_path, kind, name):
    with pytest.raises(ValueError, match=rf"^{name}=.* must be .* here, as .*; leave it out"):
        kind(str(tmp_path), **{name: OTHER[name]})


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_what_the_defaults_say_is_no_refusal(tmp_path, kind):
    defaults = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    given = {name: defaults[name] for name in SETTINGS if defaults[name] is not dataclasses.MISSING}
    assert kind(str(tmp_path), **given).label_smoothing_factor == 0
    for refused in ({"dispatch_batches": True}, {"even_batches": False}):
        with pytest.raises(ValueError, match=rf"{next(iter(refused))}=.* must be .*; leave it out"):
            kind(str(tmp_path), accelerator_config=refused)


def test_settings_of_one_family(tmp_path):
    for settings, message in [
        ({"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen='all' must be 'no' here"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy='group_by_length' needs the lengths",
        ),
        ({"fixed_examples": True}, "fixed_examples=True has no meaning without max_examples"),
    ]:
        with pytest.raises(ValueError, match=message):
            BiEncoderTrainingArguments(str(tmp_path), **settings)
    chats = make_trainer("srlm", tmp_path, include_num_input_tokens_seen="all")
    with pytest.raises(ValueError, match="include_num_input_tokens_seen='all' must be 'no' here, as chats"):
        chats.prepare(CHATS)
    trainer = make_trainer("llara", tmp_path, train_sampling_strategy="group_by_length")
    trainer.train_dataset = trainer.prepare(datasets.Dataset.from_list(PASSAGES).to_iterable_dataset())
    with pytest.raises(ValueError, match="train_sampling_strategy='group_by_length' needs all rows"):
        trainer.train()


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("name", TRAINER_ARGUMENTS)
def test_arguments_of_the_trainer_are_refused_with_what_to_do_instead(kind, name):
    with pytest.raises(TypeError, match=rf"^{kind.__name__} takes no {name}, as .*; leave it out"):
        kind("no/such-model", **{name: print})
    with pytest.raises(TypeError, match="takes no argument 'peft_conf'"):
        kind("no/such-model", peft_conf=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_search_and_predictions_say_what_to_do_instead(tmp_path, family):
    trainer = make_trainer(family, tmp_path)
    with pytest.raises(NotImplementedError, match="make a Trainer with a fresh model for each trial"):
        trainer.hyperparameter_search()
    with pytest.raises(NotImplementedError, match="metric_key_prefix='test'"):
        trainer.predict(PASSAGES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fields_that_change_a_run_do_so(tmp_path, family):
    def losses(**settings):
        trainer = make_trainer(family, tmp_path, save_strategy="no", **settings)
        trainer.train()
        return logged(trainer, "loss")

    plain = losses()
    for settings in (
        {"neftune_noise_alpha": 50.0}, {"bf16": True}, {"optim": "adafactor"}, {"max_grad_norm": 1e-3},
        {"lr_scheduler_type": "cosine", "warmup_steps": 2}, {"weight_decay": 0.9}, {"adam_beta1": 0.1},
    ):  # fmt: skip
        assert losses(**settings) != plain, settings
    assert losses(gradient_checkpointing=True) == pytest.approx(plain, abs=1e-5)


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_optimizer_class_is_taken_as_in_transformers(tmp_path, family):
    trainer = make_trainer(family, tmp_path, save_strategy="no")
    kind = {"args": trainer.args, "train_dataset": trainer.train_dataset, "compute_metrics": None}
    given = type(trainer)(trainer.model, **kind, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.0}))
    before = weights(given.model)
    given.train()
    assert isinstance(given.optimizer.optimizer, torch.optim.SGD)
    assert all(torch.equal(before[name], value) for name, value in weights(given.model).items())


@pytest.mark.cases(1)
@pytest.mark.parametrize("pinned", [{}, {"dataloader_pin_memory": True}])
def test_on_a_cpu_nothing_is_pinned_and_no_warning_says_so(tmp_path, recwarn, pinned):
    trainer = make_trainer("biencoder", tmp_path, max_steps=1, **pinned)
    assert not trainer.args.dataloader_pin_memory
    trainer.train()
    assert not [str(one.message) for one in recwarn if "pin" in str(one.message)]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_batch_at_all_is_no_training(tmp_path, family):
    trainer = make_trainer(family, tmp_path, dataloader_drop_last=True, per_device_train_batch_size=16)
    with pytest.raises(
        ValueError, match=r"(dataloader_drop_last=True leaves no batch of the \d+ rows|gives no batch)"
    ):
        trainer.train()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_evaluation_in_half_precision_leaves_the_weights_as_they_were(tmp_path, family):
    trainer = make_trainer(family, tmp_path, bf16_full_eval=True)
    before = {**weights(trainer.model), **{name: one.clone() for name, one in trainer.model.named_buffers()}}
    seen = []
    trainer.model.register_forward_pre_hook(lambda model, _: seen.append(model.dtype))
    trainer.evaluate(trainer.train_dataset)
    assert set(seen) == {torch.bfloat16}
    after = {**weights(trainer.model), **dict(trainer.model.named_buffers())}
    for name, value in before.items():
        assert after[name].dtype == value.dtype and torch.equal(after[name], value), name
