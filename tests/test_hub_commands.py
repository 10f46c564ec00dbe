"""`lookback push` and `lookback pull`, against the stand-in for the Hub."""

import sys

import pytest

from tests.test_hub_cards_transfer import hub as hub
from tests.test_hub_cards_transfer import saved as saved
from trainers import cli


@pytest.fixture
def lookback(monkeypatch):
    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lookback", *arguments])
        cli.main()

    return call


def test_push(lookback, hub, saved, capsys):
    lookback("push", "--folder", str(saved), "--repo_id", "user/name", "--private", "--revision", "next")
    calls = dict(hub.calls)
    assert calls["create_repo"]["private"] is True and calls["upload_folder"]["revision"] == "next"
    assert {"README.md", "model.safetensors"} <= set(hub.sent)
    assert capsys.readouterr().out == "https://hub/user/name/commit/abc\n"
    lookback("push", "--folder", str(saved), "--repo_id", "user/name")
    assert hub.calls[-2][1]["private"] is None


def test_pull(lookback, hub, capsys):
    hub.files = dict.fromkeys(("config.json", "model.safetensors"), "")
    lookback("pull", "--repo_id", "user/name", "--revision", "main", "--local_dir", "here")
    assert hub.sent == dict.fromkeys(hub.files, "abc123")
    assert capsys.readouterr().out == "/cache/snapshot\n"


def test_what_is_refused_is_said_without_a_traceback(lookback, hub, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        lookback("push", "--folder", str(tmp_path / "missing"), "--repo_id", "user/name")
    assert ended.value.code == 2 and "is no folder" in capsys.readouterr().err
    assert not hub.calls
