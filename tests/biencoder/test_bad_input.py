"""Bad input: a ValueError or TypeError that names the value, before any compute."""

import math
import re

import numpy
import pytest
import torch
from peft import LoraConfig
from transformers import T5Config, T5Model

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer

IDS = random_ids(2, 4)
GOOD = {"query": {"input_ids": IDS}, "passage": {"input_ids": random_ids(4, 4)}}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> BiEncoderModel:
    """A model whose backbone must not be reached."""
    prompts = {"default": {"query": "q: "}, "icl": {"query_suffix": "\n"}}
    model = BiEncoderModel.from_backbone(tiny_backbone(), tiny_tokenizer(), prompts=prompts, embedding_dims=[8])
    monkeypatch.setattr(model.backbone, "forward", lambda *args, **kwargs: pytest.fail("computed on bad input"))
    return model


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"poolin": "cls"}, ValueError, "'poolin': did you mean 'pooling'"),
        ({"revison": "main"}, ValueError, "'revison': did you mean 'revision'"),
        ({"pooling": "last"}, ValueError, "Did you mean 'last_token'"),
        ({"pooling_k": 0}, ValueError, "pooling_k=0 must be at least 1"),
        ({"pooling_k": 2.5}, TypeError, "pooling_k=2.5 must be a whole number"),
        ({"temperature": 0.0}, ValueError, "temperature=0.0 must be"),
        ({"temperature": "low"}, TypeError, "temperature='low' must be a finite number"),
        ({"normalize": "yes"}, TypeError, "normalize='yes' must be True or False"),
        ({"similarity": "cos"}, ValueError, "Did you mean 'cosine'"),
        ({"embedding_dims": [8, 33]}, ValueError, "33 is wider than the backbone's 32"),
        ({"embedding_dims": 8}, TypeError, "embedding_dims=8 must be None or a list of whole numbers"),
        ({"max_length": 4096}, ValueError, "longer than the backbone's 2048 positions"),
        ({"prompts": {"default": {"querry": "q"}}}, ValueError, "did you mean 'query'"),
        ({"prompts": {"default": "q: "}}, TypeError, "must be a dict with keys among"),
        ({"prompts": {"default": {"query": 1}}}, TypeError, "must be a string"),
        ({"dtype": torch.bfloat16}, ValueError, "already loaded"),
        ({"tokenizer": 3}, TypeError, "tokenizer must be a transformers tokenizer"),
    ],
)
def test_from_backbone(keywords: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        BiEncoderModel.from_backbone(tiny_backbone(), **keywords)


def test_config_alone_names_the_nearest_keyword() -> None:
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        BiEncoderConfig(temprature=0.1)
    with pytest.raises(TypeError, match=r"text_config=.* must be a backbone's configuration"):
        BiEncoderConfig(text_config={"hidden_size": 3})


def test_backbones_that_cannot_serve() -> None:
    sizes = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    with pytest.raises(TypeError, match="a repo id, a path or a PreTrainedModel, not Linear"):
        BiEncoderModel.from_backbone(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="a bi-encoder already"):
        BiEncoderModel.from_backbone(BiEncoderModel.from_backbone(tiny_backbone()))
    with pytest.raises(ValueError, match="encoder-decoder"):
        BiEncoderModel.from_backbone(T5Model(T5Config(**sizes)))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({}, ValueError, "got none of them"),
        ({"query": GOOD["query"]}, ValueError, "got ['query']"),
        ({**GOOD, "input_ids": IDS}, ValueError, "got ['input_ids', 'query', 'passage']"),
        ({"input_ids": IDS.float()}, TypeError, "dtype torch.float32"),
        ({"input_ids": IDS[0]}, ValueError, "shape (4,)"),
        ({"input_ids": IDS * 0 + 512}, ValueError, "input_ids holds 512, which is not in 0..511, the vocabulary"),
        ({"input_ids": IDS * 0 - 1}, ValueError, "input_ids holds -1, which is not in 0..511"),
        ({**GOOD, "passage": {"input_ids": IDS.repeat(2, 1) + 512}}, ValueError, "passage input_ids holds"),
        ({"input_ids": IDS, "position_ids": IDS * 0 + 2048}, ValueError, "position_ids holds 2048, which is not in"),
        ({"input_ids": IDS[:1].repeat(1, 600)}, ValueError, "rows of 2400 tokens, and the backbone 2048 positions"),
        ({"input_ids": IDS[:0]}, ValueError, "shape (0, 4)"),
        ({"input_ids": IDS.tolist()}, TypeError, "must be a tensor (batch, length), not list"),
        ({"input_ids": IDS.to("meta")}, ValueError, "is on meta, the model on cpu"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 3)}, ValueError, "shape (2, 3)"),
        ({"input_ids": IDS, "attention_mask": torch.tensor([[1] * 4, [0] * 4])}, ValueError, "whole of row 1"),
        ({**GOOD, "query": IDS}, TypeError, "query must be a dict with input_ids"),
        ({**GOOD, "passage": {"input_ids": random_ids(3, 4)}}, ValueError, "3 passages are not a multiple of 2"),
        ({**GOOD, "teacher_scores": torch.ones(4)}, ValueError, "must be (queries, passages for each query) = (2, 2)"),
        ({**GOOD, "teacher_scores": torch.ones(2, 2).long()}, TypeError, "dtype torch.int64"),
        ({**GOOD, "teacher_scores": [[1.0, 2.0]] * 2}, TypeError, "tensor or None, not list"),
        ({**GOOD, "in_batch_negatives": 1}, TypeError, "in_batch_negatives=1 must be True or False"),
        ({**GOOD, "return_loss": "no"}, TypeError, "return_loss='no' must be True or False"),
        ({**GOOD, "sub_batch_size": 2**63}, ValueError, "sub_batch_size=9223372036854775808 must be at most"),
        ({**GOOD, "objectives": {"symmetric_weight": 1.0}}, TypeError, "must be None or of type Objectives, not dict"),
        ({**GOOD, "identity": 3}, TypeError, "identity must be a dict of torch.int64 tensors: it is int"),
        ({**GOOD, "identity": {"query": IDS[:, 0]}}, ValueError, "identity has the shapes {'query': (2,)}"),
        ({**GOOD, "identity": {"query": IDS[:, 0].float()}}, TypeError, "query is torch.float32"),
        ({**GOOD, "query": {"input_ids": IDS, "texts": "a"}}, TypeError, "query holds 'texts' of type str"),
        ({"input_ids": IDS, "teacher_scores": torch.ones(2, 2)}, ValueError, "teacher_scores is given with input_ids"),
        ({"input_ids": IDS, "labels": IDS}, TypeError, "forward has no argument 'labels'"),
        ({"input_ids": IDS, "position_ids": [[0]]}, TypeError, "position_ids must be a tensor of torch.int64"),
        ({"input_ids": IDS, "position_ids": IDS.float()}, TypeError, "not torch.float32"),
        ({"input_ids": IDS, "position_ids": IDS[:, :2]}, ValueError, "position_ids has shape (2, 2)"),
        *[
            ({**GOOD, "teacher_scores": torch.tensor([[0.0, 1.0], [number, 1.0]])}, ValueError, "infinity in row 1")
            for number in (math.nan, math.inf, -math.inf)
        ],
        *[
            (
                {**GOOD, part: {"input_ids": ids, "attention_mask": torch.full(ids.shape, number)}},
                ValueError,
                f"{part} attention_mask holds {number:g}, and must be 1 at tokens and 0 at padding",
            )
            for number in (math.nan, math.inf, 0.5, -1, 2)
            for part, ids in (("query", IDS), ("passage", GOOD["passage"]["input_ids"]))
        ],
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 4) * 1j}, TypeError, "attention_mask has dtype"),
    ],
)
def test_forward(model: BiEncoderModel, batch: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        model(**batch)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"texts": "one text"}, TypeError, "pass [text]"),
        ({"texts": ["a", None]}, TypeError, "texts[1]=None must be a string"),
        ({"texts": numpy.array([["a"], ["b"]])}, TypeError, "texts[0]=['a'] must be a string"),
        ({"texts": numpy.array("a")}, TypeError, "not ndarray: make a list of its texts"),
        ({"texts": {"a": 1}}, TypeError, "not dict: make a list of its texts"),
        ({"texts": (text for text in "ab")}, TypeError, "not generator: make a list of its texts"),
        ({"texts": b"ab"}, TypeError, "texts[0]=97 must be a string"),
        ({"role": "document"}, ValueError, "role='document' is not known"),
        ({"task": "defualt"}, ValueError, "did you mean 'default'"),
        ({"texts": [], "task": "defualt"}, ValueError, "did you mean 'default'"),
        ({"texts": torch.ones(0)}, TypeError, "not Tensor: make a list of its texts"),
        ({"task": ["default"]}, TypeError, "task=['default'] must be None or a text"),
        ({"examples": 3}, TypeError, "examples=3 must be a list of pairs"),
        ({"examples": ""}, TypeError, "examples='' must be a list of pairs"),
        ({"show_progress": "no"}, TypeError, "show_progress='no' must be None or True or False"),
        ({"truncate_dim": torch.ones(2)}, TypeError, "truncate_dim=tensor([1., 1.]) must be a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be at least 1"),
        ({"truncate_dim": 16}, ValueError, "truncate_dim=16 was not trained: use one of embedding_dims=[8]"),
        ({"examples": [("a", "b")]}, ValueError, "no query_suffix"),
        ({"examples": [("a", "b")], "role": "passage"}, ValueError, "before queries only"),
        ({"examples": ["ab"], "task": "icl"}, TypeError, "examples[0]='ab' must be a pair"),
        ({"examples": [("a " * 600, "b")], "task": "icl"}, ValueError, "leaves no room for a text"),
    ],
)
def test_encode(model: BiEncoderModel, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        model.encode(**{"texts": ["a"], **arguments})


def test_encode_needs_a_tokenizer() -> None:
    with pytest.raises(ValueError, match=r"no tokenizer: build it with tokenizer=\.\.\."):
        BiEncoderModel.from_backbone(tiny_backbone()).encode(["a"])


def test_similarity(model: BiEncoderModel) -> None:
    with pytest.raises(ValueError, match=re.escape("a (2, 3) and b (2, 4)")):
        model.similarity(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(TypeError, match="b must be a tensor"):
        model.similarity(torch.ones(2, 3), [[1.0]])
    with pytest.raises(TypeError, match=re.escape("a has dtype torch.int64: vectors must be floating point")):
        model.similarity(torch.ones(2, 3).long(), torch.ones(2, 3))
    with pytest.raises(ValueError, match="a is on cpu, b on meta"):
        model.similarity(torch.ones(2, 3), torch.ones(2, 3, device="meta"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"q_reps": [[1.0]]}, TypeError, "q_reps must be a floating-point tensor of embeddings, not list"),
        ({"p_reps": torch.ones(4, 3).long()}, TypeError, "p_reps must be a floating-point tensor of embeddings, not"),
        ({"p_reps": torch.ones(4)}, ValueError, "p_reps has shape (4,)"),
        ({"q_reps": torch.ones(2, 0)}, ValueError, "q_reps has shape (2, 0)"),
        ({"q_reps": torch.ones(2, 4)}, ValueError, "these must agree"),
        ({"q_reps": torch.ones(2, 3).double()}, ValueError, "these must agree"),
        ({"teacher_scores": torch.full((2, 2), math.nan)}, ValueError, "teacher_scores has NaN or infinity in row 0"),
        ({"in_batch_negatives": None}, TypeError, "in_batch_negatives=None must be True or False"),
        ({"objectives": "kl"}, TypeError, "objectives='kl' must be"),
    ],
)
def test_compute_loss(model: BiEncoderModel, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        model.compute_loss(**{"q_reps": torch.ones(2, 3), "p_reps": torch.ones(4, 3), **arguments})


def test_vectors_that_are_not_finite_are_not_compared(model: BiEncoderModel) -> None:
    with pytest.raises(ValueError, match="b has NaN or infinity"):
        model.similarity(torch.ones(2, 3), torch.full((2, 3), math.inf))


@pytest.mark.parametrize(
    ("width", "message"), [(0, "must be at least 1"), (16, "was not trained"), (64, "not trained")]
)
def test_embed_truncated(model: BiEncoderModel, width: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"truncate_dim={width} {message}|truncate_dim={width} was {message}"):
        model.embed(IDS, truncate_dim=width)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_model_that_is_given_is_taken_over_as_it_is(family):
    """transformers draws anew what it has not drawn or loaded itself; an adapter could not be saved."""
    backbone, weight = tiny_backbone(family, lm_head=False), torch.randn(512, 32)
    backbone.set_input_embeddings(torch.nn.Embedding.from_pretrained(weight.clone(), freeze=False))
    model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), pooling="mean")
    assert torch.equal(model.get_input_embeddings().weight, weight)
    with pytest.raises(ValueError, match="carries an adapter: merge it first"):
        backbone.add_adapter(LoraConfig(r=2, target_modules="all-linear"))
        BiEncoderModel.from_backbone(backbone, tiny_tokenizer())
