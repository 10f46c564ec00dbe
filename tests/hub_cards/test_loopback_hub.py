"""The loopback Hub against the real client: what the client does with the Hub, it does here."""

import time

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from tests.support.loopback_hub import Fault, LoopbackHub, in_process


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        in_process(hub, monkeypatch, tmp_path / "home", token="hf_write")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client's waits between its tries
        yield hub


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "nested").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "nested" / "tokenizer.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


NAMES = {"config.json", "nested/tokenizer.json", "model.safetensors"}


def test_a_folder_goes_up_and_comes_back(hub, folder, tmp_path):
    api = HfApi()
    assert api.whoami()["name"] == "user"
    url = api.create_repo("user/repo")
    assert url.repo_id == "user/repo" and api.create_repo("repo", exist_ok=True).repo_id == "user/repo"
    commit = api.upload_folder(repo_id="user/repo", folder_path=folder, commit_message="first")
    assert set(api.list_repo_files("user/repo")) == NAMES | {".gitattributes"}
    assert api.list_repo_commits("user/repo")[0].commit_id == commit.oid
    pulled = tmp_path / "pulled"
    snapshot_download("user/repo", local_dir=pulled)
    for name in NAMES:
        assert (pulled / name).read_bytes() == (folder / name).read_bytes()
    assert api.verify_repo_checksums("user/repo", local_dir=pulled).mismatches == []
    assert snapshot_download("user/repo", revision=commit.oid).endswith(commit.oid)
    unchanged = api.upload_folder(repo_id="user/repo", folder_path=folder)
    assert unchanged.oid == commit.oid and len(hub.writes()) == 1


def test_commits_branches_tags_and_pull_requests(hub):
    api = HfApi()
    api.create_repo("user/repo")
    first = api.create_commit("user/repo", [CommitOperationAdd("a.json", b"1")], commit_message="a")
    api.create_tag("user/repo", tag="v1")
    api.create_branch("user/repo", branch="next")
    second = api.create_commit("user/repo", [CommitOperationAdd("b/c.safetensors", b"2")], commit_message="b")
    api.delete_file("a.json", "user/repo")
    assert set(hub.repos["user/repo"].files()) == {"b/c.safetensors"}
    assert set(hub.repos["user/repo"].files("v1")) == set(hub.repos["user/repo"].files("next")) == {"a.json"}
    with open(hf_hub_download("user/repo", "a.json", revision="v1"), "rb") as file:
        assert file.read() == b"1"
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        api.create_commit(
            "user/repo", [CommitOperationAdd("d", b"3")], commit_message="late", parent_commit=second.oid
        )
    pull = api.create_commit("user/repo", [CommitOperationAdd("e", b"4")], commit_message="pr", create_pr=True)
    assert pull.pr_revision == "refs/pr/1" and "e" in hub.repos["user/repo"].files("refs/pr/1")
    found = api.list_repo_refs("user/repo")
    assert [branch.name for branch in found.branches] == ["main", "next"] and found.tags[0].target_commit == first.oid
    api.delete_folder("b", "user/repo")
    assert hub.repos["user/repo"].files() == {}
    api.delete_repo("user/repo")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("user/repo")


def test_trees_in_pages_and_paths(hub, folder):
    api, hub.page_size = HfApi(), 2
    api.create_repo("user/repo")
    api.upload_folder(repo_id="user/repo", folder_path=folder)
    assert {entry.path for entry in api.list_repo_tree("user/repo")} == {
        ".gitattributes", "config.json", "model.safetensors", "nested",
    }  # fmt: skip
    assert {entry.path for entry in api.list_repo_tree("user/repo", recursive=True)} >= NAMES
    [weights] = api.get_paths_info("user/repo", ["model.safetensors", "missing"])
    assert weights.size == 10240 and weights.lfs.size == 10240
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("user/repo", "missing")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("user/repo", "config.json", revision="missing")
    found = get_session().get(
        f"{hub.endpoint}/user/repo/resolve/main/model.safetensors",
        headers={"Range": "bytes=3-5"},
        follow_redirects=True,
    )
    assert found.status_code == 206 and found.content == bytes([3, 4, 5])


def test_private_and_gated_repos_and_tokens(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    api = HfApi()
    api.create_repo("user/secret", private=True)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="m.safetensors", repo_id="user/secret")
    assert hf_hub_download("user/secret", "m.safetensors", token="hf_read")
    for token in (False, "hf_other"):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("user/secret", "m.safetensors", token=token, cache_dir="elsewhere")
    with pytest.raises(HfHubHTTPError, match="Invalid"):
        HfApi(token="hf_wrong").model_info("user/secret")
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token="hf_read").upload_file(path_or_fileobj=b"2", path_in_repo="a", repo_id="user/secret")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("other/repo")
    hub.create("other/gated", gated=True)
    with pytest.raises(GatedRepoError):
        hf_hub_download("other/gated", ".gitattributes")
    hub.repos["other/gated"].readers.add("user")
    assert hf_hub_download("other/gated", ".gitattributes")
    assert not any(seen.authorization for seen in hub.seen if seen.storage)


def test_faults(hub, folder):
    api = HfApi()
    api.create_repo("user/repo")
    hub.faults = [
        Fault("/preupload/", status=500), Fault("/lfs/", "PUT", status=429, headers={"Retry-After": "1"}),
        Fault("info/lfs", close=True),
    ]  # fmt: skip
    api.upload_folder(repo_id="user/repo", folder_path=folder)  # each tried again by the client
    assert len(hub.writes()) == 1 and not any(fault.times for fault in hub.faults)
    hub.faults = [Fault("/commit/", lose_answer=True)]
    with pytest.raises(Exception, match="disconnected"):
        api.delete_file("config.json", "user/repo")
    assert "config.json" not in hub.repos["user/repo"].files()
    hub.faults = [Fault("/lfs/", "GET", cut=100)]
    with open(hf_hub_download("user/repo", "model.safetensors"), "rb") as file:  # resumed from there
        assert file.read() == (folder / "model.safetensors").read_bytes()
    hub.faults = [Fault("/lfs/", "GET", corrupt=True)]
    with open(hf_hub_download("user/repo", "model.safetensors", force_download=True), "rb") as file:
        assert file.read() != (folder / "model.safetensors").read_bytes()
