"""What is saved and sent names no folder of the machine; an adapter keeps its base's folder here alone."""

import json

import pytest
from peft import LoraConfig

from hub_cards.transfer.folder_names import warn_of_local_base, without_folder_names
from hub_cards.travelling.saving import is_folder
from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import add_adapter

SIZES = {"context_window_size": 32, "chunk_size": 8}


def from_folders(family, folder):
    """A model of the family whose parts were all loaded from folders, and which was itself saved and loaded once."""
    tiny_backbone(lm_head=family != "biencoder").save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    lm = str(folder / "lm")
    if family == "biencoder":
        model = BiEncoderModel.from_backbone(lm, pooling="mean")
    elif family == "llara":
        model = LlaraForPreTraining.from_backbone(lm)
    else:
        BiEncoderModel.from_backbone(lm, pooling="mean").save_pretrained(folder / "retriever")
        model = SelfRetrievalLM.from_components(lm, retriever=str(folder / "retriever"), **SIZES)
    model.save_pretrained(folder / "first")
    return type(model).from_pretrained(folder / "first")


def named_in(folder, what):
    """The text files below a folder that hold `what`."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert files
    return [path.relative_to(folder).as_posix() for path in files if str(what) in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
def test_no_saved_file_names_a_folder(tmp_path, family):
    model = from_folders(family, tmp_path)
    model.save_pretrained(tmp_path / "again")
    assert named_in(tmp_path / "first", tmp_path) == named_in(tmp_path / "again", tmp_path) == []
    if family == "llara":
        model.save_backbone(tmp_path / "backbone")
        assert named_in(tmp_path / "backbone", tmp_path) == []
    if family == "biencoder":
        model.export_sentence_transformers(tmp_path / "exported")
        assert named_in(tmp_path / "exported", tmp_path) == []


@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
def test_an_adapter_names_its_base_here_and_not_where_it_is_sent(tmp_path, family, caplog):
    model = from_folders(family, tmp_path)
    add_adapter(model, LoraConfig(r=4))
    model.save_pretrained(tmp_path / "run")
    assert named_in(tmp_path / "run", tmp_path) == ["adapter_config.json"]  # it loads by its folder alone
    warn_of_local_base(tmp_path / "run")
    assert "lookback merge" in caplog.text and str(tmp_path / "first") in caplog.text
    files = {path.relative_to(tmp_path / "run").as_posix(): path for path in (tmp_path / "run").rglob("*.*")}
    sent = without_folder_names(files, tmp_path / "place")
    assert sent.keys() == files.keys()
    for name, path in sent.items():
        assert name.endswith(".safetensors") or str(tmp_path) not in path.read_text(encoding="utf-8")
    assert json.loads(sent["adapter_config.json"].read_text())["base_model_name_or_path"] is None


def test_a_checkpoint_that_is_sent_names_its_best_one_without_folders(tmp_path):
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"best_model_checkpoint": str(tmp_path / "checkpoint-3"), "global_step": 4}))
    sent = without_folder_names({"last-checkpoint/trainer_state.json": state}, tmp_path / "place")
    content = json.loads(sent["last-checkpoint/trainer_state.json"].read_text())
    assert content == {"best_model_checkpoint": "checkpoint-3", "global_step": 4}
    assert str(tmp_path) in state.read_text()


def test_ids_of_repos_stay(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "lm").mkdir(parents=True)
    names = {
        "gpt2": False,
        "user/model.v1": False,
        "out/lm": True,
        "/a/b": True,
        "./a": True,
        "~/a": True,
        "a/b/c": True,
    }
    assert {name: is_folder(name) for name in names} == names
    files = {}
    for name, content in {
        "config.json": {"text_config": {"_name_or_path": "user/model"}},
        "adapter_config.json": {"base_model_name_or_path": "user/model"},
    }.items():
        files[name] = tmp_path / name
        files[name].write_text(json.dumps(content))
    assert without_folder_names(files, tmp_path / "place") == files
    warn_of_local_base(tmp_path)
    assert not caplog.text
