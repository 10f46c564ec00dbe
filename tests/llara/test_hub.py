"""Saving and loading in this process; as remote code in a fresh one: tests/hub_cards/test_fresh_process.py."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from modeling_llara import LlaraConfig, LlaraForPreTraining
from tests.support.llara import saved


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("qwen", True), ("opt", True)])
def test_registered_classes_load_in_process(tmp_path, family, tied):
    model, inputs, wanted = saved(tmp_path, family, tie_word_embeddings=tied)
    loaded = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(loaded) is LlaraForPreTraining
    assert loaded.backbone.config._attn_implementation == "eager"
    assert loaded.config.text_config is loaded.backbone.config
    torch.testing.assert_close(loaded(**inputs).loss, wanted["loss"], rtol=0, atol=1e-5)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert (config.bow_loss_weight, config.predict_prompt) == (0.2, model.config.predict_prompt)


def test_what_a_repo_holds(tmp_path):
    saved(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    code = {f"{name}_llara.py" for name in ("backbone", "configuration", "inputs", "loss", "masking", "modeling",
                                            "prompts")}  # fmt: skip
    assert code | {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} <= names
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_llara.LlaraConfig",
        **{name: "modeling_llara.LlaraForPreTraining"
           for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForPreTraining")},
    }  # fmt: skip


def test_a_config_from_another_version_loads(tmp_path):
    saved(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "key_of_tomorrow": 1}))
    assert LlaraConfig.from_pretrained(tmp_path).key_of_tomorrow == 1


def test_missing_tokenizer(tmp_path):
    model, inputs, wanted = saved(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    loaded = LlaraForPreTraining.from_pretrained(tmp_path)
    assert abs(loaded(**inputs).loss - wanted["loss"]) < 1e-6
    with pytest.raises(ValueError, match="no tokenizer"):
        _ = loaded.tokenizer
    loaded.tokenizer = model.tokenizer
    assert loaded.tokenizer is model.tokenizer
    with pytest.raises(TypeError, match="must be a transformers tokenizer"):
        loaded.tokenizer = "gpt2"
    bare = LlaraForPreTraining(loaded.config)
    with pytest.raises(ValueError, match="no tokenizer"):
        _ = bare.tokenizer
