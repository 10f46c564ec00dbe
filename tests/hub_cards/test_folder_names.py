"""What is saved and sent names no folder of the machine; an adapter keeps its base's folder here alone."""

import json
import logging
import re
import shutil

import pytest
from peft import LoraConfig

from hub_cards.transfer.folder_names import shared_name, warn_of_local_base, without_folder_names
from hub_cards.travelling.saving import is_folder
from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.adapted import plain_backbone
from tests.support.beir import write_beir
from tests.support.files import write_rows
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES
from trainers import add_adapter
from trainers.base.cards import data_facts
from trainers.commands import (
    convert,
    encode,
    evaluate,
    finetune,
    merge,
    mine,
    needle,
    perplexity,
    pretrain,
    score,
    train_lm,
)

SIZES = {"context_window_size": 32, "chunk_size": 8}


def test_a_folder_has_its_own_name_however_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "srlm").mkdir()
    monkeypatch.chdir(tmp_path / "srlm")
    assert {shared_name(name) for name in (".", "../srlm", str(tmp_path / "srlm"), "./")} == {"srlm"}
    assert shared_name("user/name") == "user/name"
    assert data_facts([".", "user/data"])["data"] == ["srlm", "user/data"]


def from_folders(family, folder):
    """A model of the family whose parts were all loaded from folders, and which was itself saved and loaded once."""
    tiny_backbone(lm_head=family != "biencoder").save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    lm = str(folder / "lm")
    if family == "biencoder":
        model = BiEncoderModel.from_backbone(lm, pooling="mean")
    elif family == "llara":
        model = LlaraForPreTraining.from_backbone(lm)
    else:
        BiEncoderModel.from_backbone(lm, pooling="mean").save_pretrained(folder / "retriever")
        model = SelfRetrievalLM.from_components(lm, retriever=str(folder / "retriever"), **SIZES)
    model.save_pretrained(folder / "first")
    return type(model).from_pretrained(folder / "first")


