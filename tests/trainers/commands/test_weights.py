"""Weights in bfloat16 and int8 (torchao): in the commands that embed, and as Python loads and saves them."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.beir import CORPUS, write_beir
from tests.support.files import write_rows
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers import load_embeddings
from trainers.commands import encode, evaluate, explain, generate, mine, needle, perplexity, score, search, train_lm
from trainers.commands.loading import WeightsArguments
from trainers.models import quantization
from trainers.models.adapters import add_adapter
from trainers.models.load import load_biencoder, load_llara
from trainers.models.merging import merge_adapter

TEXTS = [*CORPUS.values(), "a long one " * 40, ""]
INT8 = quantization.INT8
SIZES = {"context_window_size": 64, "chunk_size": 16, "target_size": 16, "key_num": 1}
KINDS = [("bfloat16", None), *[(dtype, name) for dtype in (None, "bfloat16") for name in INT8]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models around a Llama and a BERT, a LLaRA model, and `rows.jsonl`."""
    root = tmp_path_factory.mktemp("weights")
    prompts = {"default": {"query": "which of the documents answers it? " * 6, "query_suffix": "!"}}
    for family, settings in (("llama", {"prompts": prompts, "append_eos": True}), ("bert", {"pooling": "mean"})):
        backbone = tiny_backbone(family, lm_head=False)
        BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), **settings).save_pretrained(root / family)
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_pretrained(root / "llara")
    write_rows(root / "rows.jsonl", [{"_id": key, "text": text} for key, text in CORPUS.items()])
    return root


def weights(dtype: str | None, name: str | None) -> dict:
    if name is not None:
        pytest.importorskip("torchao")
    return WeightsArguments(dtype, name).keywords()


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return 1 - torch.cosine_similarity(one, other).min().item()


def is_held(model: BiEncoderModel, dtype: str | None, name: str | None) -> bool:
    """Whether the weights are as they were asked for: the linear layers' in int8, all others in the type."""
    kinds = {type(one).__name__ for one in model.parameters()}
    return model.dtype == getattr(torch, dtype or "float32") and ("Int8Tensor" in kinds) == (name is not None)


@pytest.mark.cases(2)
@pytest.mark.parametrize(("dtype", "name"), KINDS)
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_embeddings_are_near_and_stay_after_a_save(folder, tmp_path, kind, dtype, name):
    exact = load_biencoder(str(folder / kind)).encode(TEXTS)
    model = load_biencoder(str(folder / kind), **weights(dtype, name))
    assert is_held(model, dtype, name)
    embedded = model.encode(TEXTS)
    assert embedded.dtype == torch.float32
    assert 0 < apart(embedded, exact) < 0.01
    model.save_pretrained(tmp_path / "saved")
    again = load_biencoder(str(tmp_path / "saved"))
    assert is_held(again, dtype, name)
    assert torch.equal(again.encode(TEXTS), embedded)


