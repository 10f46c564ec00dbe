"""Saved repos of every family in a fresh process that cannot import Lookback: they compute the same, and save again.

All in one process, as starting it takes the most time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from tests.support import llara, srlm
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers.demo.fresh_process import run_without_lookback

TEXTS = ["the copper lantern", "", "where did we leave the candle?"]
TURNS = ["the copper lantern", "on the island", "the hammer"]
# Every argument is a folder whose name begins with the family's; beside it lies what its model has computed here.
LOADER = f"""
import os
import torch
import transformers
try:
    import modeling_biencoder
except ImportError:
    pass
else:
    raise SystemExit("Lookback must not be importable here")
TEXTS, TURNS = {TEXTS!r}, {TURNS!r}

def load(auto, folder):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    return model

def near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)

def biencoder(folder, wanted):
    model = load("AutoModel", folder)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == "BiEncoderModel" and config.temperature == wanted["temperature"]
    model.save_pretrained(folder + "-again")
    for role in ("query", "passage"):
        near(model.encode(TEXTS, role=role), wanted[role])
        near(load("AutoModel", folder + "-again").encode(TEXTS, role=role), wanted[role])

def llara(folder, wanted):
    for auto in ("AutoModel", "AutoModelForCausalLM", "AutoModelForPreTraining"):
        model = load(auto, folder)
        output = model(**wanted["inputs"], output_logits=True)
        for name, value in wanted["output"].items():
            near(output[name], value)
        assert model.tokenizer.convert_ids_to_tokens(model.config.predict_token_ids)[-1] == "<|predict_8|>"
        assert model.generation_config.max_length == 77 and model.to_biencoder()["pooling_k"] == 8
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert config.text_config.model_type == model.backbone.config.model_type
    model.save_pretrained(folder + "-again")  # what came as remote code is saved and loaded as remote code again
    again = load("AutoModel", folder + "-again")
    near(again(**wanted["inputs"]).loss, wanted["output"]["loss"])
    assert len(again.tokenizer) == len(model.tokenizer)

def srlm(folder, wanted):
    model = load("AutoModelForCausalLM", folder)
    assert model.config.reuse_states == wanted["reuse_states"]
    output = model(wanted["input_ids"], labels=wanted["input_ids"])
    near(output.loss, wanted["loss"])
    assert torch.equal(output.retrieved_indices, wanted["retrieved_indices"])
    answer = model.forward_with_history_retrieval(["where is it?"], [TURNS], ["next to the candle"])
    near(answer.loss, wanted["dialogue_loss"])
    assert torch.equal(model.generate(wanted["input_ids"], max_new_tokens=20), wanted["generated"])

for folder in sys.argv[1:]:
    globals()[os.path.basename(folder).partition("-")[0]](folder, torch.load(folder + ".pt"))
    print("EQUAL")
"""


def biencoders(root: Path) -> list[Path]:
    looks_both_ways = {"pooling": "mean_last_k", "pooling_k": 2, "bidirectional": True, "append_eos": True}
    variants: dict[str, dict[str, Any]] = {
        "llama": {"temperature": 0.01, **looks_both_ways}, "bert": {"temperature": 0.03, "pooling": "cls"},
    }  # fmt: skip
    prompts = {"default": {"query": "q: ", "passage": '"', "passage_suffix": '", shortly</s>'}}
    for family, config in variants.items():
        backbone = tiny_backbone(family)
        model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), prompts=prompts, **config)
        model.save_pretrained(root / f"biencoder-{family}")
        wanted = {role: model.encode(TEXTS, role=role) for role in ("query", "passage")}
        torch.save({**wanted, "temperature": config["temperature"]}, root / f"biencoder-{family}.pt")
    return [root / f"biencoder-{family}" for family in variants]


def llaras(root: Path) -> list[Path]:
    folders = [root / "llara-llama", root / "llara-gpt2"]
    for folder in folders:
        family = folder.name.partition("-")[2]
        _, inputs, wanted = llara.saved(folder, family, tie_word_embeddings=family == "gpt2")
        torch.save({"inputs": inputs, "output": wanted}, f"{folder}.pt")
    return folders


@torch.no_grad()
def srlms(root: Path, family: str = "llama", retriever: str = "bert", tied: bool = True) -> list[Path]:
    model, ids = srlm.build(family, retriever, tie_word_embeddings=tied), random_ids(2, 200)
    folders = [root / "srlm-exact", *([root / "srlm-kept"] if family == "llama" else [])]
    for folder in folders:
        model.config.reuse_states = folder.name == "srlm-kept"
        output = model(ids, labels=ids)
        dialogue = model.forward_with_history_retrieval(["where is it?"], [TURNS], ["next to the candle"])
        wanted = {
            "input_ids": ids, "loss": output.loss, "retrieved_indices": output.retrieved_indices,
            "dialogue_loss": dialogue.loss, "generated": model.generate(ids, max_new_tokens=20),
            "reuse_states": model.config.reuse_states,
        }  # fmt: skip
        torch.save(wanted, f"{folder}.pt")
        model.save_pretrained(folder)
    return folders


def load_all(root: Path, folders: list[Path]) -> None:
    (root / "elsewhere").mkdir()
    printed = run_without_lookback(LOADER, *folders, folder=root / "elsewhere")
    assert printed.split() == ["EQUAL"] * len(folders)


def test_every_family_loads_without_lookback_and_computes_the_same(tmp_path: Path) -> None:
    made: tuple[Callable[[Path], list[Path]], ...] = (biencoders, llaras, srlms)
    load_all(tmp_path, [folder for make in made for folder in make(tmp_path)])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "retriever", "tied"), [("gpt2", "llama", True), ("opt", "qwen", False)])
def test_self_retrieval_lms_of_other_backbones_do_so_too(
    tmp_path: Path, family: str, retriever: str, tied: bool
) -> None:
    load_all(tmp_path, srlms(tmp_path, family, retriever, tied))
