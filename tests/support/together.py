"""A training by one process or several: what is trained, how the several are started, and what is left to compare."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import CHATS, DOCUMENTS, PAIRS, PASSAGES, arguments, assert_same_weights

LLARA = {"llara": "fixed", "llara_learned": "uncertainty"}
LOOKING_BACK = ("documents", "chats", "kept_states", "dense", "self")


def trainer_of(
    kind: str,
    folder: Path,
    processes: int,
    rows: int = 8,
    family: str = "llama",
    lora: bool = False,
    joint: int | None = None,
    **settings: Any,
) -> Trainer:
    """A Trainer of plain SGD; a step is two micro-batches of `joint` rows, of which each process has its share.

    By default a step takes all rows.
    """
    torch.set_num_threads(1)
    batch_size = (joint or rows // 2) // processes
    settings = {"optim": "sgd", "learning_rate": 0.003, "max_grad_norm": 0.0, "max_steps": 20, **settings}
    settings |= {"per_device_train_batch_size": batch_size, "per_device_eval_batch_size": batch_size}
    settings["gradient_accumulation_steps"] = 2
    adapter = LoraConfig(r=4, lora_alpha=16) if lora else None
    build = _llara if kind in LLARA else _looking_back if kind in LOOKING_BACK else _biencoder
    return build(kind, folder, rows, family, settings, adapter)


def _llara(kind: str, folder: Path, rows: int, family: str, settings: dict, adapter: LoraConfig | None) -> Trainer:
    from modeling_llara import LlaraForPreTraining
    from trainers import LlaraTrainer, LlaraTrainingArguments

    args = arguments(LlaraTrainingArguments, folder, max_length=128, **settings)
    model = LlaraForPreTraining.from_backbone(tiny_backbone(family), tiny_tokenizer(), loss_weighting=LLARA[kind])
    return LlaraTrainer(model, args, PASSAGES[:rows], PASSAGES[: rows - 1], peft_config=adapter)


def _looking_back(
    kind: str, folder: Path, rows: int, family: str, settings: dict, adapter: LoraConfig | None
) -> Trainer:
    from modeling_biencoder import BiEncoderModel
    from modeling_srlm import SelfRetrievalLM
    from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments

    args = arguments(SelfRetrievalTrainingArguments, folder, document_length=96, target_size=16, **settings)
    retriever = None
    if kind == "dense":
        retriever = BiEncoderModel.from_backbone(tiny_backbone("llama", seed=5, lm_head=False), tiny_tokenizer())
    model = SelfRetrievalLM.from_components(
        tiny_backbone(family), tiny_tokenizer(), retriever, context_window_size=32, chunk_size=8,
        retrieval_method=kind if kind in ("dense", "self") else "bm25", reuse_states=kind == "kept_states",
    )  # fmt: skip
    # With kept states a row of DOCUMENTS has two blocks that are scored, or one.
    data = CHATS if kind == "chats" else DOCUMENTS
    return SelfRetrievalTrainer(model, args, data[:rows], data[: rows - 1], peft_config=adapter)


def _biencoder(kind: str, folder: Path, rows: int, family: str, settings: dict, adapter: LoraConfig | None) -> Trainer:
    from modeling_biencoder import BiEncoderModel
    from trainers import BiEncoderTrainer, BiEncoderTrainingArguments

    settings = {"train_group_size": 3, "in_batch_negatives": kind != "own_group", **settings}
    if kind == "sub_batches":
        settings |= {"sub_batch_size": 3, "symmetric_weight": 0.5, "margin_mse_weight": 0.1}
    args = arguments(BiEncoderTrainingArguments, folder, **settings)
    backbone = tiny_backbone(family, lm_head=False)
    model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), temperature=0.1)
    return BiEncoderTrainer(model, args, PAIRS[:rows], PAIRS[:rows], peft_config=adapter)


def train(
    kind: str, folder: Path, processes: int = 1, resume: str | None = None, early: bool = False, **settings: Any
) -> Trainer:
    """A Trainer that has trained (and evaluates before, if `early`); `losses.json` and `saved` are then there."""
    trainer = trainer_of(kind, folder, processes, **settings)
    before = trainer.evaluate() if early else {}
    trainer.train(resume_from_checkpoint=resume and str(folder / resume))
    measured = trainer.evaluate()
    # eval_loss is Trainer's own mean over rows, which for means over tokens depends on the batches.
    names = [f"eval_{name}" for name in (*trainer.component_names, "perplexity")]
    kept = [found[name] for found in (before, measured) for name in names if name in found]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainer.save_model(str(folder / "saved"))
    if trainer.is_world_process_zero():
        (folder / "losses.json").write_text(json.dumps(losses + kept))
    return trainer


def assert_same_run(one: Path, other: Path) -> None:
    """The losses of two runs, and the weights that they saved, under one configuration."""
    ours, theirs = (json.loads((folder / "losses.json").read_text()) for folder in (one, other))
    assert len(ours) > 20
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-5)
    (file,) = (path.name for path in (one / "saved").glob("*.safetensors"))
    ours, theirs = (load_file(folder / "saved" / file) for folder in (one, other))
    assert_same_weights(ours, theirs, 1e-4)
    assert (one / "saved" / "config.json").read_text() == (other / "saved" / "config.json").read_text()
    assert {path.name for path in (one / "saved").iterdir()} == {path.name for path in (other / "saved").iterdir()}


def check_processes(trainer: Trainer, processes: int, sharded: bool) -> None:
    """AssertionError unless as many train together as were asked for, in the way that was."""
    assert trainer.accelerator.num_processes == torch.distributed.get_world_size() == processes
    if trainer.is_deepspeed_enabled:
        stage = trainer.accelerator.state.deepspeed_plugin.zero_stage
        assert all(hasattr(weight, "ds_id") == (stage == 3) for weight in trainer.model.parameters())
        return
    if not sharded:
        assert isinstance(trainer.model_wrapped, DistributedDataParallel)
        for weight in trainer.model.parameters():
            first = weight.detach().clone()
            torch.distributed.broadcast(first, 0)
            assert torch.equal(first, weight)
        return
    assert isinstance(trainer.model, FSDPModule)
    layers = [part for name, part in trainer.model.named_modules() if name.endswith((".layers", ".h", ".layer"))]
    assert layers and all(isinstance(layer, FSDPModule) for layer in layers[0])
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    assert all(isinstance(weight, DTensor) for weight in trained)
    assert sum(weight.to_local().numel() for weight in trained) < 0.75 * sum(weight.numel() for weight in trained)


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node")
# What `accelerate launch` needs to shard on a machine without a GPU, where it calls several processes multi_gpu.
ACCELERATE_FSDP = (
    "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--fsdp_state_dict_type", "FULL_STATE_DICT",
    "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes",
)  # fmt: skip


def together(kind: str, folder: Path, processes: int = 2, launcher: Sequence[str] = TORCHRUN, **settings: Any) -> None:
    """What `train` does, by several processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    given = [kind, str(folder), json.dumps(settings)]
    subprocess.run(
        [sys.executable, "-m", *launcher, str(processes), "-m", "tests.support.together", *given],
        cwd=ROOT, env=environment, check=True, timeout=300,
    )  # fmt: skip


if __name__ == "__main__":
    kind, folder, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    number = int(os.environ["WORLD_SIZE"])
    sharded = "fsdp" in given or "ACCELERATE_USE_FSDP" in os.environ
    check_processes(train(kind, folder, number, **given), number, sharded)
    torch.distributed.destroy_process_group()
