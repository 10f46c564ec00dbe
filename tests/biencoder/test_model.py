"""The model among transformers and PEFT: construction, bidirectional attention, Trainer, adapters, checkpointing."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from tests.support.tiny import DECODERS, random_ids, tiny_backbone, tiny_tokenizer

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def _batch(queries: int = 3, group_size: int = 2) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "query": {"input_ids": random_ids(queries, 6, seed=1)},
        "passage": {"input_ids": random_ids(queries * group_size, 8, seed=2)},
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_from_backbone_takes_over_the_weights_of_the_base_model(family: str) -> None:
    with_head, base = tiny_backbone(family), tiny_backbone(family, lm_head=False)
    weights = {name: weight.clone() for name, weight in with_head.base_model.state_dict().items()}
    model = BiEncoderModel.from_backbone(with_head)
    assert type(model.backbone) is type(base)
    for name, weight in model.backbone.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_embeddings_are_pooled_from_the_backbones_last_states() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(), pooling="mean", normalize=False)
    ids = random_ids(2, 5)
    expected = tiny_backbone(lm_head=False)(ids).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(model(ids).embeddings, expected)
    assert torch.equal(model(ids, return_dict=False)[0], model(ids).embeddings)


def test_loss_is_the_same_from_forward_and_from_finished_embeddings() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone())
    batch, teacher = _batch(), torch.randn(3, 2)
    output = model(**batch, teacher_scores=teacher)
    reps = model(**batch, return_loss=False)
    assert reps.loss is None
    assert output.scores.shape == (3, 6)
    torch.testing.assert_close(model.compute_loss(reps.q_reps, reps.p_reps, teacher).loss, output.loss)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", DECODERS)
def test_bidirectional_a_later_token_changes_an_earlier_state(family: str, attention: str) -> None:
    ids = random_ids(1, 6).repeat(2, 1)
    ids[1, 4] = ids[0, 4] % 500 + 5  # the two rows differ in one late token
    changes = {}
    for bidirectional in (False, True):
        base = tiny_backbone(family, attn_implementation=attention)
        model = BiEncoderModel.from_backbone(base, pooling="cls", bidirectional=bidirectional)
        for mask in (torch.ones_like(ids), torch.tensor([[1] * 5 + [0]] * 2)):
            with torch.no_grad():
                first, second = model(ids, mask).embeddings
            changes.setdefault(bidirectional, []).append((first - second).abs().max().item())
    assert max(changes[False]) == 0.0
    assert min(changes[True]) > 1e-3


def test_config_survives_a_round_trip_through_its_dict() -> None:
    config = BiEncoderConfig(
        text_config=tiny_backbone().config, pooling="mean_last_k", pooling_k=3, temperature=0.01, bidirectional=True,
        embedding_dims=[8, 32], prompts={"default": {"query": "q: "}}, max_length=64,
    )  # fmt: skip
    again = BiEncoderConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.text_config.is_causal is False
    assert (again.similarity, again.score_temperature) == ("cosine", 0.01)
    assert BiEncoderConfig(normalize=False).similarity == "dot"


def test_a_saved_config_loads_whatever_keys_a_later_version_adds() -> None:
    saved = BiEncoderConfig(text_config=tiny_backbone().config).to_dict()
    assert BiEncoderConfig.from_dict({**saved, "a_later_field": 1}).a_later_field == 1


def test_auto_classes_know_the_model_in_process() -> None:
    config = AutoConfig.for_model("lookback_biencoder", text_config=tiny_backbone().config.to_dict())
    assert type(AutoModel.from_config(config)) is BiEncoderModel


def test_default_max_length_is_bounded_by_the_positions() -> None:
    short = tiny_backbone("gpt2", n_positions=128).config
    assert BiEncoderConfig(text_config=short).max_length == 128
    assert BiEncoderConfig(text_config=tiny_backbone().config).max_length == 512


def test_resized_vocabulary_keeps_the_embeddings_of_old_tokens() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone())
    ids = random_ids(2, 5)
    before = model(ids).embeddings
    model.resize_token_embeddings(520)
    assert model.config.text_config.vocab_size == 520
    torch.testing.assert_close(model(ids).embeddings, before)


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = BiEncoderModel.from_backbone(tiny_backbone()).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(**_batch()).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    torch.testing.assert_close(*gradients)


def test_peft_model_trains_and_merges_to_the_same_embeddings() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(), tiny_tokenizer())
    plain = model.encode(["a query"])
    wrapped = get_peft_model(model, LoraConfig(task_type="FEATURE_EXTRACTION", init_lora_weights=False, **LORA))
    wrapped(**_batch()).loss.backward()
    trained = [name for name, parameter in wrapped.named_parameters() if parameter.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)
    adapted = wrapped.encode(["a query"])
    assert (adapted - plain).abs().max() > 1e-3
    merged = wrapped.merge_and_unload()
    assert type(merged) is BiEncoderModel
    torch.testing.assert_close(merged.encode(["a query"]), adapted, rtol=1e-4, atol=1e-5)


def test_add_adapter_keeps_the_class_and_trains_the_adapter_alone() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone())
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", **LORA))
    model(**_batch()).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert type(model) is BiEncoderModel
    assert trained
    assert all("lora_" in name for name in trained)


def _collate(rows: list[dict]) -> dict:
    queries = torch.tensor([row["query"] for row in rows])
    passages = torch.tensor([ids for row in rows for ids in row["passage"]])
    return {"query": {"input_ids": queries}, "passage": {"input_ids": passages}}


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_trainer_trains_every_parameter_and_evaluates_the_loss(family: str, tmp_path) -> None:
    rows = Dataset.from_list(
        [{"query": random_ids(5, seed=i).tolist(), "passage": random_ids(2, 6, seed=i).tolist()} for i in range(8)]
    )
    model = BiEncoderModel.from_backbone(tiny_backbone(family))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    arguments = TrainingArguments(
        tmp_path, max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2,
        logging_steps=1, use_cpu=True, disable_tqdm=True, eval_strategy="steps", eval_steps=4, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, data_collator=_collate, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    history = trainer.state.log_history
    assert any("eval_loss" in entry for entry in history)
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not unmoved


def test_accumulated_loss_is_not_scaled_by_the_number_of_steps(tmp_path) -> None:
    rows = Dataset.from_list([{"query": random_ids(5).tolist(), "passage": random_ids(2, 6).tolist()}] * 8)
    logged = []
    for steps in (1, 4):
        model = BiEncoderModel.from_backbone(tiny_backbone(), temperature=0.5)
        arguments = TrainingArguments(
            tmp_path, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=steps, logging_steps=1,
            use_cpu=True, disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        trainer = Trainer(model, arguments, data_collator=_collate, train_dataset=rows)
        trainer.train()
        logged.append(trainer.state.log_history[0])
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], rel=1e-4)  # all rows are alike
    assert logged[0]["grad_norm"] == pytest.approx(logged[1]["grad_norm"], rel=1e-3)


def test_what_a_tokenizer_gives_is_taken() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean").eval()
    rows = model.tokenizer(["the copper lantern"], return_tensors="pt", return_token_type_ids=True)
    torch.testing.assert_close(model(**rows).embeddings, model.encode(["the copper lantern"]))
