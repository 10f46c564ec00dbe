"""`lookback merge`, and the adapter flags of the training commands: from the command line to a complete repo."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.commands import run
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from tests.support.training import SENTENCES
from trainers import cli, load_adapted
from trainers.commands import finetune, pretrain, train_lm
from trainers.commands import merge as command


def merge(*options: str | Path) -> None:
    command.main([str(option) for option in options])


def test_a_finetuned_adapter_becomes_a_complete_repo(folder: Path, capsys) -> None:
    adapter = run(
        finetune, folder, "pairs.jsonl", [], train_group_size=2, pooling="mean", bidirectional=True,
        lora_rank=4, use_rslora=True, learning_rate=0.01,
    )  # fmt: skip
    assert json.loads((adapter / "adapter_config.json").read_text())["use_rslora"]
    capsys.readouterr()
    merge("--model", adapter, "--output", folder / "merged")
    assert capsys.readouterr().out.strip() == str(folder / "merged")
    names = {path.name for path in (folder / "merged").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "modeling_biencoder.py", "tokenizer.json"} <= names
    assert not {name for name in names if "adapter" in name}
    merged = BiEncoderModel.from_pretrained(folder / "merged")
    assert merged.config.pooling == "mean" and merged.config.bidirectional
    expected = load_adapted(adapter).encode(SENTENCES)
    torch.testing.assert_close(merged.encode(SENTENCES), expected, rtol=0, atol=1e-5)
    untrained = BiEncoderModel.from_backbone(folder / "backbone", pooling="mean", bidirectional=True)
    assert (untrained.encode(SENTENCES) - expected).abs().max() > 1e-3
    with pytest.raises(ValueError, match="applied to the merged weights again"):
        merge("--model", adapter, "--output", adapter)
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        merge("--model", folder / "merged", "--output", folder / "twice")


@pytest.mark.slow
def test_training_goes_on_from_the_adapter_flag(folder: Path) -> None:
    settings = {"train_group_size": 2, "pooling": "mean", "learning_rate": 0.01}
    first = run(finetune, folder, "pairs.jsonl", [], lora_rank=4, use_dora=True, **settings)
    first.rename(folder / "first")
    second = run(finetune, folder, "pairs.jsonl", ["--adapter", str(folder / "first")], **settings)
    before, after = (load_file(path / "adapter_model.safetensors") for path in (folder / "first", second))
    assert before.keys() == after.keys() and any("lora_magnitude_vector" in name for name in after)
    assert not torch.equal(next(iter(before.values())), next(iter(after.values())))
    recorded = json.loads((second / "adapter_config.json").read_text())
    assert recorded["use_dora"] and recorded["base_model_name_or_path"] == str(folder / "backbone")
    assert load_adapted(second).config.pooling == "mean"


@pytest.mark.slow
def test_a_llara_adapter_merges_with_its_token_rows(folder: Path) -> None:
    adapter = run(pretrain, folder, "passages.jsonl", [], max_length=128, lora_rank=4, learning_rate=0.01)
    merge("--model", adapter, "--output", folder / "merged")
    merged, adapted = LlaraForPreTraining.from_pretrained(folder / "merged"), load_adapted(adapter)
    assert merged.config.predict_prompt_ids == adapted.config.predict_prompt_ids
    ids = torch.cat([random_ids(1, 6), torch.tensor([merged.config.predict_prompt_ids])], dim=1)
    with torch.no_grad():
        states = [model(ids, output_hidden_states=True).hidden_states[-1] for model in (merged, adapted)]
    torch.testing.assert_close(*states, rtol=0, atol=1e-4)
    continued = run(pretrain, folder, "passages.jsonl", ["--adapter", str(adapter)], max_length=128)
    assert (continued / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_self_retrieval_adapter_merges_into_its_saved_base(folder: Path) -> None:
    sizes = {"context_window_size": 32, "chunk_size": 8, "key_num": 1}
    base = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), retrieval_method="bm25", **sizes)
    base.save_pretrained(folder / "base")
    lengths = {"document_length": 96, "target_size": 16}
    adapter = run(
        train_lm, folder, "text.txt", ["--model", str(folder / "base")], lora_rank=4, learning_rate=0.01,
        **lengths,
    )  # fmt: skip
    merge("--model", adapter, "--output", folder / "merged")
    ids = random_ids(1, 80)
    with torch.no_grad():
        losses = [
            model.eval()(ids, labels=ids).loss
            for model in (SelfRetrievalLM.from_pretrained(folder / "merged"), load_adapted(adapter), base)
        ]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)
    assert (losses[0] - losses[2]).abs() > 1e-4
    # The plain LM that the base was built on is one, too: its weights are the base's.
    merge("--model", adapter, "--output", folder / "other", "--base", folder / "backbone")
    with torch.no_grad():
        other = SelfRetrievalLM.from_pretrained(folder / "other").eval()(ids, labels=ids).loss
    torch.testing.assert_close(other, losses[0], rtol=0, atol=1e-5)


def test_an_error_of_a_flag_comes_before_anything_is_loaded(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = ["--model", "no/such", "--train_data", "x", "--output_dir", "y", "--lora_rank", "4", "--load_in_4bit"]
    monkeypatch.setattr(sys, "argv", ["lookback", "finetune", *flags, "--use_cpu"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "load_in_4bit needs a CUDA device" in capsys.readouterr().err
