"""Repos of our own bi-encoders as retriever, in every form that they are saved in: the bi-encoder's own vectors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.retrievers_srlm import load_retriever
from tests.support.loopback_hub.fixtures import commit
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import add_adapter
from trainers.models.convert import biencoder_from_llara

SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "target_size": 32}
TEXTS = ["a copper lantern", "the library reads long documents and looks back", ""]
PROMPTS = {"default": {"query": "q: "}, "lrlm": {"query": "now: ", "passage": "then: ", "passage_suffix": "."}}


def saved(folder: Path, family: str = "llama", **config: Any) -> BiEncoderModel:
    model = BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), tiny_tokenizer(), **config)
    model.save_pretrained(folder)
    return model


def bare(folder: Path) -> BiEncoderModel:
    return saved(folder, "bert", pooling="mean", prompts=PROMPTS)


def of_llara(folder: Path) -> BiEncoderModel:
    """With the special tokens of its prompts in the tokenizer, by which published LLaRA checkpoints are known."""
    model = biencoder_from_llara(LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()))
    model.save_pretrained(folder)
    return model


def of_a_preset(folder: Path) -> BiEncoderModel:
    """In a card that loads the published model: what it says of itself goes before that."""
    tiny_backbone("mistral", lm_head=False).save_pretrained(folder / "plain")
    tiny_tokenizer().save_pretrained(folder / "plain")
    model = BiEncoderModel.from_backbone(folder / "plain", preset="e5-mistral", max_length=64)
    model.config.prompts = {"default": {"query": "mine: "}}
    model.save_pretrained(folder)
    with (folder / "README.md").open("a") as card:
        card.write('\nMade of `AutoModel.from_pretrained("intfloat/e5-mistral-7b-instruct")`.\n')
    return model


def exported(folder: Path) -> BiEncoderModel:
    """With sentence-transformers' own modules, and not ours."""
    model = saved(folder / "ours", pooling="last_token", normalize=False, prompts=PROMPTS | {"lrlm": {"query": "n: "}})
    model.export_sentence_transformers(folder)
    return model


def adapter(folder: Path) -> BiEncoderModel:
    saved(folder / "base", prompts=PROMPTS)
    model = BiEncoderModel.from_pretrained(folder / "base")
    add_adapter(model, LoraConfig(r=4, init_lora_weights=False))
    model.save_pretrained(folder)
    return model.eval()


def adapter_on_a_plain_backbone(folder: Path) -> BiEncoderModel:
    tiny_backbone("qwen", lm_head=False).save_pretrained(folder / "plain")
    tiny_tokenizer().save_pretrained(folder / "plain")
    model = BiEncoderModel.from_backbone(folder / "plain", pooling="mean", prompts=PROMPTS)
    add_adapter(model, LoraConfig(r=4, init_lora_weights=False))
    model.save_pretrained(folder)
    return model.eval()


def assert_nested(lm: SelfRetrievalLM, model: BiEncoderModel) -> None:
    task = "lrlm" if "lrlm" in model.config.prompts else None
    for role in ("query", "passage"):
        found, wanted = lm.retriever.encode(TEXTS, role=role), model.encode(TEXTS, role=role, task=task)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.cases(2)
@pytest.mark.parametrize("make", [bare, of_llara, of_a_preset, exported, adapter, adapter_on_a_plain_backbone])
def test_a_folder_gives_the_vectors_of_the_biencoder(make, tmp_path):
    model = make(tmp_path / "bi")
    lm = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), str(tmp_path / "bi"), **SETTINGS)
    assert_nested(lm, model)
    assert isinstance(load_retriever(str(tmp_path / "bi")), BiEncoderModel) == (make is not exported)
    lm.save_pretrained(tmp_path / "lm")
    assert_nested(SelfRetrievalLM.from_pretrained(tmp_path / "lm"), model)


def test_a_hub_id_and_its_revision_give_the_same(hub, tmp_path):
    model = bare(tmp_path / "bi")
    oid = commit(hub, "user/bi", tmp_path / "bi")
    commit(hub, "user/bi", README__md="---\n---\nmoved on\n")
    pinned = {"revision": oid}
    lm = SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), "user/bi", retriever_kwargs=pinned, **SETTINGS
    )
    assert_nested(lm, model)


def test_a_preset_is_not_for_one_of_ours(tmp_path):
    bare(tmp_path)
    with pytest.raises(ValueError, match="is a bi-encoder of ours, which knows how it embeds: leave preset out"):
        load_retriever(str(tmp_path), preset="llm-embedder")
