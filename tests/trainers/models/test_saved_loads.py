"""What is saved loads, equal, by every way that its card names; the other ways are errors, and no other outputs."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForFeatureExtraction, LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModel, AutoModelForCausalLM

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers import add_adapter, load_adapted
from trainers.commands import merge
from trainers.models.adapters import take_adapter

SIZES = {"context_window_size": 32, "chunk_size": 8, "key_num": 1, "target_size": 16}
IDS = random_ids(1, 80)
BACKBONES = [("srlm", "llama"), ("srlm", "gpt2"), ("biencoder", "llama"), ("biencoder", "bert")]
TARGETS = {"llama": ["q_proj"], "gpt2": ["c_attn"], "bert": ["query"]}


def outputs(model):
    with torch.no_grad():
        output = model.eval()(input_ids=IDS, labels=IDS) if causal(model) else model.eval()(input_ids=IDS)
    return output.loss if causal(model) else output.embeddings


def causal(model):
    return model.config.model_type == "lookback_srlm"


def adapted(family, backbone, folder, kind, plain, tied=False):
    """A model whose adapter lies in folder/run, its base in folder/lm or, complete, in folder/base; its outputs."""
    tied = {"tie_word_embeddings": tied} if backbone == "llama" else {}
    tiny_backbone(backbone, lm_head=family == "srlm", **tied).save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    if family == "srlm":
        model = SelfRetrievalLM.from_components(str(folder / "lm"), retrieval_method="bm25", **SIZES)
    else:
        model = BiEncoderModel.from_backbone(str(folder / "lm"), pooling="mean")
    if kind == "tokens":
        model.resize_token_embeddings(515, mean_resizing=False)
    if not plain:
        model.save_pretrained(folder / "base")
        model = type(model).from_pretrained(folder / "base")
    if kind == "named":
        model.add_adapter(LoraConfig(r=4, target_modules=TARGETS[backbone]), "mine")
        take_adapter(model)  # as the Trainers do
    else:
        add_adapter(model, LoraConfig(r=4), new_token_ids=[512, 513, 514] if kind == "tokens" else None)
    with torch.no_grad():
        for value in [one for one in model.parameters() if one.requires_grad]:
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    expected = outputs(model)
    model.save_pretrained(folder / "run")
    return model, expected


@pytest.mark.cases(1)
@pytest.mark.parametrize("tied", quick_first([True, False]))
@pytest.mark.parametrize("kind", quick_first(["tokens", "lora", "named"]))
@pytest.mark.parametrize(("family", "backbone"), BACKBONES)
def test_an_adapter_of_a_complete_repo_loads_by_every_way(tmp_path, family, backbone, kind, tied):
    model, expected = adapted(family, backbone, tmp_path, kind, plain=False, tied=tied)
    run, base = str(tmp_path / "run"), str(tmp_path / "base")
    auto = AutoModelForCausalLM if family == "srlm" else AutoModel
    peft_auto = AutoPeftModelForCausalLM if family == "srlm" else AutoPeftModelForFeatureExtraction
    as_on_card = auto.from_pretrained(base, trust_remote_code=True)
    as_on_card.load_adapter(run)
    merge.main(["--model", run, "--output", str(tmp_path / "merged")])
    for loaded in (
        as_on_card,
        load_adapted(run),
        peft_auto.from_pretrained(run, trust_remote_code=True),
        type(model).from_pretrained(tmp_path / "merged"),
    ):
        torch.testing.assert_close(outputs(loaded), expected, rtol=0, atol=1e-5)
    with pytest.raises(OSError, match="holds an adapter alone"):
        auto.from_pretrained(run, trust_remote_code=True)


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", quick_first(["tokens", "lora", "named"]))
@pytest.mark.parametrize(("family", "backbone"), BACKBONES)
def test_an_adapter_on_a_plain_backbone_loads_with_lookback_and_not_wrongly(tmp_path, family, backbone, kind):
    model, expected = adapted(family, backbone, tmp_path, kind, plain=True)
    run = str(tmp_path / "run")
    merge.main(["--model", run, "--output", str(tmp_path / "merged")])
    for loaded in (load_adapted(run), type(model).from_pretrained(tmp_path / "merged")):
        torch.testing.assert_close(outputs(loaded), expected, rtol=0, atol=1e-5)
    assert any(isinstance(module, BaseTunerLayer) for module in load_adapted(run).modules())
    # On the bare backbone peft would find none of the weights, warn, and give the base's outputs.
    peft_auto = AutoPeftModelForCausalLM if family == "srlm" else AutoPeftModelForFeatureExtraction
    with pytest.raises(ValueError, match="exclude_modules"):
        peft_auto.from_pretrained(run)
    assert "load_adapted" in json.loads((tmp_path / "run" / "adapter_config.json").read_text())["exclude_modules"]


def test_merge_takes_the_retriever_of_an_adapter_on_a_plain_lm(tmp_path):
    encoder = BiEncoderModel.from_backbone(tiny_backbone(seed=1, lm_head=False), tiny_tokenizer(), pooling="mean")
    encoder.save_pretrained(tmp_path / "retriever")
    tiny_backbone().save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    model = SelfRetrievalLM.from_components(str(tmp_path / "lm"), retriever=str(tmp_path / "retriever"), **SIZES)
    add_adapter(model, LoraConfig(r=4, init_lora_weights=False))
    expected = outputs(model)
    model.save_pretrained(tmp_path / "run")
    command = ["--model", str(tmp_path / "run"), "--output", str(tmp_path / "merged")]
    merge.main([*command, "--retriever", str(tmp_path / "retriever")])
    torch.testing.assert_close(
        outputs(SelfRetrievalLM.from_pretrained(tmp_path / "merged")), expected, rtol=0, atol=1e-5
    )


def test_a_retriever_is_refused_where_the_base_brings_its_own(tmp_path):
    adapted("srlm", "llama", tmp_path, "lora", plain=False)
    with pytest.raises(ValueError, match="retriever='x' is for an adapter of a self-retrieval LM on a plain LM"):
        load_adapted(tmp_path / "run", retriever="x")


def test_forward_takes_what_peft_names_and_refuses_what_is_given():
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), retrieval_method="bm25", **SIZES)
    others = {"inputs_embeds": None, "output_attentions": False, "output_hidden_states": None}
    assert torch.equal(model(IDS, labels=IDS, **others).loss, model(IDS, labels=IDS).loss)
    assert isinstance(model(IDS, labels=IDS, return_dict=False), tuple)
    for given in ({"inputs_embeds": torch.zeros(1, 80, 32)}, {"output_hidden_states": True}, {"lables": IDS}):
        with pytest.raises(TypeError, match=next(iter(given))):
            model(IDS, **given)
