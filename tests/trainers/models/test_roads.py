"""What a Trainer saves, its checkpoints too, by every road: loaders, merge, commands, a process without Lookback."""

import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForFeatureExtraction, LoraConfig
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from modeling_biencoder import BiEncoderModel
from tests.support.adapted import outputs, plain_backbone, trainer
from tests.support.beir import write_beir
from tests.support.files import read_rows, write_rows
from tests.support.round_trips import Case, fingerprint, load_all
from tests.support.tiny import TEXT
from tests.support.training import PAIRS, PASSAGES, SENTENCES
from trainers import load_adapted, merge_adapter
from trainers.commands import (
    convert,
    encode,
    evaluate,
    explain,
    finetune,
    generate,
    merge,
    mine,
    perplexity,
    pretrain,
    score,
    train_lm,
)

FAMILIES = ("biencoder", "llara", "srlm")
KINDS = ("full", "lora", "named", "tokens")  # named: with a name of its own; tokens: added, and a LoRA
QUICK = [
    ("llara", "tokens", "saved", True),
    ("srlm", "full", "saved", True),
    ("biencoder", "named", "plain", False),
]
CELLS = [(family, kind, base, tied) for family in FAMILIES for kind in KINDS for base in ("plain", "saved")
         for tied in (True, False)]  # fmt: skip


def trained(family, kind, base, tied, folder):
    """A model that was trained into folder/run and folder/run/checkpoint-2, on folder/lm or (`saved`) folder/base."""
    plain_backbone(family, folder, tied)
    source, config = str(folder / "lm"), None if kind in ("full", "named") else LoraConfig(r=4)
    if kind in ("named", "tokens") or base == "saved":
        source = trainer(family, folder, source).model
        if kind in ("full", "tokens"):
            source.tokenizer.add_tokens(["zebra", "xylophone"])
            source.resize_token_embeddings(len(source.tokenizer) + 1)
        if base == "saved":
            source.save_pretrained(folder / "base")
            source = type(source).from_pretrained(folder / "base")
        if kind == "named":
            source.add_adapter(LoraConfig(r=4, target_modules=["q_proj"]), "mine")
    made = trainer(family, folder, source, peft_config=config, save_strategy="steps", save_steps=2)
    made.train()
    made.save_model()
    return made.model


SLOW = [pytest.param(one, marks=pytest.mark.slow) for one in CELLS if one not in QUICK]


@pytest.mark.cases(1)
@pytest.mark.parametrize("cell", [*QUICK, *SLOW], ids=lambda cell: "-".join(map(str, cell)))
def test_the_loaders(tmp_path, cell):
    family, kind, base, _ = cell
    model = trained(*cell, tmp_path)
    expected, own = outputs(model), type(model)
    auto = AutoModelForCausalLM if family == "srlm" else AutoModel
    by_peft = AutoPeftModelForCausalLM if family == "srlm" else AutoPeftModelForFeatureExtraction
    for run in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        loaded = []
        if kind == "full":
            loaded += [own.from_pretrained(run), auto.from_pretrained(run, trust_remote_code=True)]
            with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
                load_adapted(run)
        else:
            merge.main(["--model", str(run), "--output", str(tmp_path / f"merged-{run.name}")])
            loaded += [load_adapted(run), own.from_pretrained(tmp_path / f"merged-{run.name}")]
            for refused in (own, auto):
                with pytest.raises(OSError, match="holds an adapter alone"):
                    refused.from_pretrained(run, trust_remote_code=True)
        if kind != "full" and base == "saved":
            as_on_card = auto.from_pretrained(tmp_path / "base", trust_remote_code=True)
            as_on_card.load_adapter(str(run))
            loaded += [as_on_card, by_peft.from_pretrained(run, trust_remote_code=True)]
        elif kind != "full":
            with pytest.raises(ValueError, match=r"excluded|not found in the base model"):
                by_peft.from_pretrained(run)
        for one in loaded:
            torch.testing.assert_close(outputs(one), expected, rtol=0, atol=1e-5)


def numbers(text):
    """The words of a command's table, and its numbers."""
    words = [word for word in text.split() if not word.endswith("%")]
    return [word for word in words if "." not in word], [float(word) for word in words if "." in word]


