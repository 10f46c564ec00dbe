"""What a Trainer sends to the Hub under each hub_strategy, and when."""

import json
from pathlib import Path

import pytest
from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import CheckpointManager

from hub_cards import TransferError, pull
from modeling_biencoder import BiEncoderModel
from tests.support import quick_first
from tests.support.loopback_hub import Fault
from tests.support.loopback_hub.fixtures import commit, read
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments

PICKLES = (".bin", ".pt", ".pth", ".pkl")


def make_trainer(folder: Path, peft_config=None, **settings) -> BiEncoderTrainer:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
    given = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "push_to_hub": True, **settings}
    args = arguments(BiEncoderTrainingArguments, folder, hub_model_id="user/repo", hub_token="hf_write", **given)
    return BiEncoderTrainer(model, args, PAIRS, peft_config=peft_config)


def pushed(hub, revision: str = "main") -> set[str]:
    return set(hub.repos["user/repo"].files(revision))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", quick_first(["all_checkpoints", "end", "every_save", "checkpoint"]))
def test_every_strategy_sends_what_it_says_and_pickles_only_to_resume(hub, tmp_path, strategy):
    trainer = make_trainer(tmp_path / "out", hub_strategy=strategy, hub_always_push=True)
    trainer.train()
    trainer._finish_current_push()
    commits = [one.title for one in hub.repos["user/repo"].history()][:-1]
    if strategy == "end":
        assert not commits
    else:
        assert sorted(commits) == [f"Training in progress, step {step}" for step in (1, 2)]
    trainer.save_model()  # by the user: pushes
    names = pushed(hub)
    pickles = {name for name in names if name.endswith(PICKLES)}
    folders = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-1", "checkpoint-2"}}
    assert {name.split("/")[0] for name in pickles} == folders.get(strategy, set())
    assert {"README.md", "config.json", "model.safetensors", "modeling_biencoder.py", "tokenizer.json"} <= names
    assert not [name for name in names if "training_args" in name or name.startswith(".")]
    for folder in folders.get(strategy, ()):
        assert {f"{folder}/{name}" for name in ("optimizer.pt", "trainer_state.json", "model.safetensors")} <= names
    if strategy == "checkpoint":
        state = json.loads(read(hub, "last-checkpoint/trainer_state.json"))
        assert state["global_step"] == 2
    local = pull("user/repo")
    assert not [path for path in local.rglob("*") if path.suffix in PICKLES]
    assert BiEncoderModel.from_pretrained("user/repo").config.pooling == "mean"
    assert not list((tmp_path / "out").glob(".*"))


def test_an_edited_card_stays_and_the_commit_is_one(hub, tmp_path):
    trainer = make_trainer(tmp_path / "out", save_strategy="no")
    trainer.train()
    made = trainer.push_to_hub(commit_message="first", language="en")
    assert made.oid == hub.repos["user/repo"].branches["main"]
    commit(hub, "user/repo", README__md=read(hub, "README.md") + "\nA person's remark.\n")
    trainer.args.learning_rate = 0.5
    assert trainer.push_to_hub(revision="next", blocking=False).result().oid == hub.repos["user/repo"].branches["next"]
    assert "A person's remark." not in read(hub, "README.md", revision="next").split("lookback:begin")[0]
    assert "A person's remark." in read(hub, "README.md", revision="next")
    assert "| learning_rate | 0.5 |" in read(hub, "README.md", revision="next")
    assert len(hub.repos["user/repo"].history("next")) == 4


def test_a_private_repo_and_a_token_of_its_own(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    trainer = make_trainer(tmp_path / "out", hub_private_repo=True, save_strategy="no")
    trainer.push_to_hub()
    assert hub.repos["user/repo"].private and "model.safetensors" in pushed(hub)
    assert "hf_write" not in "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())


def test_an_adapters_repo_is_small_and_its_checkpoints_too(hub, tmp_path):
    trainer = make_trainer(tmp_path / "out", LoraConfig(r=2), hub_strategy="every_save", max_steps=1)
    trainer.train()
    trainer._finish_current_push()
    names = pushed(hub)
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names and not [name for name in names if name.endswith(PICKLES)]
    sizes = {name: len(data) for name, data in hub.repos["user/repo"].files().items()}
    full = sum(value.numel() for name, value in trainer.model.named_parameters() if "lora_" not in name)
    assert sizes["adapter_model.safetensors"] < full  # bytes < numbers: a quarter of the base's size or less


def test_a_push_in_the_background_that_fails_does_not_end_the_training(hub, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "out", hub_strategy="every_save", max_steps=1)
    hub.faults = [Fault("/commit/", times=10**6, status=500)]
    trainer.train()
    trainer._finish_current_push()
    assert trainer.state.global_step == 1 and pushed(hub) == set()
    assert isinstance(trainer.push_in_progress.jobs[0].exception(), TransferError)
    with pytest.raises(TransferError, match="broke off, and the repo is as it was"):
        trainer.push_to_hub()
    hub.faults = []
    trainer.push_to_hub()
    assert "model.safetensors" in pushed(hub)


def test_the_checkpoint_at_a_sigterm_is_sent_when_it_is_in_its_place(hub, tmp_path):
    places = []

    class AtSigterm(TrainerCallback):
        def on_push_begin(self, args, state, control, **kwargs):
            places.append(sorted(path.name for path in (tmp_path / "out").iterdir()))

        def on_step_end(self, args, state, control, **kwargs):
            CheckpointManager(trainer).execute_jit_checkpoint()
            control.should_training_stop = True

    trainer = make_trainer(tmp_path / "out", save_strategy="no", hub_strategy="checkpoint")
    trainer.add_callback(AtSigterm())
    trainer.train()
    trainer._finish_current_push()
    assert places == [["checkpoint-1"]]
    sent = {f"last-checkpoint/{path.name}" for path in (tmp_path / "out" / "checkpoint-1").iterdir()}
    assert len(hub.repos["user/repo"].history()) == 2  # the repo's making and the push
    assert {"model.safetensors", *sent} - {"last-checkpoint/training_args.json"} <= pushed(hub)
    assert "last-checkpoint/optimizer.pt" in sent


def test_what_a_killed_run_was_sending_is_removed(hub, tmp_path):
    left = tmp_path / "out" / ".pushing-1"
    left.mkdir(parents=True)
    (left / "model.safetensors").touch()
    make_trainer(tmp_path / "out", max_steps=1, hub_strategy="end").train()
    assert not left.exists() and (tmp_path / "out" / "checkpoint-1").is_dir()
