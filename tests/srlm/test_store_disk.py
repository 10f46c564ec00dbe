"""The store of states on a disk that is full, or has no folder for it."""

import os
import tempfile
from errno import ENOSPC

import pytest
import torch

from modeling_srlm import slabs_srlm
from modeling_srlm.proof_srlm import proven_states
from modeling_srlm.store_srlm import new_store
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


@pytest.mark.parametrize(("limit", "most"), [("50kB", 50_000), (None, 2**20)])
def test_a_text_takes_what_it_needs_and_no_more_than_it_may(limit, most):
    """Slots of 2 kB, which a file holds in pages."""
    model = on_disk(chunk_size=8, store_limit=limit)
    groups = proven_states(model)
    store = new_store(model.config, groups)
    states = [
        [torch.full((len(group.layers), group.heads, 8, group.key_size), float(number)) for group in groups]
        for number in range(40)
    ]
    chunks = [store.put([(part, part) for part in parts], 0) for parts in states]
    assert 0 < os.fstat(store.slabs.file.fileno()).st_size <= most
    kept = [number for number, chunk in enumerate(chunks) if chunk.slot is not None]
    assert len(kept) == (40 if limit is None else store.limit) and kept[-1] == 39
    for number, (_, ((keys, values),)) in zip(kept, store.get([chunks[number] for number in kept]), strict=True):
        assert (keys == number).all() and (values == number).all()


def test_a_limit_that_a_full_disk_does_not_allow_is_named(monkeypatch):
    def full(handle, start, size):
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"or give a store_limit lower than the 49152 bytes of this one"):
        on_disk(store_limit="50kB").generate(random_ids(1, 300), max_new_tokens=3)


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
