"""A tokenizer that is not the model's: ids beyond the embeddings are refused, contradicting files are said."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers.utils import logging

from hub_cards.travelling.vocabulary import check_rows, contradiction, load_tokenizer
from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.families import build
from tests.support.sentence_folders import saved
from tests.support.tiny import VOCABULARY_SIZE, tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, PASSAGES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)
from trainers.models.load import load_biencoder, load_llara, load_srlm

SMALL = {"context_window_size": 64, "chunk_size": 16, "target_size": 32}
ROWS = len(tiny_tokenizer())
BEYOND = rf"the tokenizer has tokens up to id {ROWS + 1} \('lantern'\), and the embeddings have {ROWS} rows: .*resize"


def larger():
    """A tokenizer that two words were added to."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["copper", "lantern"])
    return tokenizer


def model_of(family, tokenizer=None, source=None):
    """A model around a backbone of as many rows as the tiny tokenizer has tokens."""
    backbone = source or tiny_backbone(family, vocab_size=ROWS)
    return {
        "biencoder": lambda: BiEncoderModel.from_backbone(backbone, tokenizer, pooling="mean"),
        "llara": lambda: LlaraForPreTraining.from_backbone(backbone, tokenizer),
        "srlm": lambda: SelfRetrievalLM.from_components(backbone, tokenizer, retrieval_method="bm25", **SMALL),
    }


@pytest.fixture
def said(monkeypatch):
    """What is said once."""
    lines = []
    monkeypatch.setattr(logging.logging.Logger, "warning_once", lambda self, text, *args: lines.append(text))
    return lines


@pytest.fixture(params=["biencoder", "llara", "srlm"])
def kind(request):
    return request.param


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_ids_beyond_the_embeddings_are_refused(kind, family, tmp_path):
    with pytest.raises(ValueError, match=BEYOND):
        model_of(family, larger())[kind]()
    tiny_backbone(family, vocab_size=ROWS).save_pretrained(tmp_path / "lm")
    larger().save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=BEYOND):  # a bi-encoder reads it when it needs it
        assert model_of(family, source=str(tmp_path / "lm"))[kind]().tokenizer
    made = model_of(family, tiny_tokenizer())[kind]()
    if kind != "llara":  # which made room for its prompts
        with pytest.raises(ValueError, match=BEYOND):
            made.tokenizer = larger()
        made.resize_token_embeddings(ROWS + 2)
        made.tokenizer = larger()


def test_the_trainers_and_commands_refuse_them_before_weights_are_read(kind, tmp_path):
    folder = tmp_path / "lm"
    tiny_backbone(vocab_size=ROWS).save_pretrained(folder)
    larger().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    loads = {
        "biencoder": lambda: load_biencoder(str(folder), "mean"),
        "srlm": lambda: load_srlm(str(folder), {}),
        "llara": lambda: load_llara(str(folder)),
    }
    trainers = {
        "biencoder": (BiEncoderTrainer, BiEncoderTrainingArguments, PAIRS, {"pooling": "mean"}),
        "llara": (LlaraTrainer, LlaraTrainingArguments, PASSAGES, {}),
        "srlm": (SelfRetrievalTrainer, SelfRetrievalTrainingArguments, [{"text": "one two three " * 30}], SMALL),
    }
    if kind != "llara":  # `explain` takes no backbone
        with pytest.raises(ValueError, match=BEYOND):
            loads[kind]()
    trainer, settings, rows, model_kwargs = trainers[kind]
    with pytest.raises(ValueError, match=BEYOND):
        trainer(str(folder), arguments(settings, tmp_path / "run"), rows, model_kwargs=model_kwargs)


def test_a_repo_of_ours_with_another_tokenizer(kind, tmp_path):
    build(kind).save_pretrained(tmp_path / "repo")
    tokenizer = larger()
    tokenizer.add_tokens([f"word {number}" for number in range(VOCABULARY_SIZE)])
    tokenizer.save_pretrained(tmp_path / "repo")
    loaded = {"biencoder": BiEncoderModel, "llara": LlaraForPreTraining, "srlm": SelfRetrievalLM}[kind]
    model = loaded.from_pretrained(tmp_path / "repo")
    with pytest.raises(ValueError, match=r"the tokenizer has tokens up to id .* rows"):
        assert model.tokenizer
    load = {"biencoder": load_biencoder, "llara": load_llara, "srlm": lambda source: load_srlm(source, {})}[kind]
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match=r"the tokenizer has tokens up to id .* rows"):
        load(str(tmp_path / "repo"))


