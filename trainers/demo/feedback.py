"""Step 2: the language model's own feedback becomes teacher scores for the bi-encoder.

Two kinds of rows. Chunks of long documents: how likely is the next chunk when an earlier one is looked back at
(Zhang et al., 2023, arXiv 2310.07554)? Docstrings: how likely is the docstring after a candidate's code (Sachan et
al., 2022, arXiv 2204.07496)?
"""

import random
from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.tokenizers_srlm import text_ids

from ..data.sources import Row
from ..embedded.corpus import CodePair, Document
from ..feedback.candidates import SOME
from ..feedback.documents import score_prefix
from ..feedback.formats import Question
from ..feedback.rows import score_questions
from ..retrieval.bm25 import bm25_matrix

# A docstring stands behind a candidate as it would behind code that it describes.
BEFORE_DOCSTRING = '\n\n\n"""'
MAX_CODE_CHARS, MAX_DOCSTRING_CHARS = 400, 200
QUERIES_A_BATCH = 32
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
    return add_teacher_scores(lm, rows)


def add_teacher_scores(lm: SelfRetrievalLM, rows: list[Row], code_chars: int = MAX_CODE_CHARS) -> list[Row]:
    """The rows with `teacher_scores`: how likely the docstring is after each of their candidates, in nats.

    The model reads the first `code_chars` characters of a candidate.
    """
    starts = range(0, len(rows), QUERIES_A_BATCH)
    for start in tqdm(starts, desc=f"LM feedback on code, {QUERIES_A_BATCH} queries each", unit="batch"):
        _score_rows(lm, rows[start : start + QUERIES_A_BATCH], code_chars)
    return rows


def _score_rows(lm: SelfRetrievalLM, rows: list[Row], code_chars: int) -> None:
    """Adds `teacher_scores`, one for each positive and negative."""
    questions = [
        Question(
            candidates=[code[:code_chars] for code in (*row["pos"], *row["neg"])],
            head="",
            tail=BEFORE_DOCSTRING,
            scored=row["query"][:MAX_DOCSTRING_CHARS],
        )
        for row in rows
    ]
    for row, scores in zip(rows, score_questions(lm, questions, mean=False), strict=True):
        row["teacher_scores"] = scores


def chunk_rows(lm: SelfRetrievalLM, documents: Sequence[Document], count: int, length: int, seed: int) -> list[Row]:
    """Rows from `count` prefixes of long documents: each target chunk's query, and candidates among its keys."""
    generator = random.Random(seed)
    ids = text_ids(lm.tokenizer, [document.text for document in documents])
    least = min(length, max(map(len, ids))) // 2  # texts may all be shorter than `length`, and are read whole then
    long = [text for text in ids if len(text) >= least]
    rows = []
    for _ in tqdm(range(count), desc="LM feedback on chunks", unit="document"):
        text = generator.choice(long)
        end = generator.randint(least, len(text))
        rows += score_prefix(lm, torch.tensor(text[max(0, end - length) : end]), SOME, generator, CHUNK_SCALE)
    return rows
