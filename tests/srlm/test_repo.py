"""A saved SelfRetrievalLM is a complete repo; loaded without Lookback by tests/hub_cards/test_fresh_process.py."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support.srlm import PROMPTS, SETTINGS, ByteCounter, build
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer


def test_what_a_repo_holds(tmp_path):
    build().save_pretrained(tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "retriever_tokenizer/tokenizer.json", "README.md",
            "modeling_srlm.py", "configuration_srlm.py", "retriever_srlm.py"} <= names  # fmt: skip
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForCausalLM"] == "modeling_srlm.SelfRetrievalLM"


def test_reload_in_process(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is SelfRetrievalLM
    assert loaded.config.text_config is loaded.language_model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    ids = random_ids(1, 100)
    assert loaded(ids, labels=ids).loss.item() == pytest.approx(model(ids, labels=ids).loss.item(), abs=1e-6)
    assert loaded.resize_token_embeddings(520).weight.shape[0] == loaded.config.text_config.vocab_size == 520


@pytest.mark.cases(2)
@pytest.mark.parametrize("pooling", ["last_token", "cls", "mean", "mean_last_k"])
@pytest.mark.parametrize("separate_prompts", [False, True])
def test_nested_retriever_is_the_biencoder(pooling, separate_prompts):
    family = "bert" if pooling == "cls" else "gpt2"
    encoder = BiEncoderModel.from_backbone(
        tiny_backbone(family, lm_head=family != "bert"), tiny_tokenizer(), pooling=pooling, pooling_k=3,
        prompts=PROMPTS, separate_prompts=separate_prompts, max_length=16, append_eos=True, normalize=False,
    )  # fmt: skip
    texts = ["a", "the library reads long documents and looks back at what came before it", "", "copper lantern"]
    wanted = {role: encoder.encode(texts, role=role) for role in ("query", "passage")}
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), encoder, **SETTINGS)
    for role, embeddings in wanted.items():
        torch.testing.assert_close(model.retriever.encode(texts, role=role), embeddings, rtol=0, atol=1e-5)


def test_sentence_transformer_is_nested(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = BiEncoderModel.from_backbone(tiny_backbone("bert", lm_head=False), tiny_tokenizer(), pooling="mean")
    encoder.export_sentence_transformers(tmp_path / "st")
    retriever = sentence_transformers.SentenceTransformer(str(tmp_path / "st"))
    texts = ["the copper lantern", "on the island"]
    wanted = torch.as_tensor(retriever.encode(texts))
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), retriever, **SETTINGS)
    torch.testing.assert_close(model.retriever.encode(texts), wanted, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "repo")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "repo")
    ids = random_ids(1, 150)
    assert torch.equal(loaded(ids, labels=ids).retrieved_indices, model(ids, labels=ids).retrieved_indices)


def test_an_external_retriever_is_given_anew(tmp_path):
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), ByteCounter(), **SETTINGS)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(1, 150)
    with pytest.raises(ValueError, match="retriever"):
        loaded(ids, labels=ids)
    loaded.retriever = ByteCounter()
    assert torch.equal(loaded(ids, labels=ids).retrieved_indices, model(ids, labels=ids).retrieved_indices)


def test_a_plain_repo_is_no_retriever(tmp_path):
    tiny_backbone().save_pretrained(tmp_path)
    assert LlamaConfig.from_pretrained(tmp_path).model_type == "llama"
    with pytest.raises(ValueError, match="pooling"):
        SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), str(tmp_path), **SETTINGS)


def test_the_card_names_kept_states_when_they_are(tmp_path):
    for reuse in (False, True):
        model = build()
        model.config.reuse_states = reuse
        model.save_pretrained(tmp_path / str(reuse))
        card = (tmp_path / str(reuse) / "README.md").read_text()
        assert ("| states | kept (`reuse_states`), 4 sink tokens, in `cpu` |" in card) == reuse
