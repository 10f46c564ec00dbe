"""Queries embedded with `encode` behind in-context examples of 640 tokens, against reading all of it for each query.

Queries of 16 words, 32 at a time on both sides, the same weights and the same token ids.
"""

import torch

from modeling_biencoder import BiEncoderModel
from modeling_biencoder.encoding_biencoder import tokenize
from modeling_biencoder.prompting_biencoder import embed_rows

from ..compare import Comparison, compare
from ..options import Options
from ..outcome import Outcome
from ..shapes import SHAPES, random_backbone, random_document, word_tokenizer
from .encode import same_embeddings

SIZES = {"cpu": ("small",), "cuda": ("1b",)}
MARKS = {(size, device): 8.0 for size, device in (("small", "cpu"), ("medium", "cpu"), ("1b", "cuda"))}
PREFIX, QUERIES, WORDS, BATCH = 640, 64, 16, 32
PROMPT = {"default": {"query": "w3 ", "query_suffix": " w4"}}


def run(options: Options) -> list[Outcome]:
    """One comparison for each size."""
    return [outcome for size in options.sizes(SIZES) for outcome in _run_size(size, options)]


def _run_size(size: str, options: Options) -> list[Outcome]:
    vocabulary, queries = SHAPES[size].vocabulary, 8 if options.quick else QUERIES
    model = BiEncoderModel.from_backbone(
        random_backbone(size, options.device), word_tokenizer(vocabulary), prompts=PROMPT, max_length=2 * PREFIX
    )
    words = [f"w{number}" for number in random_document(PREFIX + queries * WORDS, vocabulary).tolist()]
    examples = [(" ".join(words[: PREFIX // 2]), " " + " ".join(words[PREFIX // 2 : PREFIX]))]
    texts = [" ".join(words[start : start + WORDS]) for start in range(PREFIX, len(words), WORDS)]

    def ours() -> torch.Tensor:
        return model.encode(texts, examples=examples, batch_size=BATCH, show_progress=False)

    def theirs() -> torch.Tensor:
        rows = tokenize(texts, model.tokenizer, model.config, "query", None, examples)
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        return torch.cat([embed_rows(part, model.embed, model.tokenizer, model.device) for part in parts])

    case = Comparison(
        "encode-examples", size, ours, theirs, "every query read whole", same_embeddings, MARKS, {}, model
    )
    return compare(case, options)