def results(model, family, work, capsys):
    """What every command makes of a folder or an adapter."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    write_rows(work / "pairs.jsonl", [{**row, "task": "qa", "answers": ["a lantern"]} for row in PAIRS])
    (work / "text.txt").write_text(TEXT * 4)
    write_beir(work / "beir")

    def run(command, *options):
        capsys.readouterr()
        command.main([*map(str, options), "--model", str(model)])
        return capsys.readouterr().out.replace(str(model), "")

    if family == "srlm":
        sizes = ["--context_window_size", 64, "--chunk_size", 16]
        run(score, "--data", work / "pairs.jsonl", "--output", work / "s.jsonl", *sizes)
        return {
            "perplexity": numbers(run(perplexity, "--data", work / "text.txt")),
            "generate": run(generate, "--prompt", TEXT, "--max_new_tokens", 8),
            "score": [row["teacher_scores"] for row in read_rows(work / "s.jsonl")],
        }
    run(encode, "--data", work / "text.txt", "--output", work / "e.safetensors")
    run(mine, "--data", work / "pairs.jsonl", "--output", work / "m.jsonl", "--rank_from", 0, "--num_negatives", 1)
    found = {
        "encode": load_file(work / "e.safetensors")["embeddings"].tolist(),
        "mine": read_rows(work / "m.jsonl"),
        "evaluate": numbers(run(evaluate, "--data", work / "beir")),
    }
    if family == "llara":
        run(convert, "--output", work / "converted")
        found["explain"] = numbers(run(explain, SENTENCES[0]))
        found["convert"] = BiEncoderModel.from_pretrained(work / "converted").encode(SENTENCES).tolist()
    return found


def assert_near(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4, abs=2e-4)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_near(*pair)
    else:
        assert one == other


TRAINING = {"biencoder": (finetune, "pairs.jsonl", ["--train_group_size", "2"]), "llara": (pretrain, "rows.jsonl", []),
            "srlm": (train_lm, "text.txt", ["--document_length", "48", "--target_size", "16"])}  # fmt: skip


def first_loss(family, work, *options):
    """Of a training command that goes on from what is given."""
    command, data, own = TRAINING[family]
    write_rows(work / "rows.jsonl", PASSAGES)
    quiet = ["--use_cpu", "--max_steps", "1", "--logging_steps", "1", "--save_strategy", "no", "--report_to", "none"]
    out = work / "again"
    command.main([*options, "--train_data", str(work / data), "--output_dir", str(out), *quiet, *own])
    state = json.loads((out / "trainer_state.json").read_text())
    shutil.rmtree(out)
    return state["log_history"][0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["plain", "saved"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_commands(tmp_path, capsys, family, kind, base):
    model = trained(family, kind, base, True, tmp_path)
    (model if kind == "full" else merge_adapter(load_adapted(tmp_path / "run"))).save_pretrained(tmp_path / "whole")
    expected = results(tmp_path / "whole", family, tmp_path / "work", capsys)
    loss = first_loss(family, tmp_path / "work", "--model", str(tmp_path / "whole"))
    for run in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        assert_near(results(run, family, tmp_path / "work", capsys), expected)
        if kind == "full":
            on = ["--model", str(run)]
        else:
            with pytest.raises(OSError, match="--adapter of a command"):
                first_loss(family, tmp_path / "work", "--model", str(run))
            on = ["--model", str(tmp_path / ("lm" if base == "plain" else "base")), "--adapter", str(run)]
        assert first_loss(family, tmp_path / "work", *on) == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_a_process_without_lookback_and_the_hub(hub, tmp_path):
    cases, wanted = [], {}
    for family in FAMILIES:
        auto = "AutoModelForCausalLM" if family == "srlm" else "AutoModel"
        by_peft = "AutoPeftModelForCausalLM" if family == "srlm" else "AutoPeftModelForFeatureExtraction"
        for kind in KINDS:
            folder, repo = tmp_path / f"{family}-{kind}", f"user/{family}-{kind}"
            folder.mkdir()
            plain_backbone(family, folder, tied=True, vocabulary=512)  # as the fingerprint's ids need
            base = trainer(family, folder, str(folder / "lm")).model
            if kind in ("full", "tokens"):
                base.tokenizer.add_tokens(["zebra", "xylophone"])
                base.resize_token_embeddings(555)
            base.push_to_hub(f"{repo}-base")
            source = type(base).from_pretrained(f"{repo}-base")
            if kind == "named":
                source.add_adapter(LoraConfig(r=4, target_modules=["q_proj"]), "mine")
            config = LoraConfig(r=4) if kind in ("lora", "tokens") else None
            made = trainer(family, folder, source, peft_config=config, hub_model_id=repo, hub_token="hf_write")
            made.train()
            made.push_to_hub()
            wanted[repo] = fingerprint(made.model)
            kinds = {"family": f"lookback_{family}", "wanted": repo}
            if kind == "full":
                cases.append(Case(repo=repo, auto=auto, **kinds))
                continue
            torch.testing.assert_close(fingerprint(load_adapted(repo)), wanted[repo], rtol=0, atol=1e-5)
            cases += [
                Case(repo=f"{repo}-base", auto=auto, adapter=repo, **kinds),
                Case(repo=repo, auto=by_peft, **kinds),
            ]
    load_all(hub, tmp_path / "elsewhere", cases, wanted, [])
