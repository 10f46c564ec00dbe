"""Weights of the losses learned by homoscedastic uncertainty; the predict prompt that sees the summarize prompt."""

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.loss_llara import weigh_by_uncertainty
from tests.support import quick_first
from tests.support.llara import batch_of
from tests.support.tiny import DECODERS, tiny_backbone, tiny_tokenizer
from tests.support.training import PASSAGES, arguments, assert_moved, assert_same_weights, logged, weights
from trainers import LlaraTrainer, LlaraTrainingArguments

NAMES = ("ar", "bow_summarize", "bow_predict")


def learning(**settings) -> LlaraForPreTraining:
    return LlaraForPreTraining.from_backbone(
        tiny_backbone(), tiny_tokenizer(), loss_weighting="uncertainty", **settings
    )


def make_trainer(folder, peft_config=None, **settings):
    settings = {"max_length": 128, "loss_weighting_learning_rate": 0.05, **settings}
    args = arguments(LlaraTrainingArguments, folder, **settings)
    return LlaraTrainer(learning(), args, PASSAGES[:7], PASSAGES[:7], peft_config=peft_config)


def test_closed_form_and_its_minimum():
    """The sum's gradient is 1 - exp(-s) * loss, so the best s is log(loss) and the term there 1 + log(loss)."""
    losses, s = torch.tensor([0.5, 3.0, 7.0]), torch.tensor([0.0, -1.0, 2.0], requires_grad=True)
    terms = weigh_by_uncertainty(losses, s)
    expected = [0.5, 3 * math.e - 1, 7 * math.exp(-2) + 2]
    assert terms.tolist() == pytest.approx(expected, rel=1e-6)
    (gradient,) = torch.autograd.grad(terms.sum(), s)
    torch.testing.assert_close(gradient, 1 - (-s).exp() * losses)
    torch.testing.assert_close(weigh_by_uncertainty(losses, losses.log()), 1 + losses.log())


def test_training_starts_at_the_fixed_weights():
    """The same gradient, and a loss that is higher by the sum of s."""
    settings = {"ar_loss_weight": 0.5, "bow_loss_weight": 0.3}
    model = learning(**settings)
    fixed = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer(), **settings)
    batch = batch_of(model, (20, 9))
    output, wanted = model(**batch), fixed(**batch)
    torch.testing.assert_close((-output.log_variances).exp(), torch.tensor([0.5, 0.15, 0.15]))
    assert output.loss.item() == pytest.approx((wanted.loss + output.log_variances.sum()).item(), rel=1e-6)
    output.loss.backward()
    wanted.loss.backward()
    ours = {name: weight.grad for name, weight in model.named_parameters() if "loss_weighting" not in name}
    torch.testing.assert_close(
        ours, {name: weight.grad for name, weight in fixed.named_parameters()}, rtol=0, atol=1e-5
    )


def test_an_absent_loss_leaves_its_weight_alone():
    model = learning()
    batch = batch_of(model, (20, 9))
    batch["output_predict_ids"] = torch.full_like(batch["output_predict_ids"], -100)
    output = model(**{name: value for name, value in batch.items() if name != "labels"})
    output.loss.backward()
    gradient = model.loss_weighting.log_variances.grad
    assert gradient.tolist() == pytest.approx([0, 1 - 0.05 * output.bow_summarize_loss.item(), 0], rel=1e-5)


def test_saved_and_loaded_but_no_part_of_the_backbone(tmp_path):
    model = learning()
    with torch.no_grad():
        model.loss_weighting.log_variances.copy_(torch.tensor([0.1, 0.2, 0.3]))
    model.save_pretrained(tmp_path / "whole")
    assert "| learned weights, that began with 1 x autoregressive" in (tmp_path / "whole" / "README.md").read_text()
    for dtype in (torch.float32, torch.bfloat16):
        again = LlaraForPreTraining.from_pretrained(tmp_path / "whole", dtype=dtype)
        assert torch.equal(again.loss_weighting.log_variances, torch.tensor([0.1, 0.2, 0.3]))  # float32 in both
        assert again.dtype == dtype
    model.save_backbone(tmp_path / "backbone")
    assert not any("weighting" in name for name in load_file(tmp_path / "backbone" / "model.safetensors"))
    assert "loss_weighting" not in json.loads((tmp_path / "backbone" / "config.json").read_text())


