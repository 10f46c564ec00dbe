"""An index that names pickles, or files outside of the folder, is refused before any weights are opened."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.families import build
from tests.support.loopback_hub.fixtures import commit
from tests.support.tiny import tiny_backbone, tiny_tokenizer

FAMILIES = ("biencoder", "llara", "srlm")
NAMES = ("shard.bin", "../outside/m.safetensors", "/tmp/m.safetensors", "sub/m.safetensors", "..\\m.safetensors")


def sharded(folder: Path, model) -> Path:
    model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def with_shard(folder: Path, name: str, monkeypatch) -> Path:
    """The folder with another name for one of its shards, under which the shard is there, too, or a pickle."""
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    one = sorted(set(index["weight_map"].values()))[0]
    index["weight_map"] = {key: name if value == one else value for key, value in index["weight_map"].items()}
    file.write_text(json.dumps(index))
    if not Path(name).is_absolute() and "\\" not in name:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / one, folder / name)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    return folder


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_our_families_refuse_foreign_shards(tmp_path, monkeypatch, family, name):
    folder = with_shard(sharded(tmp_path / "repo", build(family)), name, monkeypatch)
    kind = AutoModelForCausalLM if family == "srlm" else AutoModel
    with pytest.raises(ValueError, match=r"index\.json names .* must be safetensors in the same folder"):
        kind.from_pretrained(folder)


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", NAMES[:2])
def test_backbones_and_retrievers_with_foreign_shards_are_refused(tmp_path, monkeypatch, name):
    plain = with_shard(sharded(tmp_path / "plain", tiny_backbone()), name, monkeypatch)
    for make in (BiEncoderModel.from_backbone, LlaraForPreTraining.from_backbone, SelfRetrievalLM.from_components):
        with pytest.raises(ValueError, match="must be safetensors in the same folder"):
            make(str(plain), tokenizer=tiny_tokenizer())
    retriever = with_shard(sharded(tmp_path / "retriever", build("biencoder")), name, monkeypatch)
    with pytest.raises(ValueError, match="must be safetensors in the same folder"):
        SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), retriever=str(retriever))


def test_a_pickle_among_the_shards_of_a_repo_on_the_hub_is_not_opened(tmp_path, hub, monkeypatch):
    folder = with_shard(sharded(tmp_path / "repo", build("biencoder")), "shard.bin", monkeypatch)
    commit(hub, "user/repo", folder)
    with pytest.raises(ValueError, match=r"shard\.bin.* must be safetensors"):
        AutoModel.from_pretrained("user/repo")


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_million_layers_are_refused_in_no_time(tmp_path, family):
    build(family).save_pretrained(tmp_path)
    for part in ("text_config", "retriever_config") if family == "srlm" else ("text_config",):
        config = json.loads((tmp_path / "config.json").read_text())
        config[part]["num_hidden_layers"] = 1_000_000
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"{part} asks for 1000000 layers"):
            AutoConfig.from_pretrained(tmp_path)
        config[part]["num_hidden_layers"] = 2
        (tmp_path / "config.json").write_text(json.dumps(config))
