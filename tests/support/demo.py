"""What the tests of the demo share: findings that no model was run for, and stand-ins for the pretrained models."""

import math
from typing import Any

import torch

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers.demo.figures import Findings, Reading
from trainers.demo.settings import PRETRAINED_SETTINGS, PretrainedArguments
from trainers.perplexity.data import TokenizedDocument

CHUNKS, CHUNK = 3, 16
WAYS = [
    ("exact", "no", "before"), ("exact", "random", "before"), ("exact", "bm25", "before"),
    ("exact", "dense", "before"), ("exact", "oracle", "before"), ("reuse", "no", "before"),
    ("reuse", "dense", "before"), ("exact", "dense", "after"), ("reuse", "dense", "after"),
]  # fmt: skip


def findings(gains: dict[tuple[str, str, str], float], texts: int = 6, after: int = 1) -> Findings:
    """Findings in which a way makes each text's loss smaller by its gain, and the fine-tuned retriever ranks `after`.

    Before it was fine-tuned it ranked every right answer second, and BM25 fourth.
    """
    srlm = SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), context_window_size=64, chunk_size=CHUNK, key_num=2, retrieval_method="bm25"
    )
    documents = [TokenizedDocument(f"<{number}>", random_ids(12 * CHUNK, seed=number)) for number in range(texts)]
    readings = [
        reading(way, document.name, 2.0 + 0.1 * number - gains.get(way, 0.0))
        for way in WAYS
        for number, document in enumerate(documents[: 2 if way[1] == "oracle" else texts])
    ]
    log = [{"step": step, "loss": 3.0 / step, "contrastive_loss": 1.0 / step} for step in (1, 2, 3)]
    return Findings(
        lm="A model", lm_size=4_200_000, retriever="a retriever", readings=readings, documents={"code": documents},
        chunks=CHUNKS, ranks={"BM25": [4] * 8, "before": [2] * 8, "after": [after] * 8},
        histories={"a retriever": log}, rows={"code": 20, "chunks": 4}, reloaded={"srlm": (1.5, 1.5)}, srlm=srlm,
    )  # fmt: skip


def reading(way: tuple[str, str, str], text: str, loss: float) -> Reading:
    """A text of 12 chunks whose last ones have this loss; with kept states more of them, at 9 nats, stand before."""
    count = CHUNKS if way[0] == "exact" else 2 * CHUNKS
    losses = [9.0] * (count - CHUNKS) + [loss] * CHUNKS
    looks = way[1] != "no"
    return Reading(
        kind="code", text=text, mode=way[0], method=way[1], stage=way[2], losses=losses,
        targets=list(range(12 - count, 12)), retrieved=[[1, 0] if looks else [-1, -1]] * count,
        scores=[[0.5, 0.25] if looks else [None, None]] * count, seconds=1.0,
    )  # fmt: skip


def perplexity(loss: float, texts: int = 6) -> float:
    """Of texts whose losses are `loss`, 0.1 more, 0.2 more, ..."""
    return math.exp(loss + 0.1 * (texts - 1) / 2)


def tiny_lm(retriever: Any = None) -> SelfRetrievalLM:
    """In place of SmolLM2-135M."""
    settings = {**PRETRAINED_SETTINGS, "retrieval_method": "dense"}
    return SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), retriever=retriever, **settings).eval()


def tiny_retriever(*_: Any) -> BiEncoderModel:
    """In place of all-MiniLM-L6-v2."""
    backbone = tiny_backbone("bert", lm_head=False)
    return BiEncoderModel.from_backbone(
        backbone, tokenizer=tiny_tokenizer("right"), pooling="mean", max_length=128
    ).eval()


def tiny_options(folder: Any, **settings: Any) -> PretrainedArguments:
    """Of a loop that takes seconds."""
    sizes = {
        "code_pairs": 12, "holdout_pairs": 12, "feedback_documents": 1, "biencoder_steps": 2, "max_documents": 1,
        "biencoder_batch_size": 4, "document_length": 1280,
    }  # fmt: skip
    torch.manual_seed(0)
    return PretrainedArguments(output_dir=str(folder), **{**sizes, **settings})
