"""Push and pull against a stand-in for the Hub client: what would be sent, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from hub_cards import pull, push, transfer, write_card
from tests.test_hub_cards import PERSON, fake_model


class StandIn:
    """Records the calls; `files` is what the repo holds, `sent` what an upload would carry."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.calls: list[tuple[str, dict]] = []
        self.sent: dict[str, str] = {}

    def create_repo(self, api, repo_id, **kwargs):
        self.calls.append(("create_repo", {"repo_id": repo_id, "token": api.token, **kwargs}))
        return SimpleNamespace(repo_id=repo_id)

    def create_branch(self, api, repo_id, **kwargs):
        self.calls.append(("create_branch", {"repo_id": repo_id, **kwargs}))

    def upload_folder(self, api, folder_path, ignore_patterns, **kwargs):
        folder = Path(folder_path)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        names = filter_repo_objects(names, ignore_patterns=ignore_patterns)
        self.sent = {name: (folder / name).read_text(errors="replace") for name in names}
        self.calls.append(("upload_folder", kwargs))
        return SimpleNamespace(oid="abc", commit_url=f"https://hub/{kwargs['repo_id']}/commit/abc")

    def hf_hub_download(self, repo_id, filename, **kwargs):
        if filename not in self.files:
            raise EntryNotFoundError(f"no {filename}")
        return self.files[filename]

    def model_info(self, api, repo_id, revision=None):
        return SimpleNamespace(sha="abc123", siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, repo_id, revision, allow_patterns, ignore_patterns, **kwargs):
        self.sent = dict.fromkeys(
            filter_repo_objects(self.files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns), revision
        )
        return "/cache/snapshot"


@pytest.fixture
def hub(monkeypatch):
    stand_in = StandIn()
    for name in ("create_repo", "create_branch", "upload_folder", "model_info"):
        method = getattr(stand_in, name)
        monkeypatch.setattr(HfApi, name, lambda api, *args, _method=method, **kwargs: _method(api, *args, **kwargs))
    monkeypatch.setattr(transfer, "hf_hub_download", stand_in.hf_hub_download)
    monkeypatch.setattr(transfer, "snapshot_download", stand_in.snapshot_download)
    return stand_in


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "saved"
    write_card(fake_model(), folder)
    for name in ("config.json", "model.safetensors", "modeling_biencoder.py", "retriever/tokenizer.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def test_push_sends_the_model_without_what_a_training_left(hub, saved):
    for name in ("training_args.bin", "checkpoint-8/optimizer.pt", "checkpoint-8/config.json", "runs/events"):
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_text("x")
    commit = push(saved, "user/name", private=True, revision="next", token="secret")
    assert commit.oid == "abc"
    assert set(hub.sent) == {
        "README.md", "config.json", "model.safetensors", "modeling_biencoder.py", "retriever/tokenizer.json",
    }  # fmt: skip
    calls = dict(hub.calls)
    assert calls["create_repo"] == {"repo_id": "user/name", "token": "secret", "private": True, "exist_ok": True}
    assert calls["create_branch"]["branch"] == "next" and calls["upload_folder"]["revision"] == "next"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.PT", "deep/er/index.pkl", "a.pth", "b.ckpt"])
def test_a_pickle_is_refused_both_ways_before_anything_moves(hub, saved, name):
    (saved / name).parent.mkdir(parents=True, exist_ok=True)
    (saved / name).write_text("x")
    with pytest.raises(ValueError, match=rf"{name}.*safetensors"):
        push(saved, "user/name")
    hub.files = {"config.json": "", name: ""}
    with pytest.raises(ValueError, match=rf"user/name.*{name}.*safetensors"):
        pull("user/name")
    assert not hub.calls and not hub.sent


def test_a_folder_without_a_model_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        push(tmp_path, "user/name")
    with pytest.raises(ValueError, match="is no folder"):
        push(tmp_path / "missing", "user/name")
    with pytest.raises(TypeError, match="source is a int"):
        push(3, "user/name")
    assert not hub.calls


def test_pull_fetches_known_formats_of_one_commit(hub):
    names = (
        "config.json",
        "model-00001-of-00002.safetensors",
        "modeling_srlm.py",
        "retriever/tokenizer.json",
        "README.md",
    )
    hub.files = dict.fromkeys((*names, "training_args.bin", "movie.mp4", "checkpoint-2/model.safetensors"), "")
    assert pull("user/name", revision="main") == Path("/cache/snapshot")
    assert hub.sent == dict.fromkeys(names, "abc123")


def test_push_keeps_what_a_person_wrote_on_the_hub(hub, saved, tmp_path):
    on_hub = write_card(fake_model(), tmp_path / "hub", metrics={"loss": 9.0})
    on_hub.write_text(on_hub.read_text() + f"\n{PERSON}\n")
    hub.files = {"README.md": str(on_hub)}
    write_card(fake_model(), saved, metrics={"loss": 1.0})
    push(saved, "user/name")
    assert PERSON in hub.sent["README.md"] and "| loss | 1 |" in hub.sent["README.md"]
    assert [result.metric_value for result in ModelCard(hub.sent["README.md"]).data.eval_results] == [1.0]


def test_a_card_edited_in_the_folder_wins_over_the_one_on_the_hub(hub, saved, tmp_path):
    hub.files = {"README.md": str(write_card(fake_model(), tmp_path / "hub"))}
    (saved / "README.md").write_text((saved / "README.md").read_text() + f"\n{PERSON}\n")
    push(saved, "user/name")
    assert hub.sent["README.md"].rstrip().endswith(PERSON)
