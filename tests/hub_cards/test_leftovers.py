"""A model saved over another one: what that left is not read with it, and what is a person's own stays."""

import pytest

from hub_cards.travelling.leftovers import left_over
from modeling_llara import LlaraForPreTraining
from tests.support.families import build

BIENCODER = ["model.safetensors", "modules.json", "config_sentence_transformers.json", "pooling_biencoder.py"]


@pytest.mark.parametrize(
    ("there", "new", "kinds", "gone"),
    [
        (BIENCODER, ["model.safetensors"], ("lookback_llara", "lookback_biencoder"), BIENCODER[1:]),
        (BIENCODER, ["model.safetensors"], ("lookback_llara", ""), BIENCODER[1:3]),
        (BIENCODER, ["model.safetensors"], ("llama", "lookback_biencoder"), BIENCODER[1:]),
        (BIENCODER, ["model.safetensors"], ("llama", "llama"), []),
        (BIENCODER, ["adapter_model.safetensors"], ("lookback_llara", "lookback_biencoder"), []),
        (["retriever_tokenizer/tokenizer.json", "mine_srlm.py", "mine.py"], ["model.safetensors"],
         ("lookback_srlm", "lookback_srlm"), ["retriever_tokenizer/tokenizer.json"]),
        (["chat_template.jinja", "additional_chat_templates/a.jinja", "special_tokens_map.json", "vocab.txt"],
         ["tokenizer_config.json"], ("", ""),
         ["additional_chat_templates/a.jinja", "chat_template.jinja", "special_tokens_map.json"]),
        (["chat_template.jinja", "a/chat_template.jinja"], ["a/tokenizer_config.json"], ("", ""),
         ["a/chat_template.jinja"]),
    ],
)  # fmt: skip
def test_what_goes(there, new, kinds, gone):
    assert left_over(there, new, *kinds, code=["pooling_biencoder.py"]) == sorted(gone)


def test_a_llara_model_over_a_bi_encoder(tmp_path):
    before, after = build("biencoder"), build("llara")
    before.tokenizer.chat_template = "{{ messages }}"
    before.save_pretrained(tmp_path)
    for name in ("mine.py", "train_my_biencoder.py"):
        (tmp_path / name).write_text("from .modeling_biencoder import BiEncoderModel")
    after.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"mine.py", "modeling_llara.py", "tokenizer.json"} <= names
    assert {name for name in names if name.endswith("_biencoder.py")} == {"train_my_biencoder.py"}
    assert not {"modules.json", "config_sentence_transformers.json", "chat_template.jinja", ".stale"} & names
    assert LlaraForPreTraining.from_pretrained(tmp_path).tokenizer.chat_template is None


def test_a_model_without_a_retriever_over_one_with_it(tmp_path):
    build("srlm").save_pretrained(tmp_path)
    assert (tmp_path / "retriever_tokenizer").is_dir()
    build("biencoder").save_pretrained(tmp_path)
    assert not (tmp_path / "retriever_tokenizer").exists() and not list(tmp_path.glob("*_srlm.py"))
