import json
import os

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support import quick_first
from tests.support.srlm import build as build_srlm
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from tests.support.training import (
    PAIRS,
    PASSAGES,
    SENTENCES,
    arguments,
    assert_moved,
    assert_same_weights,
    logged,
    weights,
)
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    add_adapter,
    load_adapted,
    load_adapter,
)


def llara_model(family="llama", tied=False):
    return LlaraForPreTraining.from_backbone(tiny_backbone(family, tie_word_embeddings=tied), tiny_tokenizer())


def biencoder_model(family="llama"):
    return BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), tiny_tokenizer(), temperature=0.1)


def llara_trainer(folder, model, **settings):
    args = arguments(LlaraTrainingArguments, folder, max_length=128, **settings)
    return LlaraTrainer(model, args, PASSAGES, PASSAGES, peft_config=LoraConfig(r=4))


def biencoder_trainer(folder, family="llama", **settings):
    args = arguments(BiEncoderTrainingArguments, folder, train_group_size=3, **settings)
    return BiEncoderTrainer(biencoder_model(family), args, PAIRS, PAIRS, peft_config=LoraConfig(r=4))


@pytest.mark.cases(1)
@pytest.mark.parametrize("tied", quick_first([True, False]))
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_llara_trains_the_new_rows_alone_and_the_checkpoint_has_them(tmp_path, family, tied):
    trainer = llara_trainer(tmp_path, llara_model(family, tied), save_strategy="steps", save_steps=4)
    embeddings = trainer.model.get_input_embeddings().token_adapter.base_layer
    rows, before = embeddings.weight.detach().clone(), weights(trainer.model)
    first_loss = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert_moved(before, trainer.model)
    assert torch.equal(rows, embeddings.weight)  # the matrix itself is frozen, the trained rows lie beside it
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    deltas = {name for name in trained if "trainable_tokens_delta" in name}
    assert len(deltas) == (1 if tied else 2) and all("lora_" in name for name in trained - deltas)

    checkpoint = tmp_path / "checkpoint-4"
    files = set(os.listdir(checkpoint))
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json"} < files
    assert "model.safetensors" not in files
    saved = json.loads((checkpoint / "adapter_config.json").read_text())
    new_ids = trainer.model.config.summarize_token_ids + trainer.model.config.predict_token_ids
    assert all(ids == new_ids for ids in saved["trainable_token_indices"].values())

    # Reloaded into an untrained model, and merged into it, the adapter gives the trained model's loss.
    loss = trainer.evaluate()["eval_loss"]
    assert loss < first_loss - 0.01
    reloaded = llara_model(family, tied)
    load_adapter(reloaded, checkpoint)
    merged = PeftModel.from_pretrained(llara_model(family, tied), str(checkpoint)).merge_and_unload()
    for model in (reloaded, merged):
        args = arguments(LlaraTrainingArguments, tmp_path / "again", max_length=128)
        again = LlaraTrainer(model, args, eval_dataset=PASSAGES).evaluate()["eval_loss"]
        assert again == pytest.approx(loss, abs=1e-5)
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == tied


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_biencoder_adapter_trains_alone_and_reloads(tmp_path, family):
    trainer = biencoder_trainer(tmp_path, family, max_steps=4, save_strategy="steps", save_steps=4)
    before, untrained = weights(trainer.model), trainer.model.encode(SENTENCES)
    trainer.train()
    assert_moved(before, trainer.model)
    assert logged(trainer, "loss")[-1] < logged(trainer, "loss")[0]
    assert isinstance(trainer.model, BiEncoderModel)
    reloaded = biencoder_model(family)
    load_adapter(reloaded, tmp_path / "checkpoint-4")
    expected = trainer.model.encode(SENTENCES)
    torch.testing.assert_close(reloaded.encode(SENTENCES), expected, atol=1e-6, rtol=0)
    assert (expected - untrained).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("make", quick_first(["llara", "biencoder"]))
def test_resumed_run_ends_in_the_same_adapter(tmp_path, make):
    def trainer(folder, **settings):
        if make == "llara":
            return llara_trainer(folder, llara_model(), max_steps=4, **settings)
        return biencoder_trainer(folder, max_steps=4, **settings)

    straight = trainer(tmp_path, save_strategy="steps", save_steps=2)
    straight.train()
    resumed = trainer(tmp_path / "other")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)


@pytest.mark.slow
def test_best_adapter_is_loaded_at_the_end(tmp_path):
    trainer = biencoder_trainer(
        tmp_path, max_steps=4, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True,  # the worst, here the first
    )  # fmt: skip
    trainer.train()
    losses = logged(trainer, "eval_loss")
    assert losses[0] > losses[1] + 1e-3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_adapter(tmp_path):
    plain = biencoder_trainer(tmp_path / "plain", max_steps=2)
    plain.train()
    checkpointed = biencoder_trainer(tmp_path / "checkpointed", max_steps=2, gradient_checkpointing=True)
    checkpointed.train()
    assert_same_weights(weights(checkpointed.model), weights(plain.model), 1e-5)


