"""The base of an adapter: tokens that were added to it, and adapters that fit our modules' names alone."""

import logging

import peft
import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForFeatureExtraction, LoraConfig, PeftModel
from transformers import AutoModel, AutoModelForCausalLM

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support import quick_first
from tests.support.adapted import SIZES, outputs, plain_backbone, trainer
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, SelfRetrievalTrainer, load_adapted

FAMILIES = ("biencoder", "llara", "srlm")
HEADS = {"biencoder": ["embed_tokens"], "llara": ["embed_tokens", "lm_head"], "srlm": ["embed_tokens", "lm_head"]}
NEW = ["zebra", "xylophone"]
# Those that peft would put on a plain backbone without an error, and with none of their weights.
UNNOTICED = {
    "excluding": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], exclude_modules=["v_proj"]),
    "excluding by a pattern": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], exclude_modules=r".*\.1\..*v_proj"),
    "token rows": peft.TrainableTokensConfig(token_indices=[5, 6], target_modules=["embed_tokens"]),
    "token rows by a pattern": peft.TrainableTokensConfig(token_indices=[5, 6], target_modules=r".*embed_tokens"),
    "parameters": LoraConfig(r=4, target_modules=[], target_parameters=["q_proj.weight"]),
    "parameters and modules": LoraConfig(r=4, target_modules=["v_proj"], target_parameters=["q_proj.weight"]),
}


def grown(family, folder, how):
    """(what a Trainer gets as its model, its tokenizer) with tokens that the base in folder/lm does not have."""
    auto = AutoModel if family == "biencoder" else AutoModelForCausalLM
    tokenizer = plain_backbone(family, folder)
    tokenizer.add_tokens(NEW)
    if how == "plain":
        model = auto.from_pretrained(folder / "lm")
        model.resize_token_embeddings(len(tokenizer))
        return model, tokenizer
    model = trainer(family, folder, str(folder / "lm")).model
    if how == "saved":
        model.save_pretrained(folder / "base")
        model = type(model).from_pretrained(folder / "base")
    model.tokenizer.add_tokens(NEW)
    model.resize_token_embeddings(len(model.tokenizer))
    return model, None


@pytest.mark.cases(1)
@pytest.mark.parametrize("rows", ["by themselves", pytest.param("whole", marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", quick_first(["saved", "plain", "new"]))
@pytest.mark.parametrize("family", FAMILIES)
def test_added_tokens_come_with_the_adapter(tmp_path, family, how, rows):
    model, tokenizer = grown(family, tmp_path, how)
    whole = {"modules_to_save": HEADS[family]} if rows == "whole" else {}
    made = trainer(family, tmp_path, model, tokenizer, LoraConfig(r=4, target_modules=["q_proj"], **whole))
    made.train()
    made.save_model()
    loaded = load_adapted(tmp_path / "run")
    torch.testing.assert_close(outputs(loaded), outputs(made.model), rtol=0, atol=1e-5)
    ids = made.model.tokenizer.convert_tokens_to_ids(NEW)
    for one in (loaded, made.model):
        assert one.tokenizer.convert_tokens_to_ids(NEW) == ids
    embedded = [one.get_input_embeddings()(torch.tensor(ids)) for one in (loaded, made.model)]
    torch.testing.assert_close(*embedded, rtol=0, atol=1e-6)
    # transformers' and peft's ways know nothing of them: the card names ours alone.
    assert "load_adapted(" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.cases(2)
@pytest.mark.parametrize("how", ["plain", "new", "saved"])
@pytest.mark.parametrize("family", FAMILIES)
def test_added_tokens_that_would_be_lost_are_refused_before_the_training(tmp_path, family, how):
    model, tokenizer = grown(family, tmp_path, how)
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3]})
    with pytest.raises(ValueError, match=r"tokens \(ids \d+ to \d+\) were added .* save the model with them"):
        trainer(family, tmp_path, model, tokenizer, config)


