"""Step 2: the language model's own feedback becomes teacher scores for the bi-encoder.

Two kinds of rows. Chunks of long documents: how likely is the next chunk when an earlier one is looked back at
(Zhang et al., 2023, arXiv 2310.07554)? Docstrings: how likely is the docstring after a candidate's code (Sachan et
al., 2022, arXiv 2204.07496)?
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.bm25_srlm import Bm25Index

from ..embedded.corpus import CodePair, Document
from ..lexical import bm25_matrix

Row = dict[str, Any]
# A docstring stands behind a candidate as it would behind code that it describes.
DOCSTRING_PROMPT = '{code}\n\n\n"""'
MAX_CODE_CHARS, MAX_DOCSTRING_CHARS = 400, 200
QUERIES_A_BATCH = 32
CANDIDATES_A_TARGET = 2
RANDOM_CANDIDATES = 6
# Natural-log likelihoods of a whole chunk differ by tens; this brings them to the size of a logit.
CHUNK_SCALE = 0.5


def code_rows(lm: SelfRetrievalLM, pairs: Sequence[CodePair], negatives: int) -> list[Row]:
    """Rows (query, pos, neg, teacher_scores) with BM25's best wrong answers as negatives."""
    passages = [pair.passage for pair in pairs]
    ranked = bm25_matrix([pair.query for pair in pairs], passages).argsort(dim=1, descending=True)
    rows = []
    for number, pair in enumerate(pairs):
        wrong = [passages[i] for i in ranked[number].tolist() if i != number][:negatives]
        rows.append({"query": pair.query, "pos": [pair.passage], "neg": wrong})
    starts = range(0, len(rows), QUERIES_A_BATCH)
    for start in tqdm(starts, desc=f"LM feedback on code, {QUERIES_A_BATCH} queries each", unit="batch"):
        _score_rows(lm, rows[start : start + QUERIES_A_BATCH])
    return rows


def _score_rows(lm: SelfRetrievalLM, rows: list[Row]) -> None:
    """Adds `teacher_scores`, one for each positive and negative."""
    candidates = [(row, code) for row in rows for code in (*row["pos"], *row["neg"])]
    prompts = [DOCSTRING_PROMPT.format(code=code[:MAX_CODE_CHARS]) for _, code in candidates]
    scores = lm.score_continuations(prompts, [row["query"][:MAX_DOCSTRING_CHARS] for row, _ in candidates])
    for row, group in zip(rows, scores.view(len(rows), -1).tolist(), strict=True):
        row["teacher_scores"] = group


def chunk_rows(lm: SelfRetrievalLM, documents: Sequence[Document], count: int, length: int, seed: int) -> list[Row]:
    """Rows from `count` prefixes of long documents: each target chunk's query, and candidates among its keys."""
    generator = random.Random(seed)
    ids = lm.tokenizer([document.text for document in documents], add_special_tokens=False, verbose=False)["input_ids"]
    long = [text for text in ids if len(text) >= length // 2]
    rows = []
    for _ in tqdm(range(count), desc="LM feedback on chunks", unit="document"):
        text = generator.choice(long)
        end = generator.randint(length // 2, len(text))
        rows += _document_rows(lm, torch.tensor(text[max(0, end - length) : end]), generator)
    return rows


def _document_rows(lm: SelfRetrievalLM, tokens: torch.Tensor, generator: random.Random) -> list[Row]:
    size, config = lm.config.chunk_size, lm.config
    chunks = tokens[len(tokens) % size :].view(-1, size)
    first = len(chunks) - config.target_size // size
    queries, keys = chunks[first - 1 : -1], chunks[: len(chunks) - config.context_window_size // size - 1]
    best = Bm25Index(list(keys), config.bm25_k1, config.bm25_b).scores(list(queries)).topk(CANDIDATES_A_TARGET).indices
    drawn = generator.sample(range(len(keys)), RANDOM_CANDIDATES)
    candidates = torch.tensor(sorted({*best.flatten().tolist(), *drawn}))
    input_ids = chunks.reshape(1, -1)
    labels = input_ids.clone()
    labels[:, : -config.target_size] = -100
    feedback = lm.score_candidates(input_ids, labels=labels, candidates=candidates[None])[0] * CHUNK_SCALE
    texts = lm.tokenizer.batch_decode(keys[candidates])
    query_texts = lm.tokenizer.batch_decode(queries)
    return [
        {"query": query, "pos": [], "neg": texts, "teacher_scores": scores.tolist()}
        for query, scores in zip(query_texts, feedback, strict=True)
        if query.strip()
    ]
