"""Several processes save one model: the first writes, the others take part and leave the folder alone."""

import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from transformers.distributed import DistributedConfig

from hub_cards import push
from modeling_biencoder import BiEncoderModel
from modeling_biencoder import saving_biencoder as saving
from tests.support.families import build

SAVES = {
    "save_pretrained": lambda folder: build("biencoder").save_pretrained(folder),
    "export": lambda folder: build("biencoder").export_sentence_transformers(folder),
    "backbone": lambda folder: build("llara").save_backbone(folder),
}


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)


@pytest.mark.parametrize("what", SAVES)
def test_a_second_process_writes_nothing_and_waits_for_nobody(second_of_two, monkeypatch, tmp_path, what):
    SAVES[what](tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr("modeling_biencoder.locking_biencoder._PATIENCE", -1.0)
    with saving.saved_whole(tmp_path / "saved") as place:  # by the first process
        SAVES[what](tmp_path / "saved")
        assert not list(place.iterdir())
    with pytest.raises(ValueError, match="is a file"):  # else it would wait for the first one, which says this
        SAVES[what](__file__)


def test_a_second_process_sends_nothing(second_of_two, hub):
    model = build("biencoder")
    assert model.push_to_hub("user/repo") is None and push(model, "user/repo") is None and not hub.repos


def _save(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    whole = BiEncoderModel.from_pretrained(Path(folder, "whole")).state_dict()
    for kind in ("tp_size", "fsdp_size"):
        model = BiEncoderModel.from_pretrained(
            Path(folder, "whole"), distributed_config=DistributedConfig(**{kind: 2})
        )
        model.save_pretrained(Path(folder, kind))
        again = BiEncoderModel.from_pretrained(Path(folder, kind)).state_dict()
        assert all(torch.equal(value, again[name]) for name, value in whole.items())
        with pytest.raises(ValueError, match="each process has a share of the weights"):
            model.export_sentence_transformers(Path(folder, "export"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_that_share_out_the_weights_save_them_whole(tmp_path):
    build("biencoder").save_pretrained(tmp_path / "whole")
    multiprocessing.spawn(_save, (str(tmp_path),), nprocs=2)
    saved = [{path.name for path in (tmp_path / name).iterdir()} for name in ("whole", "tp_size", "fsdp_size")]
    assert saved[0] == saved[1] == saved[2] and not (tmp_path / "export").exists()
