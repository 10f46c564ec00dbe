"""Pins reach every loader: of two commits of a repo the one that is named is loaded, by commands and functions."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support.loopback_hub.fixtures import commit
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import add_adapter, load_adapted
from trainers.commands import COMMANDS, finetune, pretrain, train_lm
from trainers.commands.declared import declared
from trainers.commands.training import run_training
from trainers.data import sources
from trainers.data.sources import load_tables
from trainers.models.load import load_as_biencoder, load_biencoder, load_srlm


def weight(model) -> torch.Tensor:
    return model.get_input_embeddings().weight


@pytest.fixture
def pins(hub, tmp_path) -> dict[str, tuple[str, torch.Tensor]]:
    """Kind of repo -> (its first commit, the embeddings there); each has a second commit with other weights."""
    found = {}
    for kind in ("backbone", "biencoder", "llara"):
        for seed in (0, 1):
            folder = tmp_path / f"{kind}{seed}"
            model = tiny_backbone(seed=seed)
            if kind == "biencoder":
                model = BiEncoderModel.from_backbone(tiny_backbone(seed=seed, lm_head=False), tiny_tokenizer())
            if kind == "llara":
                model = LlaraForPreTraining.from_backbone(model, tiny_tokenizer())
            model.save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder) if kind == "backbone" else None
            oid = commit(hub, f"user/{kind}", folder)
            if not seed:
                found[kind] = (oid, weight(model).detach().clone())
    return found


def test_commands_load_the_commit_that_is_named(pins):
    oid, wanted = pins["biencoder"]
    assert torch.equal(weight(load_biencoder("user/biencoder", revision=oid)), wanted)
    assert not torch.equal(weight(load_biencoder("user/biencoder")), wanted)
    oid, wanted = pins["llara"]
    assert torch.equal(weight(load_as_biencoder("user/llara", revision=oid)), wanted)
    oid, wanted = pins["backbone"]
    lm = load_srlm("user/backbone", {}, "user/biencoder", pins["biencoder"][0], revision=oid)
    assert torch.equal(weight(lm), wanted)
    assert torch.equal(weight(lm.retriever.backbone), pins["biencoder"][1])
    assert lm.config.text_config._commit_hash == oid


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("command", "kind", "more"),
    [
        (finetune, "backbone", ()),
        (finetune, "biencoder", ()),
        (pretrain, "backbone", ()),
        (pretrain, "llara", ()),
        (train_lm, "backbone", ("--retriever", "user/biencoder", "--retriever_revision", "RETRIEVER")),
    ],
)
def test_training_commands_begin_with_the_commit_that_is_named(pins, tmp_path, monkeypatch, command, kind, more):
    oid, wanted = pins[kind]
    loaded = {}

    def load_alone(trainer_class, model, model_kwargs, *_):
        trainer = object.__new__(trainer_class)
        loaded["model"] = trainer._load(model, None, model_kwargs)

    monkeypatch.setattr(command, "run_training", load_alone)
    sizes = ("--context_window_size", "256", "--retrieval_method", "dense") if "--retriever" in more else ()
    arguments = [pins["biencoder"][0] if word == "RETRIEVER" else word for word in (*more, *sizes)]
    command.main(
        ["--model", f"user/{kind}", "--revision", oid, "--train_data", "x", "--output_dir", str(tmp_path), *arguments]
    )
    known = slice(len(tiny_tokenizer()))  # behind them come the rows of the prompts' special tokens
    assert torch.equal(weight(loaded["model"])[known], wanted[known])
    if more:
        assert torch.equal(weight(loaded["model"].retriever.backbone), pins["biencoder"][1])


def test_an_adapter_stays_on_the_commit_of_its_base(pins, hub, tmp_path, monkeypatch):
    oid, wanted = pins["biencoder"]
    model = BiEncoderModel.from_pretrained("user/biencoder", revision=oid)
    add_adapter(model, LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    first = commit(hub, "user/adapter", tmp_path / "adapter")
    commit(hub, "user/adapter", adapter_config__json="{}")
    adapted = load_adapted("user/adapter", revision=first)
    assert adapted.peft_config["default"].revision == oid
    for pin in ({}, {"base": "user/biencoder"}, {"base": "user/biencoder", "base_revision": oid}):
        assert torch.equal(weight(load_adapted("user/adapter", revision=first, **pin)), wanted)
    assert not torch.equal(weight(load_adapted("user/adapter", revision=first, base_revision="main")), wanted)
    seen = {}
    monkeypatch.setattr("trainers.commands.training.load_adapted", lambda *_, **pins: seen.update(pins))
    monkeypatch.setattr(finetune, "run_training", lambda *args: _run(*args))

    def _run(trainer_class, *rest):
        with pytest.raises(StopIteration):
            run_training(_Stop, *rest)

    class _Stop:
        def __init__(self, model, *_, **__):
            model()
            raise StopIteration

    finetune.main(
        ["--model", "user/biencoder", "--revision", "a", "--adapter", "user/adapter", "--adapter_revision", "b",
         "--train_data", "x", "--output_dir", str(tmp_path / "run")]
    )  # fmt: skip
    assert (seen["base_revision"], seen["revision"]) == ("a", "b")


# An option that names a repo -> the one that names its revision.
PINS = {
    name: "revision" if name == "model" else f"{name}_revision"
    for name in ("model", "retriever", "adapter", "base", "backbone", "eval_retrieval")
}
UNPINNED = {("mine", "retriever"), ("demo", "backbone")}  # a method, and what a demonstration begins with


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_that_names_a_repo_has_one_that_pins_it(command):
    names = declared(command).names()
    unpinned = [name for name, pin in PINS.items() if name in names and pin not in names]
    assert not [name for name in unpinned if (command, name) not in UNPINNED]


def test_data_of_the_hub_take_their_revision_behind_the_name(monkeypatch, tmp_path):
    asked = []

    def load_dataset(path, *_, **keywords):
        asked.append((path, keywords["revision"]))

    monkeypatch.setattr(sources.datasets, "load_dataset", load_dataset)
    load_tables("user/data@v1.2")
    load_tables("user/data@refs/pr/3", revision="refs/pr/3")
    load_tables("user/data", revision="abc")
    load_tables("user/data")
    pins = ["v1.2", "refs/pr/3", "abc", None]
    assert asked == [("user/data", pin) for pin in pins]
    with pytest.raises(ValueError, match=r"'user/data@a' names another revision than revision='b'"):
        load_tables("user/data@a", revision="b")
    with pytest.raises(ValueError, match="There is no file"):
        load_tables("no/such.jsonl")
    file = tmp_path / "a@b.jsonl"
    file.write_text('{"query": "a"}\n')
    monkeypatch.undo()
    assert len(load_tables(Path(file))[0].dataset()) == 1
