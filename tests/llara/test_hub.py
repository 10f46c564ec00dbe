"""Saving and loading: in this process, and as remote code in a fresh one that cannot import Lookback."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig

from modeling_llara import LlaraConfig, LlaraForPreTraining, build_row
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.demo.fresh_process import run_without_lookback

FRESH_PROCESS = """
import torch
import transformers
AUTO = (transformers.AutoModel, transformers.AutoModelForCausalLM, transformers.AutoModelForPreTraining)
for root in sys.argv[1:]:
    folder, resaved = f"{root}/repo", f"{root}/resaved"
    inputs, wanted = torch.load(f"{root}/inputs.pt"), torch.load(f"{root}/wanted.pt")
    for auto_class in AUTO:
        model = auto_class.from_pretrained(folder, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules"), type(model)
        output = model(**inputs, output_logits=True)
        for name, value in wanted.items():
            torch.testing.assert_close(output[name], value, rtol=0, atol=1e-6)
        assert model.tokenizer.convert_ids_to_tokens(model.config.predict_token_ids)[-1] == "<|predict_8|>"
        assert model.generation_config.max_length == 77 and model.to_biencoder()["pooling_k"] == 8
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert config.text_config.model_type == model.backbone.config.model_type
    model.save_pretrained(resaved)  # what came as remote code can be saved and loaded as remote code again
    again = transformers.AutoModel.from_pretrained(resaved, trust_remote_code=True)
    torch.testing.assert_close(again(**inputs).loss, wanted["loss"], rtol=0, atol=1e-6)
    assert len(again.tokenizer) == len(model.tokenizer)
    print("EQUAL")
"""


def saved(folder, family: str = "llama", **config) -> tuple[LlaraForPreTraining, dict, dict]:
    backbone = tiny_backbone(family, **config)
    backbone.generation_config = GenerationConfig(max_length=77, pad_token_id=2)
    model = LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer(), bow_loss_weight=0.2).eval()
    row = build_row(model.config, model.tokenizer("the copper lantern on the island")["input_ids"])
    inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
    inputs |= {"output_summarize_ids": torch.tensor([[9, 30]]), "output_predict_ids": torch.tensor([[40, 2]])}
    with torch.no_grad():
        output = model(**inputs, output_logits=True)
    model.save_pretrained(folder)
    names = ("loss", "ar_loss", "bow_summarize_loss", "bow_predict_loss", "logits")
    return model, inputs, {name: output[name] for name in names}


def test_remote_code_in_a_fresh_process(tmp_path):
    for family, tied in (("llama", False), ("gpt2", True)):
        folder = tmp_path / family
        _, inputs, wanted = saved(folder / "repo", family, tie_word_embeddings=tied)
        torch.save(inputs, folder / "inputs.pt")
        torch.save(wanted, folder / "wanted.pt")
    (tmp_path / "elsewhere").mkdir()
    folders = [tmp_path / family for family in ("llama", "gpt2")]
    printed = run_without_lookback(FRESH_PROCESS, *folders, folder=tmp_path / "elsewhere")
    assert printed.split() == ["EQUAL", "EQUAL"]


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
