"""The fingerprint of a model: all of its weights, its backbone's configuration, and its tokenizer."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from modeling_biencoder import BiEncoderModel
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.models.identity import (
    ALL_WEIGHTS,
    BACKBONE,
    WEIGHTS_DIGEST,
    all_weights_digest,
    dtype_settings,
    fingerprint,
    tokenizer_digest,
)


def of(model: BiEncoderModel) -> dict[str, str]:
    return fingerprint(model, model.tokenizer)


def test_every_number_of_a_weight_counts_and_its_place() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
    weight = model.backbone.get_input_embeddings().weight.data
    before, last, kept = of(model), weight[-1, -1].clone(), weight[[-3, -2]].clone()
    weight[-1, -1] += 1e-6
    other = of(model)
    assert other.pop(ALL_WEIGHTS) != before[ALL_WEIGHTS] and other.items() < before.items()
    weight[-1, -1] = last
    assert of(model) == before
    weight[[-3, -2]] = weight[[-2, -3]]
    assert of(model)[ALL_WEIGHTS] != before[ALL_WEIGHTS]
    weight[[-3, -2]] = kept
    assert dtype_settings(model) == {"dtype of the weights": "float32"}
    narrow = of(model.to(torch.bfloat16))
    assert dtype_settings(model, "the retriever") == {"dtype of the retriever": "bfloat16"}
    assert narrow[WEIGHTS_DIGEST] != before[WEIGHTS_DIGEST]
    assert of(model.to(torch.float32)) == narrow  # the same numbers, widened


def differing(model: BiEncoderModel, other: BiEncoderModel) -> list[str]:
    return [name for name, digest in of(model).items() if of(other)[name] != digest]


def test_a_backbone_is_how_it_computes_and_buffers_that_are_saved() -> None:
    backbone = tiny_backbone(lm_head=False)
    model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), pooling="mean")
    alike, other = copy.deepcopy(model), copy.deepcopy(model)
    for name, value in {
        "attention_dropout": 0.5,
        "dtype": "bfloat16",
        "eos_token_id": 5,
        "_name_or_path": "a",
    }.items():
        setattr(alike.backbone.config, name, value)
    alike.backbone.set_attn_implementation("eager")
    assert not differing(model, alike)
    other.backbone.config.rope_parameters = {**backbone.config.rope_parameters, "rope_type": "linear", "factor": 2.0}
    assert differing(model, other) == [BACKBONE]
    alike.backbone.register_buffer("of_positions", torch.ones(3), persistent=False)
    assert not differing(model, alike)
    alike.backbone.register_buffer("bias", torch.ones(3))
    assert differing(model, alike) == [ALL_WEIGHTS]
    other = copy.deepcopy(alike)
    other.backbone.bias[2] += 1
    assert differing(alike, other) == [ALL_WEIGHTS]


@pytest.mark.parametrize("family", ["gemma", "qwen"])
def test_a_configuration_is_the_same_when_it_is_read_from_a_folder(family: str, tmp_path) -> None:
    backbone = tiny_backbone(family, lm_head=False)
    model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), pooling="mean", bidirectional=family == "qwen")
    model.save_pretrained(tmp_path)
    assert not differing(model, BiEncoderModel.from_pretrained(tmp_path))
    narrow = BiEncoderModel.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert of(narrow)[BACKBONE] == of(model)[BACKBONE]


def test_numbers_of_all_types_and_sizes_count() -> None:
    def digest(numbers: torch.Tensor) -> str:
        return all_weights_digest(torch.nn.ParameterList([torch.nn.Parameter(numbers, requires_grad=False)]))

    large = torch.arange(300_001).remainder(251).to(torch.bfloat16)
    assert digest(large) == digest(large.float()) != digest(large.flip(0))
    for numbers in (
        large.float() + 0.1,
        large.half() + 0.1,
        large.double(),
        large.to(torch.uint8),
        large[:3],
        large > 5,
    ):
        other = numbers.clone()
        other[-1] = 0
        assert digest(numbers) == digest(numbers.clone()) != digest(other), numbers.dtype
        assert digest(numbers[1:]) == digest(numbers[1:].clone()), numbers.dtype  # where a word begins elsewhere
    assert digest(large[:0]) == digest(large[:0].float())
    with pytest.raises(ValueError, match="the device 'meta' and has no numbers"):
        digest(large.to("meta"))


def test_a_tokenizer_is_what_it_makes_of_a_text() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["a b c", "d"], truncation=True, max_length=2, padding=True)  # which its library keeps with it
    assert tokenizer_digest(tokenizer) == before == tokenizer_digest(tiny_tokenizer())
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    lower = tokenizer_digest(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert len({before, lower, tokenizer_digest(tokenizer)}) == 3


def test_merges_count_where_no_text_shows_them() -> None:
    words = {"<unk>": 0, "q": 1, "z": 2, "qz": 3, "zq": 4}
    found = set()
    for merges in ([("q", "z"), ("z", "q")], [("z", "q"), ("q", "z")]):
        backend = Tokenizer(BPE(words, merges, unk_token="<unk>"))
        found.add(tokenizer_digest(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")))
    for score in (-1.0, -2.0):
        backend = Tokenizer(Unigram([("<unk>", 0.0), ("q", -1.0), ("z", score)], unk_id=0))
        found.add(tokenizer_digest(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")))
    assert len(found) == 4