def test_a_model_with_fixed_weights_begins_to_learn_them(tmp_path):
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_pretrained(tmp_path)
    model = LlaraForPreTraining.from_pretrained(tmp_path, loss_weighting="uncertainty")
    torch.testing.assert_close((-model.loss_weighting.log_variances).exp(), torch.tensor([1.0, 0.05, 0.05]))


@pytest.mark.parametrize("micro_batch", quick_first([2, 1]))
def test_accumulation_equals_the_big_batch(tmp_path, micro_batch):
    """Every third row has no predict target, so micro-batches of one lack a term now and then."""
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 3, "learning_rate": 0.5}
    whole = make_trainer(tmp_path / "whole", **settings)
    before = weights(whole.model)
    whole.train()
    settings |= {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": 4 // micro_batch}
    parts = make_trainer(tmp_path / "parts", **settings)
    parts.train()
    after = weights(whole.model)
    assert_same_weights(weights(parts.model), after, 1e-5)
    assert ((before["loss_weighting.log_variances"] - after["loss_weighting.log_variances"]).abs() > 1e-2).all()
    for name in ("loss", "grad_norm", *(f"{name}_weight" for name in NAMES)):
        assert logged(parts, name)[:2] == pytest.approx(logged(whole, name)[:2], rel=1e-4), name


def test_weights_have_a_learning_rate_of_their_own_and_no_decay(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.5, learning_rate=1e-4, max_steps=2)
    trainer.train()
    (group,) = [group for group in trainer.optimizer.param_groups if len(group["params"]) == 1]
    assert group["params"][0] is trainer.model.loss_weighting.log_variances
    assert (group["initial_lr"], group["weight_decay"]) == (0.05, 0.0)
    counted = [id(value) for group in trainer.optimizer.param_groups for value in group["params"]]
    assert sorted(counted) == sorted(id(value) for value in trainer.model.parameters())


@pytest.mark.slow
def test_a_lora_trains_saves_and_merges_them(tmp_path):
    trainer = make_trainer(tmp_path, peft_config=LoraConfig(r=4), save_strategy="steps", save_steps=4)
    before = weights(trainer.model)
    trainer.train()
    assert_moved(before, trainer.model)
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert sum("trainable_tokens_delta" in name for name in trained) == 2  # the new rows train as ever
    (s,) = [trainer.model.get_parameter(name) for name in trained if "loss_weighting" in name]
    merged = PeftModel.from_pretrained(learning(), str(tmp_path / "checkpoint-4")).merge_and_unload()
    assert torch.equal(merged.loss_weighting.log_variances, s)
    args = arguments(LlaraTrainingArguments, tmp_path / "again", max_length=128)
    again = LlaraTrainer(merged, args, eval_dataset=PASSAGES[:7]).evaluate()
    assert again["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-5)
    merged.save_backbone(tmp_path / "backbone")
    assert not any("weighting" in name for name in load_file(tmp_path / "backbone" / "model.safetensors"))


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", DECODERS)
def test_predict_sees_summarize_is_plain_causal_attention(family):
    model = LlaraForPreTraining.from_backbone(tiny_backbone(family), tiny_tokenizer(), predict_sees_summarize=True)
    batch = batch_of(model, (20, 9))  # padded on the left
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states[-1]
        for row, ids, mask in zip(states, batch["input_ids"], batch["attention_mask"], strict=True):
            plain = model.backbone.base_model(ids[mask.bool()][None]).last_hidden_state[0]
            torch.testing.assert_close(row[mask.bool()], plain, rtol=0, atol=1e-5)
        model.config.predict_sees_summarize = False
        apart = model(**batch, output_hidden_states=True).hidden_states[-1]
    count = len(model.config.predict_prompt_ids)
    assert torch.equal(states[0, :-count], apart[0, :-count])
    assert ((states - apart)[0, -count:].abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"loss_weighting": "learned"}, ValueError, "loss_weighting='learned' is not known: it must be one of"),
        ({"loss_weighting": "uncertainty", "bow_loss_weight": 0}, ValueError, "bow_loss_weight=0 must be above 0"),
        ({"predict_sees_summarize": 1}, TypeError, "predict_sees_summarize=1 must be True or False"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        LlaraConfig(**settings)