@pytest.mark.slow
@pytest.mark.parametrize("family", quick_first(FAMILIES))
def test_tokens_of_a_saved_base_need_no_rows(tmp_path, family):
    model, _ = grown(family, tmp_path, "new")
    model.save_pretrained(tmp_path / "grown")
    config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3]})
    made = trainer(family, tmp_path, str(tmp_path / "grown"), peft_config=config)
    made.train()
    made.save_model()
    torch.testing.assert_close(outputs(load_adapted(tmp_path / "run")), outputs(made.model), rtol=0, atol=1e-5)
    assert "load_adapted(" not in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def test_a_base_in_memory_is_warned_about_before_the_training(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    trainer("srlm", tmp_path, tiny_backbone(), tiny_tokenizer(), LoraConfig(r=4))
    assert "will not name its base" in caplog.text and "save_pretrained" in caplog.text
    caplog.clear()
    plain_backbone("srlm", tmp_path)
    trainer("srlm", tmp_path, str(tmp_path / "lm"), None, LoraConfig(r=4))
    assert "base" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_first(UNNOTICED))
@pytest.mark.parametrize("family", ["srlm", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES[:2])])
def test_peft_refuses_an_adapter_of_ours_on_the_plain_backbone(tmp_path, family, kind):
    plain_backbone(family, tmp_path)
    made = trainer(family, tmp_path, str(tmp_path / "lm"), None, UNNOTICED[kind])
    made.train()
    made.save_model()
    run, expected = str(tmp_path / "run"), outputs(made.model)
    torch.testing.assert_close(outputs(load_adapted(run)), expected, rtol=0, atol=1e-5)
    load_adapted(run, is_trainable=True).save_pretrained(tmp_path / "again")
    torch.testing.assert_close(outputs(load_adapted(tmp_path / "again")), expected, rtol=0, atol=1e-5)
    auto = AutoModel if family == "biencoder" else AutoModelForCausalLM
    by_peft = AutoPeftModelForCausalLM if family == "srlm" else AutoPeftModelForFeatureExtraction
    for saved in (run, str(tmp_path / "again")):
        with pytest.raises(ValueError, match=r"[Nn]ot found|excluded|No `target_modules`"):
            by_peft.from_pretrained(saved)
        with pytest.raises(ValueError, match=r"[Nn]ot found|excluded|No `target_modules`"):
            PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "lm"), saved)


@pytest.mark.slow
def test_a_biencoder_on_a_llara_model_has_a_card_with_the_way_that_works(tmp_path):
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_pretrained(tmp_path / "llara")
    args = arguments(BiEncoderTrainingArguments, tmp_path / "run", max_steps=1, train_group_size=2)
    made = BiEncoderTrainer(str(tmp_path / "llara"), args, PAIRS, peft_config=LoraConfig(r=4))
    made.train()
    made.save_model()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "load_adapted(" in card and "model.load_adapter(" not in card
    loaded = load_adapted(tmp_path / "run")
    assert isinstance(loaded, BiEncoderModel)
    torch.testing.assert_close(outputs(loaded), outputs(made.model), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="not found in the base model"):
        AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "run", trust_remote_code=True)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [10**6]}),
        LoraConfig(r=4, target_modules=["q_proj", "embed_tokens"], trainable_token_indices={"embed_tokens": [5]}),
    ],
)
def test_what_peft_cannot_do_is_said(tmp_path, config):
    with pytest.raises(
        ValueError,
        match=r"(peft cannot put this LoraConfig|trains the row of token 1000000).* within the vocabulary",
    ):
        SelfRetrievalTrainer(
            tiny_backbone(), processing_class=tiny_tokenizer(), peft_config=config, model_kwargs=SIZES
        )


@pytest.mark.cases(1)
@pytest.mark.parametrize("where", quick_first(["folder", "Hub", "memory"]))
@pytest.mark.parametrize("family", ["biencoder", "srlm"])
def test_an_adapter_that_was_loaded_for_use_is_not_trained(hub, tmp_path, family, where):
    plain_backbone(family, tmp_path)
    trainer(family, tmp_path, str(tmp_path / "lm")).model.push_to_hub("user/base")
    adapted = trainer(family, tmp_path, "user/base", peft_config=LoraConfig(r=4)).model
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.push_to_hub("user/adapter")
    loaded = load_adapted("user/adapter")
    source = {"Hub": "user/adapter", "folder": str(tmp_path / "adapter"), "memory": loaded}[where]
    with pytest.raises((ValueError, OSError), match=r"is_trainable=True.* --adapter"):
        trainer(family, tmp_path, source)
    trainable = trainer(family, tmp_path, load_adapted("user/adapter", is_trainable=True))
    assert trainable.train().global_step == 2
