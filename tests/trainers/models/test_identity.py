"""The fingerprint of a model: all of its weights, and its tokenizer."""

import torch
from tokenizers import normalizers

from modeling_biencoder import BiEncoderModel
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.models.identity import ALL_WEIGHTS, WEIGHTS_DIGEST, fingerprint, tokenizer_digest


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
    narrow = of(model.to(torch.bfloat16))
    assert narrow[WEIGHTS_DIGEST] != before[WEIGHTS_DIGEST]
    assert of(model.to(torch.float32)) == narrow  # the same numbers, widened


def test_a_tokenizer_is_what_it_makes_of_a_text() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["a b c", "d"], truncation=True, max_length=2, padding=True)  # which its library keeps with it
    assert tokenizer_digest(tokenizer) == before == tokenizer_digest(tiny_tokenizer())
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    lower = tokenizer_digest(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert len({before, lower, tokenizer_digest(tokenizer)}) == 3
