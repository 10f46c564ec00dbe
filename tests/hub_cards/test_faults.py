"""A push or a pull that breaks off: tried again where that is safe, else an error that says what holds now."""

import logging
import socket
import struct

import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from hub_cards import TransferError, pull, push, write_card
from tests.support.cards import EMPTY, PERSON, fake_model
from tests.support.loopback_hub import Fault
from tests.support.loopback_hub.fixtures import commit, quicken, read

REPO = "user/name"
BUSY = {"status": 429, "headers": {"Retry-After": "7"}}


def head(hub) -> str:
    return hub.repos[REPO].branches["main"]


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "path", ["/repos/create", "/branch/", "^/api/models/user/name", "/preupload/", "/lfs/", "/commit/"]
)
@pytest.mark.parametrize("fault", [{"close": True}, {"status": 500}, BUSY, {"lose_answer": True}, {"delay": 0.1}])
def test_a_push_that_breaks_off_once_is_tried_again(hub, saved, path, fault):
    hub.faults = [Fault(path, **fault)]
    made = push(saved, REPO, revision="next")
    assert not hub.faults[0].times
    repo = hub.repos[REPO]
    assert repo.branches["next"] == made.oid and "model.safetensors" in repo.files("next")
    assert len(repo.history("next")) == 2  # the first commit and ours, once


def test_a_hub_that_asks_for_more_than_five_minutes_is_not_waited_for(hub, saved, monkeypatch):
    waits = quicken(monkeypatch)
    hub.faults = [Fault("/repos/create", status=429, headers={"Retry-After": "301"})]
    with pytest.raises(TransferError, match="failed 1 times"):
        push(saved, REPO)
    assert waits == []


def test_waits_grow_or_are_as_long_as_the_hub_asks(hub, saved, monkeypatch, caplog):
    waits = quicken(monkeypatch)
    hub.faults = [Fault("/repos/create", times=2, status=503), Fault("/repos/create", **BUSY)]
    push(saved, REPO)
    assert waits == [1.0, 2.0, 7.0]


@pytest.mark.cases(2)
@pytest.mark.parametrize("status", [429, 500, 501, 507, 522, 529])
def test_a_push_is_tried_five_times(hub, saved, monkeypatch, status):
    waits = quicken(monkeypatch)
    hub.faults = [Fault("/commit/", times=4, status=status)]
    push(saved, REPO)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    hub.faults = [Fault("/commit/", times=5, status=status)]
    (saved / "new.txt").write_text("")
    with pytest.raises(TransferError):
        push(saved, REPO)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "path", ["/repos/create", "^/api/models/user/name$", "/validate-yaml", "/preupload/", "/lfs/", "/commit/"]
)
@pytest.mark.parametrize("fault", [{"close": True}, {"status": 500}])
def test_a_push_that_keeps_breaking_off_changes_nothing(hub, saved, path, fault):
    first = commit(hub, REPO, notes__txt="as it was")
    hub.faults = [Fault(path, times=10**6, **fault)]
    with pytest.raises(TransferError, match=REPO):
        push(saved, REPO)
    assert head(hub) == first and set(hub.repos[REPO].files()) == {"notes.txt"}
    hub.faults = []
    push(saved, REPO)
    assert "model.safetensors" in hub.repos[REPO].files()


def test_what_has_arrived_is_not_sent_twice(hub, saved):
    sizes = {"a": 70_000, "b": 80_000}
    for name, size in sizes.items():
        content = b'{"__metadata__": {"x": "%s"}}' % (name.encode() * size)
        (saved / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(content)) + content)

    def sent() -> int:
        return sum(seen.method == "PUT" for seen in hub.seen)

    hub.faults = [Fault("/commit/", times=10**6, status=503)]
    with pytest.raises(TransferError, match="is not sent twice"):
        push(saved, REPO)
    assert sent() == 3  # with the model's own weights
    hub.faults = []
    push(saved, REPO)
    assert sent() == 3 and "b.safetensors" in hub.repos[REPO].files()


def test_many_files_are_one_commit(hub, saved):
    """The client's own upload_folder makes several where there are many or Xet is in use."""
    for number in range(300):
        (saved / f"part{number}.txt").write_text(str(number))
    push(saved, REPO)
    assert len(hub.repos[REPO].history()) == 2 and len(hub.repos[REPO].files()) == 305


def test_a_commit_of_somebody_else_in_between_is_built_upon(hub, saved):
    push(saved, REPO)
    (saved / "config.json").write_text('{"new": 1}')
    original = hub.repos[REPO].commit
    card = read(hub, "README.md", REPO) + PERSON

    def late(*arguments):
        hub.repos[REPO].commit = original
        commit(hub, REPO, README__md=card, theirs__txt="theirs")
        return original(*arguments)

    hub.repos[REPO].commit = late
    push(saved, REPO)
    files = hub.repos[REPO].files()
    assert files["config.json"] == b'{"new": 1}' and files["theirs.txt"] == b"theirs"
    assert PERSON in read(hub, "README.md", REPO)