def test_the_callers_configuration_stays_as_it_was_and_its_choices_hold():
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3]})
    model = llara_model()
    add_adapter(model, config, new_token_ids=[5, 6])
    assert config.task_type is None
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"q_proj" if "q_proj" in name else name.rsplit(".", 4)[1] for name in trained} == {"q_proj", "embed_tokens"}
    assert model.get_input_embeddings().token_adapter.token_indices["default"] == [3]


def test_embeddings_that_train_whole_get_no_rows_of_their_own():
    model = llara_model()
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    add_adapter(model, config, new_token_ids=[5, 6])
    assert model.peft_config["default"].trainable_token_indices is None
    (whole,) = {name for name, value in model.named_parameters() if value.requires_grad and "lora_" not in name}
    assert "embed_tokens" in whole and model.get_parameter(whole).ndim == 2


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("whole", [["norm"], ["lm_head"]])
def test_rows_of_new_tokens_train_beside_whole_modules(tied, whole):
    model, config = llara_model(tied=tied), LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=whole)
    if tied and whole == ["lm_head"]:
        with pytest.raises(ValueError, match=r"'backbone\.lm_head' without the embeddings, which are tied to it"):
            add_adapter(model, config, new_token_ids=[5, 6])
        return
    add_adapter(model, config, new_token_ids=[5, 6])
    rows = model.peft_config["default"].trainable_token_indices
    one = {"backbone.model.embed_tokens": [5, 6]}
    assert rows == (one if tied or whole == ["lm_head"] else {**one, "backbone.lm_head": [5, 6]})


@pytest.mark.cases(1)
@pytest.mark.parametrize("settings", [{}, {"ensure_weight_tying": True}])
def test_embeddings_that_train_whole_under_a_tied_head_load_as_they_were(tmp_path, settings):
    tiny_backbone(tie_word_embeddings=True).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"], **settings)
    args = arguments(LlaraTrainingArguments, tmp_path / "run", max_length=128, learning_rate=0.05, max_steps=2)
    trainer = LlaraTrainer(str(tmp_path / "lm"), args, PASSAGES, peft_config=config)
    trainer.train()
    trainer.save_model()
    loaded, ids = load_adapted(tmp_path / "run"), random_ids(1, 20)
    with torch.no_grad():
        states = [model.eval()(ids, labels=ids).loss for model in (trainer.model, loaded)]
        heads = [model.get_output_embeddings() for model in (trainer.model, loaded)]
        assert torch.equal(*(head(torch.eye(32)) for head in heads))
    assert torch.equal(*states)


def test_an_adapter_names_the_repo_it_was_made_for_or_the_backbone_of_a_new_model(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    new = LlaraForPreTraining.from_backbone(tmp_path / "backbone")
    new.save_pretrained(tmp_path / "repo")
    for model, name in ((new, "backbone"), (LlaraForPreTraining.from_pretrained(tmp_path / "repo"), "repo")):
        model.config._commit_hash, model.config.text_config._commit_hash = "repo-commit", "backbone-commit"
        add_adapter(model, LoraConfig(r=4))
        recorded = model.peft_config["default"]
        assert recorded.base_model_name_or_path == str(tmp_path / name)
        assert recorded.revision == f"{name}-commit"


@pytest.mark.parametrize("tied", [False, True])
def test_a_self_retrieval_lm_gets_its_adapter_in_the_lm_alone(tied):
    model = build_srlm(tie_word_embeddings=tied)
    add_adapter(model, LoraConfig(r=4), new_token_ids=[5, 6])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("language_model.") for name in trained)
    assert len({name for name in trained if "trainable_tokens_delta" in name}) == (1 if tied else 2)
    ids = random_ids(1, 200)
    model(ids, labels=ids).loss.backward()
    assert all(model.get_parameter(name).grad is not None for name in trained)


def test_bad_input(tmp_path):
    model = biencoder_model()
    args = arguments(BiEncoderTrainingArguments, tmp_path)
    with pytest.raises(TypeError, match="peft_config is a dict"):
        BiEncoderTrainer(model, args, PAIRS, peft_config={"r": 4})
    trainer = BiEncoderTrainer(model, args, PAIRS, peft_config=LoraConfig(r=4))
    with pytest.raises(ValueError, match="has an adapter already"):
        BiEncoderTrainer(model, args, PAIRS, peft_config=LoraConfig(r=4))
    with pytest.raises(ValueError, match=r"holds no adapter_model\.safetensors"):
        trainer._load_from_checkpoint(str(tmp_path))
    with pytest.raises(TypeError, match="wrapped by peft"):
        BiEncoderTrainer(get_peft_model(biencoder_model(), LoraConfig(target_modules="all-linear")), args, PAIRS)
