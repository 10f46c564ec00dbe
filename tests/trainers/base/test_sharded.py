"""FSDP2 on two and three gloo processes: the losses and weights of one process, saved whole, and what is refused."""

import os
import shutil
from contextlib import nullcontext

import pytest
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from transformers import AutoModel

from tests.support.together import ACCELERATE_FSDP, assert_same_run, together, train, trainer_of
from tests.support.training import assert_same_weights

CASES = {
    "in-batch negatives": ("in_batch", {}),
    "own group": ("own_group", {}),
    # An evaluation before the training shards the model, too.
    "parts of a batch, BERT": ("sub_batches", {"family": "bert", "early": True}),
    "parts of a batch, activation checkpointing": (
        "sub_batches",
        {"fsdp_config": {"activation_checkpointing": True}},
    ),
    "LoRA": ("in_batch", {"lora": True}),
    "LLaRA": ("llara", {}),
    "LLaRA, learned weights, Qwen, CPU offload": (
        "llara_learned",
        {"family": "qwen", "fsdp_config": {"cpu_offload": True}},
    ),
    "LLaRA, LoRA": ("llara", {"lora": True}),
    # Each process calls the language model as often as its own rows need.
    "documents, tied embeddings of GPT-2": ("documents", {"family": "gpt2", "early": True}),
    "documents, activation checkpointing": ("documents", {"fsdp_config": {"activation_checkpointing": True}}),
    "documents, LoRA": ("documents", {"lora": True}),
    "documents, a retriever of the same kind of layers": ("dense", {}),
    "documents, the states as embeddings": ("self", {}),
    "chats": ("chats", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_with_sharded_weights_end_in_the_weights_of_one(tmp_path, name):
    kind, settings = CASES[name]
    alone = train(kind, tmp_path / "alone", **{key: value for key, value in settings.items() if key != "fsdp_config"})
    together(kind, tmp_path / "together", fsdp=True, **{"fsdp_config": {}, **settings})
    assert_same_run(tmp_path / "together", tmp_path / "alone")
    if "lora" not in settings:
        saved = type(alone.model).from_pretrained(tmp_path / "together" / "saved")
        assert_same_weights(saved.state_dict(), alone.model.state_dict(), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in_batch", "documents"])
def test_so_do_three(tmp_path, kind):
    train(kind, tmp_path / "alone", rows=6)
    together(kind, tmp_path / "together", processes=3, rows=6, fsdp=True, fsdp_config={})
    assert_same_run(tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
def test_a_run_goes_on_from_a_checkpoint_of_shards_which_is_a_repo(tmp_path, lora):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "optim": "adamw_torch", "lora": lora}
    settings |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    together("in_batch", tmp_path, fsdp=True, fsdp_config={}, **settings)
    shutil.move(tmp_path / "saved", tmp_path / "first")
    together("in_batch", tmp_path, resume="checkpoint-2", fsdp=True, fsdp_config={}, **settings)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    once, again, before = (load_file(tmp_path / folder / name) for folder in ("first", "saved", "checkpoint-2"))
    assert_same_weights(again, once, 0.0)
    assert max((once[name] - value).abs().max() for name, value in before.items()) > 1e-3
    if not lora:
        loaded = AutoModel.from_pretrained(tmp_path / "checkpoint-2", trust_remote_code=True)
        assert_same_weights(loaded.state_dict(), before, 0.0)


@pytest.mark.slow
def test_accelerate_launch_shards(tmp_path):
    train("chats", tmp_path / "alone")
    together("chats", tmp_path / "together", launcher=ACCELERATE_FSDP)
    assert_same_run(tmp_path / "together", tmp_path / "alone")


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("in_batch", {"fsdp_version": 1}, "version=1, which does not work here, .* set version=2"),
        ("in_batch", {"state_dict_type": "SHARDED_STATE_DICT"}, "a checkpoint is a repo.*: set .*FULL_STATE_DICT"),
        ("in_batch", {"auto_wrap_policy": "SIZE_BASED_WRAP"}, "set auto_wrap_policy=TRANSFORMER_BASED_WRAP"),
        ("dense", {"cpu_ram_efficient_loading": True}, "each process has the retriever as a whole"),
        ("in_batch", {"cpu_ram_efficient_loading": True}, None),
    ],
)
def test_settings_that_do_not_work_are_refused(tmp_path, monkeypatch, kind, settings, told):
    monkeypatch.setattr(os, "environ", {**os.environ})  # the plugin writes there
    plugin = FullyShardedDataParallelPlugin(**{"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT", **settings})
    with nullcontext() if told is None else pytest.raises(ValueError, match=told):
        trainer_of(kind, tmp_path, 1).check_plugin(plugin)


def test_kept_states_refuse_sharded_weights(tmp_path):
    with pytest.raises(ValueError, match="fsdp cannot be combined with reuse_states=True"):
        trainer_of("kept_states", tmp_path, 1, fsdp=True)


def test_a_self_retrieval_lm_refuses_zero_3(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.srlm.trainer.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="stage 3 of deepspeed must be 2 here"):
        trainer_of("documents", tmp_path, 1)
