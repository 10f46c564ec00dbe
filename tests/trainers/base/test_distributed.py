"""Two gloo processes train as one does: run by `torchrun`, the way a user would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer

from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import CHATS, DOCUMENTS, PAIRS, PASSAGES, arguments, assert_same_weights, weights


def train(kind: str, folder: Path, batch_size: int, **sharding: Any) -> Trainer:
    """A Trainer after two steps of plain SGD."""
    from modeling_biencoder import BiEncoderModel
    from modeling_llara import LlaraForPreTraining
    from modeling_srlm import SelfRetrievalLM
    from trainers import (  # fmt: skip
        BiEncoderTrainer,
        BiEncoderTrainingArguments,
        LlaraTrainer,
        LlaraTrainingArguments,
        SelfRetrievalTrainer,
        SelfRetrievalTrainingArguments,
    )

    torch.set_num_threads(1)
    settings = {"per_device_train_batch_size": batch_size, "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 2}
    settings |= {"learning_rate": 0.1, "gradient_accumulation_steps": 2, **sharding}
    if kind in ("llara", "llara_learned"):
        args = arguments(LlaraTrainingArguments, folder, max_length=128, **settings)
        weighting = "fixed" if kind == "llara" else "uncertainty"
        model = LlaraForPreTraining.from_backbone(tiny_backbone("llama"), tiny_tokenizer(), loss_weighting=weighting)
        trainer = LlaraTrainer(model, args, PASSAGES)
    elif kind in ("documents", "chats", "kept_states"):
        args = arguments(SelfRetrievalTrainingArguments, folder, document_length=96, target_size=16, **settings)
        model = SelfRetrievalLM.from_components(
            tiny_backbone(), tiny_tokenizer(), retrieval_method="bm25", context_window_size=32, chunk_size=8,
            reuse_states=kind == "kept_states",
        )  # fmt: skip
        # With kept states a row of DOCUMENTS has two blocks that are scored, or one.
        trainer = SelfRetrievalTrainer(model, args, CHATS if kind == "chats" else DOCUMENTS)
    else:
        settings |= {"train_group_size": 3, "in_batch_negatives": kind != "own_group"}
        if kind == "sub_batches":
            settings |= {"sub_batch_size": 3, "symmetric_weight": 0.5, "margin_mse_weight": 0.1}
        args = arguments(BiEncoderTrainingArguments, folder, **settings)
        backbone = tiny_backbone("llama", lm_head=False)
        model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), temperature=0.1)
        trainer = BiEncoderTrainer(model, args, PAIRS)
    trainer.train()
    return trainer


def together(kind: str, folder: Path, *options: str) -> None:
    """Trains by two processes, micro-batches of 2, and saves."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*command, "tests.trainers.base.test_distributed", kind, str(folder), *options],
        cwd=ROOT, env=environment, check=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["in_batch", "own_group", "sub_batches", "llara", "llara_learned", "documents", "chats", "kept_states"]
)
def test_two_processes_end_in_the_weights_of_one(tmp_path, kind):
    # Micro-batches of 2 on two processes are micro-batches of 4 on one: the same rows, for two steps of 8.
    alone = weights(train(kind, tmp_path / "alone", batch_size=4).model)
    together(kind, tmp_path)
    assert_same_weights(torch.load(tmp_path / "weights.pt"), alone, 1e-5)
    if kind not in ("in_batch", "own_group", "sub_batches"):
        return
    start = dict(tiny_backbone("llama", lm_head=False).named_parameters())
    assert max((alone[f"backbone.{name}"] - value).abs().max() for name, value in start.items()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in_batch", "own_group", "sub_batches", "llara", "documents", "chats"])
def test_two_processes_with_sharded_weights_end_in_the_weights_of_one(tmp_path, kind):
    alone = train(kind, tmp_path / "alone", batch_size=4).model
    together(kind, tmp_path, "fsdp")
    saved = type(alone).from_pretrained(tmp_path / "saved")
    assert_same_weights(weights(saved), weights(alone), 1e-4)


def test_kept_states_refuse_sharded_weights(tmp_path):
    with pytest.raises(ValueError, match="fsdp cannot be combined with reuse_states=True"):
        train("kept_states", tmp_path, batch_size=4, fsdp=True)


if __name__ == "__main__":
    kind, folder, *sharded = sys.argv[1:]
    trainer = train(kind, Path(folder) / "together", 2, **({"fsdp": True, "fsdp_config": {}} if sharded else {}))
    assert trainer.accelerator.num_processes == 2
    assert isinstance(trainer.model, FSDPModule) == bool(sharded)
    if sharded:
        trainer.save_model(str(Path(folder) / "saved"))
    elif os.environ["RANK"] == "0":
        torch.save(weights(trainer.model), Path(folder) / "weights.pt")