def named_in(folder, what):
    """The text files below a folder that hold `what`."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert files
    return [path.relative_to(folder).as_posix() for path in files if str(what) in path.read_text(encoding="utf-8")]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
def test_no_saved_file_names_a_folder(tmp_path, family):
    model = from_folders(family, tmp_path)
    model.save_pretrained(tmp_path / "again")
    assert named_in(tmp_path / "first", tmp_path) == named_in(tmp_path / "again", tmp_path) == []
    if family == "llara":
        model.save_backbone(tmp_path / "backbone")
        assert named_in(tmp_path / "backbone", tmp_path) == []
    if family == "biencoder":
        model.export_sentence_transformers(tmp_path / "exported")
        assert named_in(tmp_path / "exported", tmp_path) == []


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
def test_an_adapter_names_its_base_here_and_not_where_it_is_sent(tmp_path, family, caplog):
    model = from_folders(family, tmp_path)
    add_adapter(model, LoraConfig(r=4))
    model.save_pretrained(tmp_path / "run")
    assert named_in(tmp_path / "run", tmp_path) == ["adapter_config.json"]  # it loads by its folder alone
    warn_of_local_base(tmp_path / "run")
    assert "lookback merge" in caplog.text and str(tmp_path / "first") in caplog.text
    files = {path.relative_to(tmp_path / "run").as_posix(): path for path in (tmp_path / "run").rglob("*.*")}
    sent = without_folder_names(files, tmp_path / "place")
    assert sent.keys() == files.keys()
    for name, path in sent.items():
        assert name.endswith(".safetensors") or str(tmp_path) not in path.read_text(encoding="utf-8")
    assert json.loads(sent["adapter_config.json"].read_text())["base_model_name_or_path"] is None


def test_a_checkpoint_that_is_sent_names_its_best_one_without_folders(tmp_path):
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"best_model_checkpoint": str(tmp_path / "checkpoint-3"), "global_step": 4}))
    sent = without_folder_names({"last-checkpoint/trainer_state.json": state}, tmp_path / "place")
    content = json.loads(sent["last-checkpoint/trainer_state.json"].read_text())
    assert content == {"best_model_checkpoint": "checkpoint-3", "global_step": 4}
    assert str(tmp_path) in state.read_text()


def test_ids_of_repos_stay(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "lm").mkdir(parents=True)
    names = {
        "gpt2": False,
        "user/model.v1": False,
        "out/lm": True,
        "/a/b": True,
        "./a": True,
        "~/a": True,
        "a/b/c": True,
    }
    assert {name: is_folder(name) for name in names} == names
    files = {}
    for name, content in {
        "config.json": {"text_config": {"_name_or_path": "user/model"}},
        "adapter_config.json": {"base_model_name_or_path": "user/model"},
    }.items():
        files[name] = tmp_path / name
        files[name].write_text(json.dumps(content))
    assert without_folder_names(files, tmp_path / "place") == files
    warn_of_local_base(tmp_path)
    assert not caplog.text


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
def test_a_configuration_that_is_saved_alone_names_no_folder(tmp_path, family):
    model = from_folders(family, tmp_path)
    parts = build_anew(family, str(tmp_path / "lm"))
    for number, config in enumerate((model.config, parts.config)):
        assert str(tmp_path) in str(config.to_dict())  # it is known here, for adapters and cards
        config.save_pretrained(tmp_path / f"configured{number}")
        assert named_in(tmp_path / f"configured{number}", tmp_path) == []
        assert type(config).from_pretrained(tmp_path / f"configured{number}").text_config.hidden_size == 32


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
def test_a_relative_folder_that_is_gone_is_no_repo(tmp_path, monkeypatch, family):
    """Its name looks like a repo's id, and nobody could tell the two apart."""
    monkeypatch.chdir(tmp_path)
    from_folders(family, tmp_path / "runs")
    built, loaded = build_anew(family, "runs/lm"), type(build_anew(family, "runs/lm")).from_pretrained("runs/first")
    adapted = type(built).from_pretrained("runs/first")
    add_adapter(adapted, LoraConfig(r=4))
    assert adapted.peft_config["default"].base_model_name_or_path == str(tmp_path / "runs" / "first")
    assert [model.tokenizer for model in (built, loaded)]  # what is read when it is needed is read now
    if family == "srlm":
        assert loaded.retriever_tokenizer
    shutil.move("runs", "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, model in (("built", built), ("loaded", loaded)):
        model.save_pretrained(name)
        assert named_in(tmp_path / "elsewhere" / name, "runs/") == []


def build_anew(family, lm):
    if family == "biencoder":
        return BiEncoderModel.from_backbone(lm, pooling="mean")
    return (
        LlaraForPreTraining.from_backbone(lm)
        if family == "llara"
        else SelfRetrievalLM.from_components(lm, retrieval_method="bm25", **SIZES)
    )


MARK = "the-authors-own-folder"
NEEDLE = "--lengths 320 --depths 50 --samples 1 --methods no bm25 --max_new_tokens 4"
COMMANDS = {
    "biencoder": (finetune, "pairs.jsonl", {"train_group_size": 2, "pooling": "mean"}),
    "llara": (pretrain, "passages.jsonl", {}),
    "srlm": (train_lm, "text.txt", {"document_length": 48, "retrieval_method": "bm25", **SIZES, "target_size": 16}),
}
LOADABLE_HERE = re.compile(r"(checkpoint-\d/)?adapter_config\.json|checkpoint-\d/trainer_state\.json")


def marked(files):
    return sorted(name for name, content in files.items() if MARK.encode() in content)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train(hub, home, family, rank):
    """The output folder of a training command whose inputs and outputs all lie in `home`, and what it pushed."""
    command, data, own = COMMANDS[family]
    settings = {
        "model": home / family / "lm", "train_data": home / data, "eval_data": home / data, "max_steps": 2,
        "output_dir": home / f"{family}-{rank}", "per_device_train_batch_size": 4, "save_steps": 1, "use_cpu": True,
        "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "report_to": "none",
        "disable_tqdm": True, "push_to_hub": True, "hub_model_id": f"user/{family}-{rank}", "hub_token": "hf_write",
        "hub_strategy": "checkpoint", **own, **({"lora_rank": rank} if rank else {}),
    }  # fmt: skip
    command.main([text for name, value in settings.items() for text in (f"--{name}", str(value))])
    return home / f"{family}-{rank}", hub.repos[f"user/{family}-{rank}"].files()


@pytest.fixture
def home(tmp_path):
    """A folder whose name must be in nothing that is sent or saved elsewhere, with data and plain backbones."""
    folder = tmp_path / MARK
    folder.mkdir()
    write_rows(folder / "pairs.jsonl", PAIRS)
    write_rows(folder / "passages.jsonl", PASSAGES)
    (folder / "text.txt").write_text(TEXT * 4)
    (folder / "long.txt").write_text(TEXT * 12)
    write_beir(folder / "beir")
    for family in COMMANDS:
        plain_backbone(family, folder / family)
    return folder


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("family", "rank"),
    [
        ("biencoder", 4),
        *quick_first([("llara", 0), ("srlm", 4), ("biencoder", 0), ("llara", 4), ("srlm", 0)]),
    ],
)
def test_a_training_names_no_folder_in_what_it_pushes_and_saves(hub, home, family, rank):
    run, pushed = train(hub, home, family, rank)
    assert {"README.md", "last-checkpoint/trainer_state.json"} <= pushed.keys() and marked(pushed) == []
    saved = contents(run)
    assert {"training_args.json", "trainer_state.json", "checkpoint-2/trainer_state.json"} <= saved.keys()
    assert [name for name in marked(saved) if not LOADABLE_HERE.fullmatch(name)] == []
    assert ("adapter_config.json" in marked(saved)) == bool(rank)