def test_a_nested_retriever_with_another_tokenizer(tmp_path):
    build("srlm").save_pretrained(tmp_path / "repo")
    tokenizer = larger()
    tokenizer.add_tokens([f"word {number}" for number in range(VOCABULARY_SIZE)])
    tokenizer.save_pretrained(tmp_path / "repo/retriever_tokenizer")
    with pytest.raises(ValueError, match="the retriever's embeddings have"):
        load_srlm(str(tmp_path / "repo"), {})
    model = SelfRetrievalLM.from_pretrained(tmp_path / "repo")
    with pytest.raises(ValueError, match="the retriever's embeddings have"):
        assert model.retriever_tokenizer


def test_tokens_that_a_text_has_to_name_may_lie_beyond():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})  # as Gemma 3 has them
    check_rows(tokenizer, ROWS)
    model = BiEncoderModel.from_backbone(tiny_backbone(vocab_size=ROWS), tokenizer, pooling="mean")
    assert model.encode(["a lantern"]).isfinite().all()
    with pytest.raises(ValueError, match=str(ROWS)):  # and not when it does so
        model.encode(["an <image>"])
    padded = tiny_tokenizer()
    padded.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(ValueError, match=rf"up to id {ROWS} \('\[PAD\]'\)"):
        check_rows(padded, ROWS)


def test_no_tokenizer_is_made_of_nothing(tmp_path):
    for family in ("bert", "gpt2", "qwen", "gemma", "opt", "llama", "mistral"):
        folder = tmp_path / family
        tiny_backbone(family).save_pretrained(folder)
        with pytest.raises(ValueError, match=r"no tokenizer could be loaded .* it has no tokenizer\.json"):
            load_tokenizer(folder, {})


def test_two_files_that_contradict_each_other_are_said(tmp_path, said):
    tiny_tokenizer().save_pretrained(tmp_path)
    ids = tiny_tokenizer().get_vocab()
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    load_tokenizer(tmp_path, {})
    assert not said
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    load_tokenizer(tmp_path, {})
    (line,) = said
    assert (
        "two tokenizers that differ: " in line and "in tokenizer.json, which is read" in line and "vocab.json" in line
    )


def test_two_tokenizers_of_a_sentence_transformers_model_are_said(tmp_path, said):
    folder = saved(tmp_path / "st", path="0_Transformer")
    BiEncoderModel.from_backbone(folder)
    assert not said
    words = json.loads((Path(folder) / "0_Transformer/tokenizer.json").read_text())
    ids = words["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    (Path(folder) / "tokenizer.json").write_text(json.dumps(words))
    (Path(folder) / "tokenizer_config.json").write_text(
        (Path(folder) / "0_Transformer/tokenizer_config.json").read_text()
    )
    lm, tokenizer = tiny_backbone(), tiny_tokenizer()
    model = BiEncoderModel.from_backbone(folder)
    SelfRetrievalLM.from_components(lm, tokenizer, retriever=folder, **SMALL)
    assert len(said) == 2 and all("two tokenizers that differ" in line and "'0_Transformer'" in line for line in said)
    assert torch.equal(
        model.tokenizer(["a"], return_tensors="pt")["input_ids"], tokenizer(["a"], return_tensors="pt")["input_ids"]
    )


@pytest.mark.cases(1)
def test_a_tokenizer_that_is_given_and_is_another_is_said(kind, tmp_path, said):
    tiny_backbone().save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    model_of("llama", tiny_tokenizer("right"), str(tmp_path / "lm"))[kind]()
    assert not [line for line in said if "tokenizer" in line]
    words = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    ids = words["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    other = tiny_tokenizer()
    other = type(other)(tokenizer_object=other.backend_tokenizer.from_str(json.dumps(words)), eos_token="</s>")
    model_of("llama", other, str(tmp_path / "lm"))[kind]()
    assert len([line for line in said if "The tokenizer given has" in line]) == 1


@pytest.mark.parametrize("path", ["lm", "st"])
def test_other_merges_alone_are_said(tmp_path, said, path):
    """Of a tokenizer that is given, and of two in a sentence-transformers model."""
    backend = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    backend["model"]["merges"].reverse()
    other = type(tiny_tokenizer())(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="</s>")
    if path == "lm":
        tiny_backbone().save_pretrained(tmp_path / "lm")
        tiny_tokenizer().save_pretrained(tmp_path / "lm")
        BiEncoderModel.from_backbone(tmp_path / "lm", other)
    else:
        folder = saved(tmp_path / "st", path="0_Transformer")
        other.save_pretrained(folder)
        BiEncoderModel.from_backbone(folder)
    assert len([line for line in said if "has other merges, or scores of its tokens" in line]) == 1


def test_what_contradicts():
    assert contradiction({"a": 1, "b": 2}, {"b": 2, "c": 1}) is None
    assert contradiction({"a": 1, "b": 2}, {"a": 2, "b": 1}) == "b"
