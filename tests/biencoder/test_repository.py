"""Saving and loading: tokenizers, adapters; in a fresh process: tests/hub_cards/test_fresh_process.py."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_biencoder import BiEncoderModel
from tests.support.tiny import tiny_backbone, tiny_tokenizer

TEXTS = ["the copper lantern", "", "where did we leave the candle?"]


def _model(family: str = "llama", **config) -> BiEncoderModel:
    prompts = {"default": {"query": "q: ", "passage": '"', "passage_suffix": '", shortly</s>'}}
    return BiEncoderModel.from_backbone(tiny_backbone(family), tiny_tokenizer(), prompts=prompts, **config)


def test_a_saved_folder_is_complete_and_holds_no_pickle(tmp_path: Path) -> None:
    _model().save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "modeling_biencoder.py"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_biencoder.BiEncoderConfig",
        "AutoModel": "modeling_biencoder.BiEncoderModel",
    }


def test_reload_in_process_keeps_every_weight_and_reports_nothing(tmp_path: Path) -> None:
    model = _model("bert")
    model.save_pretrained(tmp_path)
    loaded, report = BiEncoderModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(loaded.encode(TEXTS), model.encode(TEXTS))


def test_dtype_and_attention_pass_through_to_the_backbone(tmp_path: Path) -> None:
    _model().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert loaded.backbone.dtype == torch.bfloat16
    assert loaded.backbone.config._attn_implementation == "eager"
    assert loaded.encode(TEXTS).dtype == torch.float32


def test_backbone_from_a_folder_brings_its_tokenizer_when_needed(tmp_path: Path) -> None:
    tiny_backbone().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    in_memory = BiEncoderModel.from_backbone(tiny_backbone(), tiny_tokenizer())
    for backbone in (str(tmp_path), AutoModel.from_pretrained(tmp_path)):
        model = BiEncoderModel.from_backbone(backbone)
        assert model._tokenizer is None
        assert torch.equal(model.encode(TEXTS), in_memory.encode(TEXTS))


def test_a_model_without_tokenizer_saves_and_says_so_when_one_is_needed(tmp_path: Path) -> None:
    BiEncoderModel.from_backbone(tiny_backbone()).save_pretrained(tmp_path)
    loaded = BiEncoderModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no tokenizer could be loaded.*set model\.tokenizer"):
        loaded.encode(TEXTS)
    loaded.tokenizer = tiny_tokenizer()
    assert loaded.encode(TEXTS).shape == (3, 32)


def test_an_adapter_is_saved_alone_and_loads_onto_its_base(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model = _model()
    model.save_pretrained(base)
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    assert weights and all("lora_" in name for name in weights)
    loaded = BiEncoderModel.from_pretrained(base)
    assert (loaded.encode(TEXTS) - model.encode(TEXTS)).abs().max() > 1e-3
    loaded.load_adapter(str(adapter))
    torch.testing.assert_close(loaded.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=1e-6)