@pytest.mark.slow
def test_nothing_that_is_made_of_models_and_data_names_their_folder(hub, home, tmp_path, capsys):
    runs = {family: train(hub, home, family, 0)[0] for family in COMMANDS}
    adapters = {family: train(hub, home, family, 4)[0] for family in COMMANDS}
    out = tmp_path / "out"
    out.mkdir()
    text, pairs, of = home / "text.txt", home / "pairs.jsonl", {name: ["--model", run] for name, run in runs.items()}
    cuts = ["--chunk_size", 8, "--context_window_size", 32, "--document_length", 64]
    for command, options in [
        (encode, [*of["biencoder"], "--data", text, "--output", out / "embeddings.safetensors"]),
        (mine, [*of["biencoder"], "--data", pairs, "--output", out / "mined.jsonl", "--rank_from", 0]),
        (
            evaluate,
            [*of["biencoder"], "--data", home / "beir", "--output", out / "metrics.json", "--baseline", "bm25"],
        ),
        (score, [*of["srlm"], "--data", text, "--output", out / "scores.jsonl", "--task", "document", *cuts]),
        (perplexity, [*of["srlm"], "--data", text, "--report", out / "report.html"]),
        (
            needle,
            [
                *of["srlm"],
                "--data",
                home / "long.txt",
                "--output",
                out / "needle.json",
                "--report",
                out / "needle.html",
                "--picture",
                out / "needle.svg",
                *NEEDLE.split(),
            ],
        ),
        (score, ["--teacher", runs["biencoder"], "--data", pairs, "--output", out / "taught.jsonl"]),
        (convert, [*of["llara"], "--output", out / "converted"]),
        (convert, ["--model", adapters["llara"], "--output", out / "converted adapter"]),
        *((merge, ["--model", adapters[family], "--output", out / f"merged {family}"]) for family in COMMANDS),
    ]:
        command.main([str(option) for option in options])
    encoder, llara = (
        BiEncoderModel.from_pretrained(runs["biencoder"]),
        LlaraForPreTraining.from_pretrained(runs["llara"]),
    )
    encoder.export_sentence_transformers(out / "exported")
    build_anew("biencoder", str(home / "biencoder" / "lm")).export_sentence_transformers(out / "exported anew")
    llara.save_backbone(out / "backbone")
    lm = SelfRetrievalLM.from_components(str(home / "srlm" / "lm"), retriever=str(runs["biencoder"]), **SIZES)
    lm.save_pretrained(out / "lm")
    for name, part in {"text": lm.tokenizer, "retriever": lm.retriever_tokenizer, "llara": llara.tokenizer}.items():
        part.save_pretrained(out / name)
    lm.push_to_hub("user/lm")
    assert marked(contents(out)) == marked(hub.repos["user/lm"].files()) == []


def test_an_adapter_without_a_base_is_warned_about_when_it_is_sent(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
    add_adapter(model, LoraConfig(r=4))
    model.save_pretrained(tmp_path / "run")
    warn_of_local_base(tmp_path / "run")
    assert "is not named" in caplog.text and "lookback merge" in caplog.text
