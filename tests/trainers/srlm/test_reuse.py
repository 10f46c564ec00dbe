"""`SelfRetrievalTrainer` and `lookback train-lm` with `reuse_states`."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from tests.support import quick_first
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from tests.support.training import arguments, assert_moved, assert_same_weights, logged, weights
from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments
from trainers.commands import train_lm
from trainers.models.load import load_srlm

# Documents of unequal lengths, all of whose tokens are scored, and some of whose are.
ROWS = [
    {"input_ids": row[:length], "labels": [-100] * left_out + row[left_out:length]}
    for row, length, left_out in zip(random_ids(4, 100).tolist(), (100, 61, 90, 100), (1, 1, 64, 30), strict=True)
]
SIZES = {"context_window_size": 32, "chunk_size": 8, "key_num": 1}


def make_trainer(folder, family="llama", rows=ROWS, evaluation=None, peft_config=None, method="bm25", **settings):
    model = SelfRetrievalLM.from_components(
        tiny_backbone(family), tiny_tokenizer(), retrieval_method=method, reuse_states=True, target_size=16, **SIZES
    )
    args = arguments(SelfRetrievalTrainingArguments, folder, document_length=96, target_size=16, **settings)
    return SelfRetrievalTrainer(model, args, rows, evaluation, peft_config=peft_config)


@pytest.mark.slow
@pytest.mark.parametrize("family", quick_first(["mistral", "llama", "qwen"]))
def test_loss_falls_every_parameter_moves_and_the_repo_evaluates_the_same(tmp_path, family):
    trainer = make_trainer(tmp_path, family, evaluation=ROWS, max_steps=6)
    before, start = weights(trainer.model), trainer.evaluate()["eval_loss"]
    trainer.train()
    assert_moved(before, trainer.model)
    losses = logged(trainer, "loss")
    assert losses[0] == pytest.approx(start, abs=1e-4) and losses[-1] < 0.85 * losses[0]
    trainer.save_model()
    again = SelfRetrievalTrainer(
        str(tmp_path), arguments(SelfRetrievalTrainingArguments, tmp_path / "again"), eval_dataset=ROWS
    )
    assert again.model.config.reuse_states
    assert again.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-5)


@pytest.mark.slow
def test_accumulation_and_checkpoints_give_the_weights_of_the_big_batch(tmp_path):
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 2, "learning_rate": 0.5}
    whole = make_trainer(tmp_path / "whole", **settings)
    start = weights(whole.model)
    whole.train()
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": True}
    accumulated = make_trainer(tmp_path / "parts", **settings, **parts)
    accumulated.train()
    assert_same_weights(weights(accumulated.model), weights(whole.model), 1e-5)
    assert max((one - start[name]).abs().max() for name, one in weights(whole.model).items()) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("lora", quick_first([True, False]))
def test_a_resumed_run_ends_in_the_same_weights(tmp_path, lora):
    adapter = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj"]) if lora else None
    settings = {"max_steps": 4, "per_device_train_batch_size": 3, "peft_config": adapter, "method": "self"}
    straight = make_trainer(tmp_path, **settings, save_strategy="steps", save_steps=2)
    before = weights(straight.model)
    straight.train()
    assert_moved(before, straight.model)
    resumed = make_trainer(tmp_path / "other", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)


def plain_folder(folder: Path, family: str = "llama") -> str:
    tiny_backbone(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def command(source: str, folder: Path, *more: str) -> list[str]:
    sizes = ["--context_window_size", "32", "--chunk_size", "8", "--key_num", "1", "--retrieval_method", "bm25"]
    documents = ["--document_length", "96", "--target_size", "80", "--use_cpu", "--report_to", "none"]
    return ["--model", source, "--train_data", str(folder / "books"), "--output_dir", str(folder / "run"), *sizes,
            *documents, *more]  # fmt: skip


@pytest.mark.slow
def test_the_command_trains_a_repo_that_keeps_states(tmp_path):
    source = plain_folder(tmp_path / "lm")
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text("the library reads long documents and looks back at what was " * 9)
    states = {"reuse_states": True, "num_sink_tokens": 2, "store_limit": 96, "store_dtype": "bfloat16"}
    options = [text for name, value in states.items() for text in (f"--{name}", str(value))]
    train_lm.main(command(source, tmp_path, *options, "--max_steps", "2", "--lora_rank", "4"))
    model = load_srlm(str(tmp_path / "run"), {})
    assert settings_of(model.config, *states) == states
    ids = random_ids(1, 90)
    with torch.no_grad():
        plain = load_srlm(source, settings_of(model.config, *states, "retrieval_method", *SIZES))
        assert model.eval()(ids, labels=ids).loss != plain.eval()(ids, labels=ids).loss


def settings_of(config: SelfRetrievalConfig, *names: str) -> dict[str, object]:
    return {name: getattr(config, name) for name in names}


@pytest.mark.parametrize(
    ("family", "more", "said"),
    [
        ("gpt2", (), "reuse_states=True is not possible with a 'gpt2' backbone: its keys are not rotated"),
        (
            "llama",
            ("--retrieval_method", "oracle"),
            "is not possible with retrieval_method='oracle'",
        ),
        ("llama", ("--num_sink_tokens", "9"), "num_sink_tokens=9 must be"),
        ("llama", ("--store_limit", "40"), "store_limit=40 tokens must hold the window"),
        ("llama", ("--retrieval_method", "self", "--index_refresh_steps", "4"), "index_refresh_steps=4 does nothing"),
        ("llama", ("--store_place", "tape"), "--store_place='tape' is not known"),
    ],
)
def test_what_is_not_possible_is_said_before_weights_are_read(tmp_path, family, more, said):
    source = plain_folder(tmp_path / "lm", family)
    for file in (tmp_path / "lm").glob("*.safetensors"):
        file.unlink()
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text("the library reads long documents " * 20)
    with pytest.raises(ValueError, match=said):
        train_lm.main(command(source, tmp_path, "--reuse_states", *more))
    assert not (tmp_path / "run").exists()
