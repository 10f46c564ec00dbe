"""What is loaded is what was asked for: this kind of model, each of its weights, an adapter that fits."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.families import build
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import merge_adapter

CLASSES = {"biencoder": BiEncoderModel, "llara": LlaraForPreTraining, "srlm": SelfRetrievalLM}
TEXTS = ["where is the lantern?", "x"]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


def lacking(folder: Path, copy: Path, part: str) -> Path:
    """A copy of a folder without one of its weights."""
    shutil.copytree(folder, copy)
    (file,) = copy.glob("*.safetensors")
    weights = load_file(file)
    del weights[next(name for name in sorted(weights) if part in name)]
    save_file(weights, file, metadata={"format": "pt"})
    return copy


@pytest.fixture
def saved(tmp_path) -> Path:
    build("biencoder").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapter(base: Path, folder: Path) -> Path:
    model = BiEncoderModel.from_pretrained(base)
    model.add_adapter(LoraConfig(**LORA))
    model.save_pretrained(folder)
    return folder


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("family", CLASSES)
def test_another_kind_of_model_is_named_with_its_door(family, tmp_path):
    build(family).save_pretrained(tmp_path / family)
    tiny_backbone("gpt2").save_pretrained(tmp_path / "gpt2")
    for name, wanted in CLASSES.items():
        if name != family:
            with pytest.raises(ValueError, match=rf"load it with {CLASSES[family].__name__}.from_pretrained"):
                wanted.from_pretrained(tmp_path / family)
    with pytest.raises(ValueError, match=r"is a model of type 'gpt2'.*one is made of it with"):
        CLASSES[family].from_pretrained(tmp_path / "gpt2")


@pytest.mark.parametrize("family", CLASSES)
def test_a_weight_that_is_not_there_is_named(family, tmp_path):
    build(family).save_pretrained(tmp_path / family)
    folder = lacking(tmp_path / family, tmp_path / "lacking", "q_proj")
    with pytest.raises(ValueError, match=r"lacks weights of its model: \S+q_proj.weight"):
        CLASSES[family].from_pretrained(folder)
    _, info = CLASSES[family].from_pretrained(folder, output_loading_info=True)
    assert len(info["missing_keys"]) == 1


def test_a_save_after_the_last_adapter_is_whole(saved, tmp_path):
    model = BiEncoderModel.from_pretrained(saved)
    expected = model.encode(TEXTS)
    model.add_adapter(LoraConfig(**LORA))
    model.delete_adapter("default")
    model.save_pretrained(tmp_path / "out")
    assert difference(BiEncoderModel.from_pretrained(tmp_path / "out").encode(TEXTS), expected) == 0
    wrapped = get_peft_model(model, LoraConfig(**LORA))
    for save in (model.save_pretrained, model.export_sentence_transformers):
        with pytest.raises(ValueError, match="lies in a PeftModel"):
            save(tmp_path / "never")
    assert not (tmp_path / "never").exists()
    wrapped.unload()
    model.save_pretrained(tmp_path / "unloaded")
    assert difference(BiEncoderModel.from_pretrained(tmp_path / "unloaded").encode(TEXTS), expected) == 0


@pytest.mark.cases(1)
@pytest.mark.parametrize("away", [merge_adapter, lambda model: model.delete_adapter(["default"])])
def test_a_save_has_the_models_names_when_an_adapter_was_loaded_and_is_gone(saved, tmp_path, away):
    model = BiEncoderModel.from_pretrained(saved)
    model.load_adapter(str(adapter(saved, tmp_path / "adapter")))
    away(model)
    expected = model.encode(TEXTS)
    model.save_pretrained(tmp_path / "out")
    assert difference(BiEncoderModel.from_pretrained(tmp_path / "out").encode(TEXTS), expected) == 0


def test_a_plain_checkpoint_of_an_adapted_backbone_has_the_backbones_names(tmp_path):
    backbone = tiny_backbone("llama")
    backbone.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    backbone.add_adapter(LoraConfig(**LORA))
    backbone.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    backbone.save_pretrained(tmp_path / "adapter")
    LlaraForPreTraining.from_backbone(str(tmp_path / "adapter")).save_backbone(tmp_path / "out")
    names = [load_file(tmp_path / folder / "model.safetensors").keys() for folder in ("base", "out")]
    assert names[0] == names[1]


def test_several_adapters_under_any_name(saved, tmp_path):
    folder = adapter(saved, tmp_path / "adapter")
    model = BiEncoderModel.from_pretrained(saved)
    model.load_adapter(str(folder))
    expected = model.encode(TEXTS)
    for name in ("en", "weight", "q_proj"):  # all of them parts of the names of weights
        model.load_adapter(str(folder), adapter_name=name)
        assert model.active_adapters() == [name] and difference(model.encode(TEXTS), expected) == 0


def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was(saved, tmp_path):
    folder = adapter(saved, tmp_path / "adapter")
    half = lacking(folder, tmp_path / "half", "lora_A")
    model = BiEncoderModel.from_pretrained(saved)
    plain = model.encode(TEXTS)
    with pytest.raises(ValueError, match=r"does not fit: '\S+lora_A.second.weight'"):
        model.load_adapter(str(half), adapter_name="second")
    assert difference(model.encode(TEXTS), plain) == 0 and not model._hf_peft_config_loaded
    assert all(weight.requires_grad for weight in model.parameters())
    model.load_adapter(str(folder), adapter_name="first")
    expected = model.encode(TEXTS)
    with pytest.raises(ValueError, match="does not fit"):
        model.load_adapter(str(half), adapter_name="second")
    assert difference(model.encode(TEXTS), expected) == 0 and list(model.peft_config) == ["first"]


REFUSED = {
    "no keyword 'max_shard_sise': did you mean 'max_shard_size'": {"max_shard_sise": "1KB"},
    "would write a pickle": {"safe_serialization": False},
    "max_shard_size=0 must be at least 1": {"max_shard_size": 0},
    "no keyword 'tags'": {"tags": ["a"], "push_to_hub": True},
}


@pytest.mark.parametrize("said", REFUSED)
def test_keywords_of_a_save_work_or_are_refused(said, tmp_path):
    with pytest.raises(ValueError, match=said):
        build("llara").save_pretrained(tmp_path / "never", **REFUSED[said])
    assert not (tmp_path / "never").exists()


def test_a_save_names_its_folder(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="names no folder"):
        build("llara").save_pretrained("")
