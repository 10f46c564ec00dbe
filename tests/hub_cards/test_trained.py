"""Trained, evaluated and pushed by `trainer.push_to_hub`: all families' cards, and the LM that has a retriever."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import get_session, hf_raise_for_status
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.loopback_hub.fixtures import read
from tests.support.round_trips import Case, build, fingerprint, load_all
from tests.support.training import PAIRS, PASSAGES, SENTENCES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)

BIENCODER, LLARA, SRLM = "lookback_biencoder", "lookback_llara", "lookback_srlm"
TEXTS = [{"text": " ".join(SENTENCES[i:] + SENTENCES[:i]) * 3} for i in range(4)]
KINDS = {
    BIENCODER: (BiEncoderTrainer, BiEncoderTrainingArguments, PAIRS, {"train_group_size": 2}),
    LLARA: (LlaraTrainer, LlaraTrainingArguments, PASSAGES, {}),
    SRLM: (SelfRetrievalTrainer, SelfRetrievalTrainingArguments, TEXTS, {"document_length": 96, "target_size": 16}),
}

RESULTS = {BIENCODER: [], LLARA: ["summarize_precision@8", "predict_precision@8"], SRLM: ["perplexity"]}


def trained(folder, family, model=None, peft_config=None, **settings):
    """A Trainer after a step and an evaluation, whose repo is `user/repo`."""
    kind, make_arguments, rows, more = KINDS[family]
    given = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.1, **more, **settings}
    args = arguments(make_arguments, folder, hub_model_id="user/repo", hub_token="hf_write", **given)
    trainer = kind(model or build(family), args, rows, rows[:2], peft_config=peft_config)
    trainer.train()
    return trainer


def validate(card, hub):
    """`card.validate()` on this Hub; before version 2 of huggingface-hub that asks the one on the network."""
    body = {"repoType": "model", "content": str(card)}
    hf_raise_for_status(get_session().post(f"{hub.endpoint}/api/validate-yaml", json=body))


@pytest.mark.parametrize("adapter", quick_first([True, False]))
@pytest.mark.parametrize("family", quick_first(KINDS))
def test_the_card_on_the_hub_is_valid_and_has_the_figures(hub, tmp_path, family, adapter):
    model = "user/base" if adapter else None
    if adapter:
        build(family).push_to_hub("user/base")
    trained(tmp_path, family, model, LoraConfig(r=2) if adapter else None).push_to_hub(language="en", license="mit")
    card = ModelCard(read(hub, "README.md"))
    validate(card, hub)
    assert "| steps | 1 |" in card.text and "lookback:begin evaluation" in card.text
    assert (card.data.license, card.data.language, card.data.library_name) == ("mit", ["en"], "transformers")
    assert (card.data.base_model, card.data.get("base_model_relation")) == (
        ("user/base", "adapter") if adapter else (None, None)
    )
    if adapter:
        task = json.loads(read(hub, "adapter_config.json"))["task_type"]  # says which class of peft's loads it
        assert task == ("CAUSAL_LM" if family == SRLM else "FEATURE_EXTRACTION")
    results = [result.metric_type for result in card.data.eval_results or []]
    assert results == RESULTS[family]


def pushed_lm(hub, folder):
    """(the LM that was trained with its retriever, the commit of its push), under a branch that has moved on since."""
    first = trained(folder / "first", SRLM)
    commit = first.push_to_hub()
    trained(folder / "second", SRLM, build(SRLM, seed=3)).push_to_hub()
    assert hub.repos["user/repo"].branches["main"] != commit.oid
    return first.model, commit.oid


@pytest.mark.slow
def test_a_trained_lm_and_its_retriever_load_at_their_commit(hub, tmp_path):
    model, commit = pushed_lm(hub, tmp_path)
    again = AutoModelForCausalLM.from_pretrained("user/repo", revision=commit)
    assert isinstance(again, SelfRetrievalLM)
    torch.testing.assert_close(fingerprint(again), fingerprint(model), rtol=0, atol=1e-5)
    assert len(again.retriever_tokenizer) == len(again.tokenizer) + 1
    assert len(AutoTokenizer.from_pretrained("user/repo", revision=commit)) == len(again.tokenizer)
    newest = AutoModelForCausalLM.from_pretrained("user/repo")
    assert (fingerprint(newest) - fingerprint(model)).abs().max() > 1e-3


@pytest.mark.slow
def test_a_trained_lm_and_its_adapter_load_without_lookback(hub, tmp_path):
    model, commit = pushed_lm(hub, tmp_path)
    build(SRLM).push_to_hub("user/base")
    adapted = trained(tmp_path / "adapted", SRLM, "user/base", LoraConfig(r=2))
    adapted.hub_model_id = "user/adapter"
    adapted.push_to_hub()
    wanted = {"trained": fingerprint(model), "adapted": fingerprint(adapted.model)}
    assert (wanted["adapted"] - fingerprint(build(SRLM))).abs().max() > 1e-3
    cases = [
        Case("user/repo", "AutoModelForCausalLM", "trained", SRLM, {"revision": commit}),
        Case("user/base", "AutoModelForCausalLM", "adapted", SRLM, adapter="user/adapter"),
        Case("user/adapter", "AutoPeftModelForCausalLM", "adapted", SRLM),
    ]
    load_all(hub, tmp_path / "elsewhere", cases, wanted, [])
