"""`lookback push` and `lookback pull`, against the loopback Hub."""

import sys

import pytest

from tests.support.loopback_hub.fixtures import commit
from trainers import cli


@pytest.fixture
def lookback(monkeypatch):
    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lookback", *arguments])
        cli.main()

    return call


def test_push(lookback, hub, saved, capsys):
    lookback("push", "--folder", str(saved), "--repo_id", "user/name", "--private", "--revision", "next")
    repo = hub.repos["user/name"]
    assert repo.private and {"README.md", "model.safetensors"} <= set(repo.files("next"))
    assert capsys.readouterr().out == f"{hub.endpoint}/user/name/commit/{repo.branches['next']}\n"
    lookback("push", "--folder", str(saved), "--repo_id", "user/open")
    assert not hub.repos["user/open"].private


def test_pull(lookback, hub, saved, capsys, tmp_path):
    commit(hub, "user/name", saved)
    lookback("pull", "--repo_id", "user/name", "--revision", "main", "--local_dir", str(tmp_path / "here"))
    assert (tmp_path / "here" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()
    assert capsys.readouterr().out == f"{tmp_path / 'here'}\n"


def test_what_is_refused_is_said_without_a_traceback(lookback, hub, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        lookback("push", "--folder", str(tmp_path / "missing"), "--repo_id", "user/name")
    assert ended.value.code == 2 and "is no folder" in capsys.readouterr().err
    assert not hub.seen
    with pytest.raises(SystemExit):
        lookback("pull", "--repo_id", "user/missing")
    assert "Repository Not Found" in capsys.readouterr().err
