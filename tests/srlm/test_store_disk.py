"""The store of states on a disk that is full, or has no folder for it."""

import os
import tempfile
from errno import ENOSPC

import pytest
import torch

from modeling_srlm import slabs_srlm
from tests.support.faults.disks import SIZE, mounted
from tests.support.reuse import build
from tests.support.srlm import ByteCounter
from tests.support.tiny import random_ids


def small_slabs(monkeypatch) -> None:
    monkeypatch.setattr(slabs_srlm, "SLAB_BYTES", 2**16)  # so that a short text needs more than one


def on_disk(**settings):
    return build(retrieval_method="bm25", retriever=ByteCounter(), store_place="disk", **settings)


@pytest.mark.cases(1)
@pytest.mark.parametrize("call", ["forward", "generate", "score_candidates"])
def test_a_full_disk_is_said_and_harms_nothing(monkeypatch, tmp_path, call):
    small_slabs(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, ids = on_disk(), random_ids(1, 500)
    calls = {
        "forward": lambda: model(ids, labels=ids).loss,
        "generate": lambda: model.generate(ids, max_new_tokens=3),
        "score_candidates": lambda: model.score_candidates(ids, labels=ids),
    }
    with torch.no_grad():
        wanted = calls[call]()
        model._kept_states = None
        take = os.posix_fallocate

        def full_at_the_second(handle, start, size):
            if start:
                raise OSError(ENOSPC, "No space left on device")
            take(handle, start, size)

        monkeypatch.setattr(os, "posix_fallocate", full_at_the_second)
        with pytest.raises(OSError, match=rf"the store of states has \d+ bytes in '{tmp_path}'.*set TMPDIR"):
            calls[call]()
        monkeypatch.setattr(os, "posix_fallocate", take)
        assert torch.equal(calls[call](), wanted)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    model = on_disk()
    with pytest.raises(OSError, match=r"store_place='disk' cannot write .*gone.*set TMPDIR"):
        model.generate(random_ids(1, 300), max_new_tokens=3)


@pytest.mark.faults
def test_a_disk_that_is_really_full(monkeypatch, tmp_path):
    with mounted(tmp_path / "small") as problem:
        if problem is not None:
            pytest.skip(f"a file system may not be mounted here: {problem}")
        small_slabs(monkeypatch)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
        (tmp_path / "small" / "others").write_bytes(bytes(SIZE - 2**18))
        model = on_disk()
        with torch.no_grad():
            short = model(random_ids(1, 200)).logits
            with pytest.raises(OSError, match="set TMPDIR"):
                model(random_ids(1, 2_000))
            assert torch.equal(model(random_ids(1, 200)).logits, short)
