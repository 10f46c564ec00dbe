"""Round trips over HTTP with the real client: pushed every way, loaded in a process that has no Lookback."""

import json
import logging
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModel

from hub_cards import push
from tests.support.round_trips import Case, build, fingerprint, load_all
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES, arguments
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, LlaraTrainer, LlaraTrainingArguments, load_adapted
from trainers.commands import merge, pull
from trainers.commands import push as push_command

BIENCODER, LLARA, SRLM = "lookback_biencoder", "lookback_llara", "lookback_srlm"
CLASSES = {BIENCODER: ["AutoModel"], LLARA: ["AutoModel", "AutoModelForCausalLM"], SRLM: ["AutoModelForCausalLM"]}


def shards(hub, repo: str, revision: str = "main") -> list[str]:
    return [name for name in hub.repos[repo].files(revision) if name.startswith("model-")]


def trained(folder: Path, model, peft_config=None, **settings) -> BiEncoderTrainer:
    args = arguments(
        BiEncoderTrainingArguments, folder, max_steps=2, train_group_size=2, push_to_hub=True,
        hub_token="hf_write", **settings,
    )  # fmt: skip
    trainer = BiEncoderTrainer(model, args, PAIRS, peft_config=peft_config)
    trainer.train()
    return trainer


@pytest.mark.slow
def test_the_families_by_every_way(hub, tmp_path, capsys, caplog, monkeypatch):
    """Sharded, a resized vocabulary, tied and untied, a nested retriever, private, pinned, adapters alone."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    one, two = build(BIENCODER), build(BIENCODER, seed=5)
    first = one.push_to_hub("user/biencoder", max_shard_size="40KB")
    wanted = {"one": fingerprint(one), "two": fingerprint(two)}
    assert len(shards(hub, "user/biencoder")) > 1
    two.push_to_hub("user/biencoder")
    assert not shards(hub, "user/biencoder") and "model.safetensors" in hub.repos["user/biencoder"].files()
    hub.repos["user/biencoder"].tags["v1"] = first.oid

    llara = build(LLARA, "gpt2", tie_word_embeddings=True)
    wanted["llara"] = fingerprint(llara)
    llara.save_pretrained(tmp_path / "llara", max_shard_size="60KB")
    push_command.main(["--folder", str(tmp_path / "llara"), "--repo_id", "user/llara"])
    capsys.readouterr()
    pull.main(["--repo_id", "user/llara"])
    again = type(llara).from_pretrained(capsys.readouterr().out.strip())
    torch.testing.assert_close(fingerprint(again), wanted["llara"], rtol=0, atol=1e-6)

    srlm = build(SRLM, tie_word_embeddings=False)
    wanted["srlm"] = fingerprint(srlm)
    push(srlm, "user/srlm", private=True)

    trainer = trained(tmp_path / "adapter", "user/biencoder", LoraConfig(r=2), hub_model_id="user/adapter",
                      learning_rate=0.1)  # fmt: skip
    trainer.push_to_hub()
    wanted["adapted"] = fingerprint(trainer.model)
    assert (wanted["adapted"] - wanted["two"]).abs().max() > 1e-2
    base = hub.repos["user/biencoder"].branches["main"]
    recorded = trainer.model.peft_config["default"]
    assert (recorded.base_model_name_or_path, recorded.revision) == ("user/biencoder", base)
    torch.testing.assert_close(fingerprint(AutoModel.from_pretrained("user/adapter")), wanted["adapted"])
    assert "was trained on commit" not in caplog.text
    build(BIENCODER, seed=9).push_to_hub("user/biencoder")  # the adapter's base is the commit that it names
    AutoModel.from_pretrained("user/adapter")  # transformers takes the newest one
    assert f"The adapter was trained on commit {base} of 'user/biencoder'" in caplog.text
    torch.testing.assert_close(fingerprint(load_adapted("user/adapter")), wanted["adapted"], rtol=0, atol=1e-5)
    merge.main(["--model", "user/adapter", "--output", str(tmp_path / "merged")])
    push(tmp_path / "merged", "user/merged")

    cases = [
        Case("user/biencoder", "AutoModel", "one", BIENCODER, {"revision": first.oid}),
        Case("user/biencoder", "AutoModel", "one", BIENCODER, {"revision": "v1"}),
        Case("user/biencoder", "AutoModel", "two", BIENCODER, {"revision": base}),
        *(Case("user/llara", auto, "llara", LLARA) for auto in CLASSES[LLARA]),
        Case("user/srlm", "AutoModelForCausalLM", "srlm", SRLM),
        Case("user/biencoder", "AutoModel", "adapted", BIENCODER, {"revision": base}, adapter="user/adapter"),
        Case("user/adapter", "AutoPeftModelForFeatureExtraction", "adapted", BIENCODER, {"revision": "main"}),
        Case("user/merged", "AutoModel", "adapted", BIENCODER),
    ]
    untrusted = {"repo": "user/biencoder", "auto": "AutoModel", "keywords": {}, "says": "trust_remote_code=True"}
    private = {"repo": "user/srlm", "auto": "AutoModelForCausalLM", "says": "private",
               "keywords": {"trust_remote_code": True, "token": False}}  # fmt: skip
    load_all(hub, tmp_path / "elsewhere", cases, wanted, [untrusted, {**untrusted, "auto": "AutoConfig"}, private])


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", [BIENCODER, LLARA])
def test_an_adapter_on_a_plain_backbone_names_its_commit(hub, tmp_path, family):
    """There is no repo of the base: it is built again, from the backbone as it was then."""
    backbone = tiny_backbone()
    backbone.push_to_hub("user/backbone")
    tiny_tokenizer().push_to_hub("user/backbone")
    commit = hub.repos["user/backbone"].branches["main"]
    kind, settings = (
        (BiEncoderTrainer, BiEncoderTrainingArguments)
        if family == BIENCODER
        else (LlaraTrainer, LlaraTrainingArguments)
    )
    args = arguments(settings, tmp_path / "out", max_steps=1, learning_rate=0.1, hub_model_id="user/adapter")
    rows = PAIRS if family == BIENCODER else PASSAGES
    trainer = kind("user/backbone", args, rows, peft_config=LoraConfig(r=2))
    trainer.train()
    trainer.push_to_hub()
    recorded = json.loads(hub.repos["user/adapter"].files()["adapter_config.json"])
    assert (recorded["base_model_name_or_path"], recorded["revision"]) == ("user/backbone", commit)
    weights = [name for name in hub.repos["user/adapter"].files() if name.endswith(".safetensors")]
    assert weights == ["adapter_model.safetensors"]
    tiny_backbone(seed=3).push_to_hub("user/backbone")
    again = load_adapted("user/adapter", revision="main")
    torch.testing.assert_close(fingerprint(again), fingerprint(trainer.model), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_every_family_tied_and_not_full_and_sharded_by_every_way(hub, tmp_path):
    cases, wanted = [], {}
    backbones = {BIENCODER: ("llama", "bert"), LLARA: ("llama", "qwen", "opt"), SRLM: ("llama", "gpt2")}
    for family, names in backbones.items():
        for number, (name, tied, size) in enumerate(product(names, (True, False), ("40KB", "50GB"))):
            key = f"{family}-{number}"
            model = build(family, name, seed=number, **({} if name == "bert" else {"tie_word_embeddings": tied}))
            wanted[key] = fingerprint(model)
            if number % 2:
                model.push_to_hub(f"user/{key}", max_shard_size=size, private=bool(number % 3))
            else:
                model.save_pretrained(tmp_path / key, max_shard_size=size)
                push_command.main(["--folder", str(tmp_path / key), "--repo_id", f"user/{key}"])
            assert bool(shards(hub, f"user/{key}")) == (size == "40KB")
            cases += [Case(f"user/{key}", auto, key, family) for auto in CLASSES[family]]
    load_all(hub, tmp_path / "elsewhere", cases, wanted, [])
