"""Two gloo processes train as one does: run by `torchrun`, the way a user would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import CHATS, DOCUMENTS, PAIRS, PASSAGES, arguments, assert_same_weights, weights


def train(kind: str, folder: Path, batch_size: int) -> dict[str, torch.Tensor]:
    """The weights after two steps of plain SGD."""
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
    settings |= {"learning_rate": 0.1, "gradient_accumulation_steps": 2}
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
    return weights(trainer.model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["in_batch", "own_group", "sub_batches", "llara", "llara_learned", "documents", "chats", "kept_states"]
)
def test_two_processes_end_in_the_weights_of_one(tmp_path, kind):
    # Micro-batches of 2 on two processes are micro-batches of 4 on one: the same rows, for two steps of 8.
    alone = train(kind, tmp_path / "alone", batch_size=4)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*command, "tests.trainers.base.test_distributed", kind, str(tmp_path)], cwd=ROOT, env=environment, check=True
    )
    together = torch.load(tmp_path / "weights.pt")
    assert_same_weights(together, alone, 1e-5)
    if kind not in ("in_batch", "own_group", "sub_batches"):
        return
    start = dict(tiny_backbone("llama", lm_head=False).named_parameters())
    assert max((alone[f"backbone.{name}"] - value).abs().max() for name, value in start.items()) > 1e-3


if __name__ == "__main__":
    result = train(sys.argv[1], Path(sys.argv[2]) / "together", batch_size=2)
    if os.environ["RANK"] == "0":
        torch.save(result, Path(sys.argv[2]) / "weights.pt")
