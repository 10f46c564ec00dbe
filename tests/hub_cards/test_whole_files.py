"""A file is the former one or the new one, whatever ends the writing."""

import errno
import os
import resource

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hub_cards.whole_files import full_disk_named, written_whole
from tests.support.faults.copies import kill_myself, killed

ONE = torch.ones(1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("former")
    return path


def names(file):
    return sorted(path.name for path in file.parent.iterdir())


def test_the_new_file_takes_the_place_of_the_former_one_at_the_end(file):
    with written_whole(file) as new:
        new.write_text("new")
        assert file.read_text() == "former" and new.parent == file.parent
    assert file.read_text() == "new" and names(file) == ["rows.jsonl"]
    with written_whole(str(file.with_name("first.txt"))) as new:
        new.write_text("1")
    assert names(file) == ["first.txt", "rows.jsonl"]
    with written_whole(file.parent / "new" / "below" / "1.txt") as new:
        new.write_text("2")
    assert (file.parent / "new" / "below" / "1.txt").read_text() == "2"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_former_file_and_nothing_beside_it(file, error):
    with pytest.raises(error), written_whole(file) as new:
        new.write_text("ne")
        raise error
    assert file.read_text() == "former" and names(file) == ["rows.jsonl"]


def test_a_disk_that_is_full_leaves_the_former_file(file):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError), written_whole(file) as new:
            new.write_text("new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == "former" and names(file) == ["rows.jsonl"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_an_error_of_the_system_with_the_name_of_the_file(file, error):
    with pytest.raises(OSError, match="No space left") as raised, written_whole(file):
        raise error
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(file)
    assert names(file) == ["rows.jsonl"]


def test_a_full_disk_is_named_by_the_folder_where_no_file_is(file):
    for error in (OSError(errno.ENOSPC, "No space left"), SafetensorError("I/O error: (os error 28)")):
        with pytest.raises(OSError) as raised, full_disk_named(file.parent):
            raise error
        assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(file.parent)
    with pytest.raises(FileNotFoundError) as raised, full_disk_named(file.parent):
        raise FileNotFoundError(errno.ENOENT, "No such file")
    assert raised.value.filename is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_leaves_the_former_file_and_the_next_writer_writes_over_what_is_left(file):
    def write():
        with written_whole(file) as new:
            new.write_text("half of what is to be written")
            kill_myself()

    killed(write)
    assert file.read_text() == "former" and names(file) == [".rows.jsonl.part", "rows.jsonl"]
    with written_whole(file) as new:
        new.write_text("new")
    assert file.read_text() == "new" and names(file) == ["rows.jsonl"]


def test_it_is_on_the_disk_before_it_has_its_name(file, monkeypatch):
    """A machine that goes down between the two would leave an empty file under the name."""
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append(os.fstat(handle).st_size), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("renamed"), replace(*paths)))
    with written_whole(file) as new:
        new.write_text("new")
    assert steps == [3, "renamed"]


@pytest.mark.parametrize("write", [lambda new: new.write_text("new"), lambda new: save_file({"a": ONE}, new)])
def test_its_permissions_are_those_of_any_new_file(file, write):
    before = os.umask(0o027)
    try:
        with written_whole(file) as new:
            write(new)
        file.with_name("other").write_text("")
    finally:
        os.umask(before)
    assert file.stat().st_mode == file.with_name("other").stat().st_mode