@pytest.mark.parametrize(("dtype", "name"), KINDS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_neither_padding_nor_the_batch_says_anything(folder, family, dtype, name):
    model = BiEncoderModel.from_pretrained(folder / family, **weights(dtype, name)).eval()
    right = model.tokenize(TEXTS, role="passage")
    left = {
        key: torch.stack(
            [row.roll(int((mask == 0).sum())) for row, mask in zip(rows, right["attention_mask"], strict=True)]
        )
        for key, rows in right.items()
    }
    with torch.no_grad():
        together = model.embed(**right)
        assert torch.equal(model.embed(**left), together)
    alone = torch.cat([model.encode([text], role="passage") for text in TEXTS])
    assert apart(together, alone) < 2e-3


@pytest.mark.parametrize(("dtype", "name"), KINDS)
def test_a_llara_model_embeds_so_too(folder, tmp_path, dtype, name):
    model = load_biencoder(str(folder / "llara"), **weights(dtype, name))
    assert is_held(model, dtype, name)
    assert 0 < apart(model.encode(TEXTS), load_biencoder(str(folder / "llara")).encode(TEXTS)) < 0.01
    if name is not None:
        with pytest.raises(ValueError, match=r"'backbone.*' are quantised, and of another model than this one"):
            model.save_pretrained(tmp_path / "saved")


DENSE = [{"in_features": 32, "out_features": 16, "activation": "Tanh"}]


@pytest.mark.cases(2)
@pytest.mark.parametrize("dense", [None, DENSE])
@pytest.mark.parametrize(("dtype", "name"), KINDS)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_backbone_that_is_quantised_is_saved_in_its_bi_encoder(folder, tmp_path, family, dtype, name, dense):
    tiny_backbone(family, lm_head=False).save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    settings = {"pooling": "mean", "dense": dense, **weights(dtype, name)}
    model = BiEncoderModel.from_backbone(tmp_path / "plain", **settings).eval()
    assert is_held(model, dtype, name)
    if dense is not None:  # as those of a sentence-transformers model are
        model.dense.to(model.dtype)
    model.save_pretrained(tmp_path / "saved")
    again = BiEncoderModel.from_pretrained(tmp_path / "saved").eval()
    assert [type(one) for one in again.parameters()] == [type(one) for one in model.parameters()]
    assert torch.equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", INT8)
def test_an_adapter_lies_on_int8_weights_and_is_not_merged_into_them(folder, tmp_path, name):
    for kind, family in (("llama", BiEncoderModel), ("llara", LlaraForPreTraining)):
        model = family.from_pretrained(folder / kind)
        add_adapter(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(tmp_path / kind)
    exact = load_biencoder(str(tmp_path / "llama"))
    model = load_biencoder(str(tmp_path / "llama"), **weights(None, name))
    assert is_held(model, None, name)
    assert apart(model.encode(TEXTS), exact.encode(TEXTS)) < 0.01
    assert apart(exact.encode(TEXTS), load_biencoder(str(folder / "llama")).encode(TEXTS)) > 0.01
    with pytest.raises(ValueError, match="quantised, and merging would round them"):
        merge_adapter(model)
    with pytest.raises(ValueError, match="without quantization_config"):
        load_biencoder(str(tmp_path / "llara"), **weights(None, name))


@pytest.mark.cases(2)
@pytest.mark.parametrize(("dtype", "name"), KINDS)
def test_a_language_model_that_looks_back_has_and_keeps_them_too(tmp_path, dtype, name):
    tiny_backbone().save_pretrained(tmp_path / "plain")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    settings = {"retrieval_method": "bm25", "context_window_size": 64, "chunk_size": 16}
    keywords = weights(dtype, name)
    SelfRetrievalLM.from_components(tmp_path / "plain", **settings).save_pretrained(tmp_path / "exact")
    model = SelfRetrievalLM.from_components(tmp_path / "plain", model_kwargs=keywords, **settings).eval()
    model.save_pretrained(tmp_path / "saved")
    ids = random_ids(1, 256)
    exact, *others = (
        SelfRetrievalLM.from_pretrained(folder, **keywords).eval()
        for folder, keywords in ((tmp_path / "exact", {}), (tmp_path / "saved", {}), (tmp_path / "exact", keywords))
    )
    with torch.no_grad():
        losses = [one(input_ids=ids, labels=ids).loss.item() for one in (exact, model, *others)]
    assert is_held(model, dtype, name)
    assert losses[1] == losses[2] == losses[3] != losses[0]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)


def run(command, **options: object) -> None:
    command.main([part for name, value in options.items() for part in (f"--{name}", str(value))])


@pytest.mark.cases(1)
@pytest.mark.parametrize(("dtype", "name"), KINDS)
def test_an_index_says_what_made_it_and_is_searched_so(folder, tmp_path, capsys, dtype, name):
    chosen = {key: value for key, value in (("dtype", dtype), ("quantization", name)) if value is not None}
    model, index = folder / "llama", tmp_path / "index.safetensors"
    expected = load_biencoder(str(model), **weights(dtype, name))
    run(encode, model=model, data=folder / "rows.jsonl", output=index, **chosen)
    passages, ids = load_embeddings(index)
    assert torch.equal(torch.as_tensor(passages), expected.encode(list(CORPUS.values()), role="passage"))
    capsys.readouterr()
    run(search, index=index, model=model, query="an island", top_k=1)
    best = (expected.encode(["an island"], role="query") @ torch.as_tensor(passages).T)[0].max()
    found = capsys.readouterr().out.split("\t")
    assert found[0] in ids
    assert found[1] == f"{best:.4f}"
    if dtype == "bfloat16":
        with pytest.raises(ValueError, match="has other weights than the model"):
            run(search, index=index, model=model, query="an island", dtype="float32")


def test_an_interrupted_run_goes_on_with_the_same_weights_alone(folder, tmp_path, monkeypatch):
    given = {"model": folder / "bert", "data": folder / "rows.jsonl", "output": tmp_path / "e.npy", "batch_size": 1}
    monkeypatch.setattr(encode, "write_embeddings", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(encode, **given, dtype="bfloat16")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="dtype"):
        run(encode, **given)
    run(encode, **given, dtype="bfloat16")
    assert json.loads((tmp_path / "e.about.json").read_text())["dtype"] == "bfloat16"


def test_evaluate_measures_the_weights_that_it_is_told(folder, tmp_path, monkeypatch):
    write_beir(tmp_path / "beir")
    loaded = []

    def load(*args, **keywords):
        loaded.append(load_biencoder(*args, **keywords))
        return loaded[-1]

    monkeypatch.setattr(evaluate, "load_biencoder", load)
    run(evaluate, model=folder / "bert", data=tmp_path / "beir", dtype="bfloat16")
    assert [model.dtype for model in loaded] == [torch.bfloat16]


@pytest.fixture(scope="module")
def lm_folder(tmp_path_factory) -> Path:
    """A language model that looks back by its own retriever, the plain one, an adapter of either, and a text."""
    root = tmp_path_factory.mktemp("looking_back")
    tiny_backbone().save_pretrained(root / "plain")
    tiny_tokenizer().save_pretrained(root / "plain")
    retriever = BiEncoderModel.from_backbone(tiny_backbone("bert", lm_head=False), tiny_tokenizer(), pooling="mean")
    retriever.save_pretrained(root / "retriever")
    model = SelfRetrievalLM.from_components(root / "plain", retriever=retriever, **SIZES)
    model.save_pretrained(root / "srlm")
    model = SelfRetrievalLM.from_pretrained(root / "srlm")
    add_adapter(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(root / "adapter")
    (root / "text.txt").write_text(" ".join(CORPUS.values()) * 20)
    rows = [{"query": "what?", "pos": [text], "neg": ["an island"], "answers": ["a hill"]} for text in CORPUS.values()]
    write_rows(root / "rows.jsonl", rows)
    return root


@pytest.fixture
def loaded(monkeypatch) -> list:
    """What the commands load."""
    found: list = []
    for command, name in ((generate, "load_srlm"), (perplexity, "load_srlm"), (score, "load_srlm"),
                          (needle, "load_srlm"), (mine, "load_biencoder"), (score, "load_teacher")):  # fmt: skip
        load = getattr(command, name)
        monkeypatch.setattr(command, name, lambda *a, load=load, **k: found.append(load(*a, **k)) or found[-1])
    return found


@pytest.mark.cases(2)
@pytest.mark.parametrize("source", ["plain", "srlm", "adapter"])
@pytest.mark.parametrize("command", [perplexity, generate, needle, score])
def test_looking_back_in_the_type_that_is_asked_for(lm_folder, tmp_path, loaded, command, source):
    asked: dict = {
        perplexity: {"data": lm_folder / "text.txt", "methods": "dense", "scored_tokens": 32},
        generate: {"prompt_file": lm_folder / "text.txt", "retrieval_method": "dense", "max_new_tokens": 2},
        needle: {"data": lm_folder / "text.txt", "lengths": 300, "samples": 1, "methods": "dense", "depths": 0,
                 "max_new_tokens": 1},
        score: {"data": lm_folder / "rows.jsonl", "output": tmp_path / "scored.jsonl", "task": "qa"},
    }[command]  # fmt: skip
    if command is not score:
        asked |= SIZES | ({"retriever": lm_folder / "retriever"} if source == "plain" else {})
    run(command, model=lm_folder / source, dtype="bfloat16", **asked)
    (model,) = loaded
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
    assert model.retriever is None if command is score and source == "plain" else model.retriever is not None


@pytest.mark.parametrize("command", [mine, score])
def test_a_retriever_that_mines_or_teaches_in_the_type_that_is_asked_for(lm_folder, tmp_path, loaded, command):
    other = {mine: "model", score: "teacher"}[command]
    common = {"data": lm_folder / "rows.jsonl", "output": tmp_path / "out.jsonl", other: lm_folder / "retriever"}
    common |= {"rank_from": 1} if command is mine else {}
    run(command, **common, dtype="bfloat16")
    assert [getattr(one, "model", one).dtype for one in loaded] == [torch.bfloat16]
    if command is mine:
        with pytest.raises(ValueError, match=r"--dtype='bfloat16' .*with --retriever bm25"):
            run(mine, data=common["data"], output=tmp_path / "o.jsonl", retriever="bm25", dtype="bfloat16")


def test_the_language_model_alone_is_asked_in_that_type(lm_folder, loaded):
    texts = {"data": lm_folder / "text.txt", "lengths": 300, "samples": 1, "depths": 0, "max_new_tokens": 1}
    run(needle, model=lm_folder / "srlm", methods="alone", dtype="bfloat16", **texts)
    assert [model.dtype for model in loaded] == [torch.bfloat16]


@pytest.mark.cases(1)
@pytest.mark.parametrize("source", ["plain", "srlm"])
def test_a_language_model_trains_in_the_type_that_is_asked_for(lm_folder, tmp_path, source):
    given = {"retriever": lm_folder / "retriever"} if source == "plain" else {}
    run(
        train_lm, model=lm_folder / source, train_data=lm_folder / "text.txt", output_dir=tmp_path / "out",
        dtype="bfloat16", max_steps=1, report_to="none", use_cpu=True, document_length=128, **SIZES, **given,
    )  # fmt: skip
    trained = SelfRetrievalLM.from_pretrained(tmp_path / "out")
    assert {one.dtype for one in trained.parameters()} == {torch.bfloat16}


def test_words_are_explained_in_the_type_that_is_asked_for(folder, monkeypatch):
    found = []
    monkeypatch.setattr(explain, "load_llara", lambda *a, **k: found.append(load_llara(*a, **k)) or found[-1])
    explain.main(["a text", "--model", str(folder / "llara"), "--dtype", "bfloat16"])
    assert [model.dtype for model in found] == [torch.bfloat16]


def test_what_cannot_be_is_named(monkeypatch):
    with pytest.raises(ValueError, match=r"dtype='int8' is no type of weights: take float32"):
        WeightsArguments(dtype="int8")
    with pytest.raises(ValueError, match=r"--quantization='int8' is not known: it must be one of"):
        WeightsArguments(quantization="int8")
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="quantization='int8_weight_only' needs torchao: pip install torchao"):
        WeightsArguments(quantization="int8_weight_only")
