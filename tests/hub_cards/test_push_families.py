"""`push_to_hub` and `save_pretrained(push_to_hub=True)` of every family send a complete repo with our own card."""

import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import PreTrainedModel

from hub_cards import write_card
from tests.support.families import build
from tests.support.loopback_hub.fixtures import commit, read

FILES = {
    "biencoder": {"modeling_biencoder.py", "repository_biencoder.py", "pooling_biencoder.py"},
    "llara": {"modeling_llara.py", "repository_llara.py", "masking_llara.py"},
    "srlm": {"modeling_srlm.py", "repository_srlm.py", "tokenizers_srlm.py", "retriever_tokenizer/tokenizer.json"},
}
ALWAYS = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def send(model: PreTrainedModel, way: str, folder: Path, **keywords):
    if way == "push_to_hub":
        return model.push_to_hub("user/repo", **keywords)
    model.save_pretrained(folder, push_to_hub=True, repo_id="user/repo", **keywords)
    return None


@pytest.mark.cases(2)
@pytest.mark.parametrize("way", ["save_pretrained", "push_to_hub"])
@pytest.mark.parametrize("family", FILES)
def test_a_complete_repo_with_our_card_is_sent(hub, family, way, tmp_path):
    model = build(family)
    made = send(
        model, way, tmp_path / "saved", commit_message="first", private=True, revision="next", token="hf_write"
    )
    repo = hub.repos["user/repo"]
    assert made is None if way == "save_pretrained" else made.oid == repo.branches["next"]
    assert ALWAYS | FILES[family] <= set(repo.files("next"))
    assert repo.private and repo.at("next").title == "first" and repo.files("main") == {}
    card = ModelCard(read(hub, "README.md", revision="next"))
    assert "lookback" in card.data.tags and 'from_pretrained("user/repo"' in card.text and "\n# repo\n" in card.text


def test_the_folders_name_is_the_default(hub, tmp_path):
    build("llara").save_pretrained(tmp_path / "adapted", push_to_hub=True)
    assert list(hub.repos) == ["user/adapted"]
    assert 'from_pretrained("user/adapted"' in read(hub, "README.md", "user/adapted")  # with the owner, as all need it


def test_what_a_person_wrote_on_the_hub_stays(hub, tmp_path):
    model = build("biencoder")
    on_hub = write_card(model, tmp_path, repo_id="user/repo")
    commit(hub, "user/repo", README__md=on_hub.read_text() + "\nWritten on the Hub.\n")
    model.push_to_hub("user/repo")
    assert "Written on the Hub." in read(hub, "README.md")


def test_saving_alone_sends_nothing(hub, tmp_path):
    build("llara").save_pretrained(tmp_path, commit_message="not sent")
    assert not hub.seen


@pytest.mark.parametrize("revision", [None, "next"])
def test_remote_code_without_lookback_pushes_by_the_hub_client(hub, revision, monkeypatch):
    model = build("llara")
    monkeypatch.setitem(sys.modules, "hub_cards", None)  # importing it raises ImportError
    model.push_to_hub("user/repo", commit_message="first", revision=revision)
    repo = hub.repos["user/repo"]
    names = set(repo.files(revision or "main"))
    assert names >= (ALWAYS | FILES["llara"]) - {"README.md"} and "README.md" not in names
    assert [one.title for one in repo.history(revision or "main")] == ["first", "initial commit"]
