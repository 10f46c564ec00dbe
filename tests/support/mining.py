"""What the tests of `lookback mine` share: rows, a small bi-encoder, and the plain search."""

from functools import lru_cache

import torch

from modeling_biencoder import BiEncoderModel
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import SENTENCES

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
PASSAGES = [
    " ".join(WORDS[(i * step + 3 * i) % len(WORDS)] for step in range(1, 2 + i % 6)) + f" {i}" for i in range(40)
]
# Two rows ask the same with other white space; negatives hold a positive, the query and each other.
ROWS = [
    {"query": "where did we leave the lantern", "pos": [PASSAGES[3]], "neg": [PASSAGES[4]], "id": 7, "nothing": None},
    {"query": "the library reads", "pos": [PASSAGES[5], PASSAGES[6]], "neg": [], "teacher_scores": [1.0, 2.0]},
    {"query": " where did we  leave the lantern", "pos": [PASSAGES[8], "not in the corpus at all"], "neg": []},
    {
        "query": PASSAGES[10],
        "pos": [PASSAGES[11].replace(" ", "  ")],
        "neg": [PASSAGES[11], PASSAGES[12], f" {PASSAGES[12]}", PASSAGES[10]],
        "task": "qa",
    },
    {"query": "long documents hold many passages", "pos": [PASSAGES[20]]},
]


@lru_cache
def biencoder(normalize: bool = True) -> BiEncoderModel:
    prompts = {"qa": {"query": "question: "}}
    return BiEncoderModel.from_backbone(
        tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean", normalize=normalize, prompts=prompts
    ).eval()


def dense_scores(model: BiEncoderModel, queries: list[str], passages: list[str]) -> torch.Tensor:
    return model.similarity(model.encode(queries), model.encode(passages, role="passage"))
