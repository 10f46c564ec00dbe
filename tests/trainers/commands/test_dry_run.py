"""`--dry_run` of the training commands: what would run, with true figures, and nothing that is done."""

import re

import pytest
import torch
import yaml
from transformers.trainer_pt_utils import find_batch_size

from tests.support import quick_first
from tests.support.commands import QUIET, run
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.base.trainer import FamilyTrainer
from trainers.commands import dry_run, finetune, pretrain, train_lm
from trainers.planning.memory import Memory, optimizer_bytes

SETTINGS = {
    finetune: ("pairs.jsonl", {"train_group_size": 2, "pooling": "mean", "prompts": {"default": {"query": "ask: "}}}),
    pretrain: ("passages.jsonl", {"max_length": 128, "lora_rank": 4, "num_train_epochs": 2, "max_steps": -1}),
    train_lm: ("text.txt", {"document_length": 96, "target_size": 16, "context_window_size": 32, "chunk_size": 8,
                            "key_num": 1}),
}  # fmt: skip


@pytest.mark.parametrize("command", quick_first(SETTINGS), ids=lambda command: command.__name__.rpartition(".")[2])
def test_it_prints_what_would_run_and_does_nothing(command, folder, monkeypatch, capsys):
    data, own = SETTINGS[command]
    settings = {**QUIET, "model": str(folder / "backbone"), "train_data": str(folder / data), **own}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    there = sorted(folder.rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(FamilyTrainer, "train", lambda *_, **__: pytest.fail("it trains"))
        output = str(folder / "new" / "run")
        command.main(["--config", str(folder / "config.yaml"), "--output_dir", output, "--dry-run"])
    assert sorted(folder.rglob("*")) == there
    printed = capsys.readouterr().out
    shown = yaml.safe_load(printed.partition("takes them\n")[2].partition("\ndata\n")[0])
    wanted = {**settings, "output_dir": output}
    silent = {"save_strategy", "use_cpu", "num_train_epochs", "max_steps", "report_to"}  # may be the default
    assert {name: shown.get(name) for name in wanted if name not in silent} == {
        name: [value] if name == "train_data" and command is finetune else value
        for name, value in wanted.items() if name not in silent
    }  # fmt: skip
    assert re.match(r"1 process, 2 \w+ a step", printed) and re.search(r"training: \d+ rows", printed)
    steps = int(re.search(r"([\d,]+) steps", printed)[1])
    trained = run(command, folder, data, [], **own)
    state = yaml.safe_load((trained / "trainer_state.json").read_text())
    assert steps == state["global_step"]
    parameters, moving = re.search(r"([\d,]+) parameters, ([\d,]+) of them trained", printed).groups()
    assert (parameters == moving) == (command is not pretrain)


def made(folder, **settings) -> BiEncoderTrainer:
    arguments = BiEncoderTrainingArguments(
        str(folder / "run"), report_to="none", use_cpu=True, train_group_size=2, dataloader_pin_memory=False,
        per_device_train_batch_size=4, save_strategy="no", **settings,
    )  # fmt: skip
    return BiEncoderTrainer(str(folder / "backbone"), arguments, train_dataset=str(folder / "pairs.jsonl"))


@pytest.mark.parametrize(
    "settings", quick_first([{"optim": "adafactor"}, {}, {"optim": "sgd"}, {"optim": "adamw_torch"}])
)
def test_the_optimizer_keeps_what_was_said(folder, settings):
    trainer = made(folder, max_steps=1, **settings)
    trained = [one for one in trainer.model.parameters() if one.requires_grad]
    said = optimizer_bytes(trainer.args, trainer.model, trained)
    trainer.train()
    kept = [one for state in trainer.optimizer.state.values() for one in state.values()]
    there = sum(one.numel() * one.element_size() for one in kept if isinstance(one, torch.Tensor))
    assert said == there
    assert (there > 0) == (settings != {"optim": "sgd"})


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}])
def test_activations_are_those_of_the_whole_batch(folder, settings):
    """Two rows, scaled, against all of them."""
    trainer = made(folder, max_steps=1, **settings)
    batch, tokens = dry_run.first_batch(trainer)
    assert find_batch_size(batch) == 4 and tokens > 0
    said = dry_run.activation_bytes(trainer, batch)
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {one.untyped_storage().data_ptr() for one in trainer.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model, batch)
    there = sum(size for pointer, size in saved.items() if pointer not in own)
    assert loss.requires_grad
    assert said == pytest.approx(there, rel=0.15)


def test_memory_of_settings(folder):
    """Checkpointing keeps less, a LoRA has gradients for itself alone, and what a CPU cannot try is no number."""
    whole, saving = (made(folder, gradient_checkpointing=saves) for saves in (False, True))
    batch, _ = dry_run.first_batch(whole)
    assert batch["query"]["input_ids"].shape[0] + batch["passage"]["input_ids"].shape[0] == 12
    in_parts = dry_run.activation_bytes(made(folder, sub_batch_size=3), batch)
    assert in_parts == pytest.approx(dry_run.activation_bytes(whole, batch) / 4, rel=0.01)
    assert dry_run.activation_bytes(saving, batch) < dry_run.activation_bytes(whole, batch) / 2
    found = dry_run.memory(whole, batch)
    assert found.weights >= found.gradients == sum(one.numel() * 4 for one in whole.model.parameters())
    assert dict(found.lines())["together"].startswith("about ")
    assert dict(Memory(1, 1, 1, None).lines()) == {
        "weights": "1 B", "gradients": "1 B", "optimizer": "1 B", "activations": "unknown", "together": "at least 3 B",
    }  # fmt: skip


@pytest.mark.cases(1)
@pytest.mark.parametrize("settings", [{}, {"sub_batch_size": 3}, {"gradient_checkpointing": True}])
def test_a_pass_that_takes_too_long_on_a_cpu_is_reckoned(folder, monkeypatch, settings):
    """By the formulas of `lookback plan`, of rows as long as they may be: here no longer than they are."""
    trainer = made(folder, query_max_length=15, passage_max_length=15, **settings)
    monkeypatch.setattr(dry_run, "can_pack", lambda *_: False)
    batch, _ = dry_run.first_batch(trainer)
    assert batch["query"]["input_ids"].shape[1] == batch["passage"]["input_ids"].shape[1] == 15
    measured = dry_run.activation_bytes(trainer, batch)
    monkeypatch.setattr(dry_run, "MOST_OPERATIONS", 1.0)
    monkeypatch.setattr(trainer, "compute_loss", lambda *_: pytest.fail("it is tried"))
    # A layer is computed again beside what is kept of all, which the measurement of a forward pass does not see.
    assert dry_run.activation_bytes(trainer, batch) >= measured if "gradient_checkpointing" in settings else True
    if "gradient_checkpointing" not in settings:
        assert dry_run.activation_bytes(trainer, batch) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train_group_size", "0"], "train_group_size=0 must be at least 1"),
        (["--train_data", "no.jsonl"], "There is no file or folder 'no.jsonl'"),
        (["--query_max_length", "100000"], "query_max_length=100000"),
        (["--push_to_hub"], "HF_HUB_OFFLINE is set"),
    ],
)
def test_what_a_training_would_refuse_is_refused(folder, monkeypatch, options, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    required = ["--model", str(folder / "backbone"), "--train_data", str(folder / "pairs.jsonl"), "--use_cpu"]
    with pytest.raises(ValueError, match=message):
        finetune.main([*required, "--output_dir", str(folder / "run"), "--dry_run", *options])
    assert not (folder / "run").exists()