def test_a_pull_request_is_not_opened_twice(hub, saved):
    commit(hub, REPO, notes__txt="")
    hub.faults = [Fault("/commit/", lose_answer=True)]
    with pytest.raises(TransferError, match="broke off"):
        push(saved, REPO, create_pr=True)
    assert [name for name in hub.repos[REPO].branches if "pr" in name] == ["refs/pr/1"]
    assert push(saved, REPO, create_pr=True).pr_revision == "refs/pr/2"


def test_a_pull_request_to_a_branch_builds_upon_that_branch(hub, saved):
    first = commit(hub, REPO, notes__txt="")
    push(saved, REPO, revision="next")
    card = ModelCard(read(hub, "README.md", REPO, "next"))
    hub.repos[REPO].branches["main"] = first
    card.text += f"\n{PERSON}\n"
    HfApi().upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=REPO, revision="next")
    (saved / "new.txt").write_text("new")
    push(saved, REPO, revision="next", create_pr=True)
    assert PERSON in read(hub, "README.md", REPO, "refs/pr/1") and head(hub) == first


def test_a_card_that_cannot_be_read_is_not_overwritten(hub, saved, tmp_path):
    theirs = write_card(fake_model(), tmp_path / "hub").read_text() + PERSON
    commit(hub, REPO, README__md=theirs)
    hub.faults = [Fault("/resolve/.*README", times=10**6, status=503)]
    with pytest.raises(TransferError, match="reading the card"):
        push(saved, REPO)
    assert read(hub, "README.md", REPO) == theirs
    hub.faults = [Fault("/resolve/.*README", times=2, status=503)]
    push(saved, REPO)
    assert PERSON in read(hub, "README.md", REPO)


@pytest.mark.parametrize("token", ["hf_read", "hf_other", "hf_wrong"])
def test_a_token_that_may_not_write_is_refused_at_once(hub, saved, token):
    first = commit(hub, REPO, notes__txt="")
    with pytest.raises(HfHubHTTPError, match=r"40[13]"):
        push(saved, REPO, token=token)
    assert head(hub) == first and not hub.writes()


@pytest.mark.cases(2)
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("fault", [{"cut": 1}, {"corrupt": True}, {"close": True}, BUSY])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pull_with_one_bad_file_gets_it_right_or_names_it(hub, saved, tmp_path, name, fault, local):
    own = b'{"__metadata__": {"content": "its own, as equal files are fetched once"}}'
    (saved / name).write_bytes(struct.pack("<Q", len(own)) + own if name == "model.safetensors" else own)
    commit(hub, REPO, saved)
    path = "/lfs/" if name == "model.safetensors" else f"/resolve/.*{name}"
    where = {"local_dir": tmp_path / "here"} if local else {}
    hub.faults = [Fault(path, "GET", **fault)]
    folder = pull(REPO, **where)
    assert (folder / name).read_bytes() == (saved / name).read_bytes() and not hub.faults[0].times
    hub.faults = [Fault(path, "GET", times=10**6, **fault)]
    other = {"local_dir": tmp_path / "there"} if local else {"cache_dir": tmp_path / "cache"}
    with pytest.raises(TransferError, match=f"'{name}' of '{REPO}'"):
        pull(REPO, **other)
    assert not [path for path in tmp_path.rglob(name) if path.parent.name != "saved" and "here" not in path.parts]


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(hub, saved):
    commit(hub, REPO, saved)
    path = pull(REPO) / "model.safetensors"
    path.write_text("[]")
    assert (pull(REPO) / "model.safetensors").read_bytes() == EMPTY


def test_no_token_in_errors_or_logs(hub, saved, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    errors = []
    for fault in ({"close": True}, {"status": 500}, {"status": 403}, {"status": 401}, {"status": 400}):
        for path in ("/repos/create", "/preupload/", "/lfs/", "/commit/", "/resolve/", "^/api/models"):
            for action in (lambda: push(saved, REPO, token="hf_write"), lambda: pull(REPO, token="hf_write")):
                hub.faults = [Fault(path, times=10**6, **fault)]
                try:
                    action()
                except Exception as error:
                    errors.append(f"{error!r} {error} {error.__cause__!r}")
    output = capfd.readouterr()
    assert len(errors) > 20 and any(seen.authorization == "Bearer hf_write" for seen in hub.seen)
    assert "hf_write" not in "\n".join([*errors, caplog.text, output.out, output.err])
    assert not any(seen.authorization for seen in hub.seen if seen.storage)


def test_a_hub_that_is_not_there(hub, saved, monkeypatch):
    from huggingface_hub import constants

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    with pytest.raises(TransferError, match="failed 5 times"):
        push(saved, REPO)
