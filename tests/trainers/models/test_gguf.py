"""A GGUF file is a model like any other: it is loaded with its tokenizer, and saved as plain floats."""

import importlib.util
import json

import pytest
import torch

from hub_cards.travelling import backbones
from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.pretrained import smollm_gguf
from trainers.models.load import load_biencoder, load_srlm

TEXTS = ["the copper lantern", "a query finds the passage that answers it"]


def plain(folder):
    """The configuration of a saved repo, which says nothing of quantisation."""
    text = (folder / "config.json").read_text()
    assert "quant" not in text
    return json.loads(text)


def test_what_cannot_be_read_is_refused_with_the_fix(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"gguf_file='b.gguf' is no file in .*: there is a.gguf"):
        BiEncoderModel.from_backbone(str(tmp_path), gguf_file="b.gguf")
    with pytest.raises(ValueError, match=r"is one file: give its folder, .* and gguf_file='a.gguf'"):
        load_biencoder(str(tmp_path / "a.gguf"), pooling="mean")
    real = importlib.util.find_spec
    monkeypatch.setattr(backbones, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(ImportError, match="needs the package gguf: pip install gguf"):
        backbones.check_gguf(tmp_path, "a.gguf")


@pytest.mark.real
def test_a_biencoder_of_a_gguf_file_is_saved_plain(tmp_path):
    folder, name = smollm_gguf()
    model = load_biencoder(folder, pooling="mean", gguf_file=name)
    expected = model.encode(TEXTS)
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in plain(tmp_path)["text_config"]
    again = BiEncoderModel.from_pretrained(tmp_path)
    assert again.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    torch.testing.assert_close(again.encode(TEXTS), expected, rtol=0, atol=1e-6)


@pytest.mark.real
def test_a_self_retrieval_lm_of_a_gguf_file_is_saved_plain(tmp_path):
    folder, name = smollm_gguf()
    sizes = {"context_window_size": 32, "chunk_size": 8, "key_num": 1}
    model = load_srlm(folder, {**sizes, "retrieval_method": "bm25"}, gguf_file=name).eval()
    ids = model.tokenizer(TEXTS[1] * 8, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(ids, labels=ids).loss
        model.save_pretrained(tmp_path)
        plain(tmp_path)
        torch.testing.assert_close(SelfRetrievalLM.from_pretrained(tmp_path).eval()(ids, labels=ids).loss, expected)


@pytest.mark.real
def test_llara_takes_a_gguf_file(tmp_path):
    folder, name = smollm_gguf()
    model = LlaraForPreTraining.from_backbone(folder, gguf_file=name)
    model.save_pretrained(tmp_path)
    assert plain(tmp_path)["text_config"]["vocab_size"] == len(model.tokenizer)
