"""Weights in pieces: FSDP2 over two gloo processes, and the saves that take the gathered weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from modeling_llara import LlaraForPreTraining
from tests.support import ROOT
from tests.support.llara import batch_of
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PASSAGES, arguments
from trainers import LlaraTrainer, LlaraTrainingArguments


def adapted() -> LlaraForPreTraining:
    return LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer(), loss_weighting="uncertainty")


def step(model: LlaraForPreTraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One step of plain SGD; the loss before it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    return loss.detach()


def shard_train_and_save(folder: Path) -> None:
    """What each of the processes does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    model = adapted()
    batch = batch_of(model, (20, 9))
    for layer in model.backbone.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model.get_output_embeddings(), mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert model.get_output_embeddings().weight.to_local().shape[0] < model.config.text_config.vocab_size
    loss = step(model, batch)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if torch.distributed.get_rank() == 0:
        torch.save(loss, folder / "loss.pt")
        model.save_pretrained(folder / "model", state_dict=dict(whole))  # which transformers empties
        model.save_backbone(folder / "backbone", state_dict=whole)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_sharded_weights_save_what_one_has(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*command, "tests.trainers.llara.test_sharded", str(tmp_path)], cwd=ROOT, env=environment, check=True
    )
    alone = adapted()
    batch = batch_of(alone, (20, 9))
    torch.testing.assert_close(torch.load(tmp_path / "loss.pt"), step(alone, batch), rtol=1e-5, atol=0)
    saved = LlaraForPreTraining.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(saved.state_dict(), alone.state_dict(), rtol=0, atol=1e-5)
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path / "backbone")
    torch.testing.assert_close(backbone.state_dict(), alone.backbone.state_dict(), rtol=0, atol=1e-5)


@pytest.mark.cases(1)
@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=4)], ids=["full", "lora"])
def test_a_checkpoint_holds_the_gathered_weights(tmp_path, peft_config):
    """FSDP and ZeRO hand the Trainer a state dict; the model's own weights are then pieces of no use."""
    args = arguments(LlaraTrainingArguments, tmp_path, max_length=128)
    trainer = LlaraTrainer(adapted(), args, PASSAGES, peft_config=peft_config)
    gathered = {name: torch.full_like(value, 0.5) for name, value in trainer.model.state_dict().items()}
    trainer._save(str(tmp_path / "saved"), state_dict=gathered)
    name = "model" if peft_config is None else "adapter_model"
    saved = load_file(tmp_path / "saved" / f"{name}.safetensors")
    trained = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert len(saved) == len(trained)
    assert all((value == 0.5).all() for value in saved.values())


def test_the_backbone_is_saved_from_gathered_weights(tmp_path):
    model = adapted()
    gathered = {name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}
    model.save_backbone(tmp_path, state_dict=gathered)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert saved.keys() == model.backbone.state_dict().keys()
    assert all((value == 0.5).all() for value in saved.values())


if __name__ == "__main__":
    shard_train_and_save(Path(sys.argv[1]))
