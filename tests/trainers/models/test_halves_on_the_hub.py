"""Half a repo on the Hub is refused in one line that names the file, the repo and the fix."""

import shutil
from pathlib import Path

import pytest

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.families import build
from tests.support.files import write_rows
from tests.support.halves import HALVES
from tests.support.loopback_hub.fixtures import commit
from tests.support.sentence_folders import saved
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.commands.errors import message_of
from trainers.models.load import load_biencoder, load_srlm

OWNER = "ask its owner to save it there whole, or name another revision"
# What is said of each half; of the others the same as of a folder.
SAID = {
    "no config": "'user/half' has no config.json, which says what kind of model it is: ask its owner",
    "a cut config": "config.json of 'user/half' is no JSON",
    "no weights": "'user/half' has no file named model.safetensors: ask its owner",
    "cut weights": "model.safetensors of 'user/half' is truncated, or no safetensors, in the repo itself",
    "empty weights": "model.safetensors of 'user/half' is truncated, or no safetensors, in the repo itself",
    "a pointer": "model.safetensors of 'user/half' is a pointer of Git LFS and not the file, in the repo itself",
    "a pickle": "'user/half' has no file named model.safetensors: pytorch_model.bin is a pickle",
    "no tokenizer": "no tokenizer could be loaded from 'user/half': it has no tokenizer.json",
    "no vocabulary": "no tokenizer could be loaded from 'user/half': it has no tokenizer.json",
    "a cut tokenizer": "tokenizer.json of 'user/half' is no JSON",
    "no folder of a module": "'user/half' has no 1_Pooling/config.json, which its modules.json asks for",
    "a cut module": "1_Pooling/config.json of 'user/half' is no JSON",
    "no folder of the backbone": "'user/half' has no 0_Transformer/config.json, which its modules.json asks for",
}
LOADS = {
    "from_backbone": BiEncoderModel.from_backbone,
    "load_biencoder": load_biencoder,
    "from_components": lambda repo: SelfRetrievalLM.from_components("lm", retriever=repo),
}


@pytest.fixture
def put(hub, tmp_path, monkeypatch):
    """Sends a spoiled copy of a folder to `user/half`."""
    monkeypatch.chdir(tmp_path)

    def send(spoil, folder):
        shutil.copytree(folder, "half")
        spoil(Path("half"))
        commit(hub, "user/half", Path("half"))

    return send


def said(load) -> str:
    """The one line that a command would end with."""
    with pytest.raises((OSError, ValueError)) as caught:
        load()
    line = message_of(caught.value)
    assert line is not None and "\n" not in line and "hf_home" not in line
    return line


@pytest.mark.cases(2)
@pytest.mark.parametrize("half", HALVES)
def test_of_a_sentence_transformers_model(half, put):
    saved(Path("model"))
    tiny_backbone().save_pretrained("lm")
    tiny_tokenizer().save_pretrained("lm")
    put(HALVES[half][0], "model")
    for name, load in LOADS.items():
        assert SAID[half] in said(lambda load=load: load("user/half")), name


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "family", [BiEncoderModel, LlaraForPreTraining, SelfRetrievalLM], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("half", [name for name in SAID if "module" not in name and "backbone" not in name])
def test_of_a_repo_of_ours(half, family, put):
    name = {BiEncoderModel: "biencoder", LlaraForPreTraining: "llara", SelfRetrievalLM: "srlm"}[family]
    build(name).save_pretrained("whole")
    put(HALVES[half][0], "whole")
    assert SAID[half] in said(lambda: family.from_pretrained("user/half").tokenizer)


def test_a_shard_that_is_not_there(put):
    tiny_backbone().save_pretrained("shards", max_shard_size="50KB")
    tiny_tokenizer().save_pretrained("shards")
    lost = sorted(Path("shards").glob("model-*.safetensors"))[1].name
    put(lambda folder: (folder / lost).unlink(), "shards")
    for load in (lambda: load_biencoder("user/half", pooling="mean"), lambda: load_srlm("user/half", {})):
        line = said(load)
        assert f"'user/half' has no file named {lost}, which its model.safetensors.index.json names" in line
        assert OWNER in line


SHAPES = ["[]", "{", '{"weight_map": ["a"], "metadata": {}}', '{"weight_map": {"a": "model-1.safetensors"}}']


@pytest.mark.cases(2)
@pytest.mark.parametrize("text", SHAPES)
@pytest.mark.parametrize("road", ["from_pretrained", "from_backbone", "a variant"])
def test_an_index_of_another_shape(put, road, text):
    model, variant = build("biencoder"), "fp16" if road == "a variant" else None
    name = f"model.safetensors.index.{variant}.json" if variant else "model.safetensors.index.json"
    (model.backbone if road == "from_backbone" else model).save_pretrained("shards", variant=variant)
    model.tokenizer.save_pretrained("shards")
    next(Path("shards").glob("model.*")).rename("shards/model-1.safetensors")
    Path("shards", name).write_text(text)
    put(lambda folder: None, "shards")
    load = BiEncoderModel.from_backbone if road == "from_backbone" else BiEncoderModel.from_pretrained
    line = said(lambda: load("user/half", variant=variant))
    assert f"{name} of 'user/half' " in line and OWNER in line


def test_a_repo_that_is_not_there_is_said_as_before(hub):
    assert "user/none" in said(lambda: load_biencoder("user/none"))
    assert "user/none" in said(lambda: BiEncoderModel.from_pretrained("user/none"))


def test_an_adapter_alone_has_its_own_word(put):
    write_rows(Path("adapter_config.json"), [{"base_model_name_or_path": "user/base", "peft_type": "LORA"}])
    Path("lora").mkdir()
    shutil.move("adapter_config.json", "lora/adapter_config.json")
    put(lambda folder: None, "lora")
    assert "has no config.json" not in said(lambda: BiEncoderModel.from_pretrained("user/half"))
