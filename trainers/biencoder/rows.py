"""Rows for the bi-encoder: a query, its positives and negatives, and what a teacher thinks of each.

Accepted as they are (see `normalize_row`): rows with `query`, `pos`, `neg` and optionally `teacher_scores` (aligned
with the positives, then the negatives) or `pos_scores` and `neg_scores`; rows without a positive whose best-scored
candidate stands in for it; chat rows whose candidates are the turns of `history`. Pairs, triplets, scored pairs and
lists with labels load by their column names (see `columns`).
"""

import hashlib
import random
from functools import partial
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from hub_cards.travelling.checks import check_positive_int, checked, plain
from modeling_biencoder import BiEncoderConfig
from modeling_biencoder.encoding_biencoder import tokenize

from ..data.sources import Row, RowError, RowSource, Table, load_tables, optional_text, text_field, text_fields
from .columns import SCORES, Layout, check_layouts, find_layout, is_number

LARGEST = 3.4e38  # of float32, in which scores are compared
FEATURES = datasets.Features(
    {
        "query": datasets.Value("string"),
        "pos": datasets.List(datasets.Value("string")),
        "neg": datasets.List(datasets.Value("string")),
        "pos_scores": datasets.List(datasets.Value("float64")),
        "neg_scores": datasets.List(datasets.Value("float64")),
        "task": datasets.Value("string"),
    }
)


@checked
def load_biencoder_rows(
    source: RowSource, group_size: int, split: str = "train", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows of `FEATURES` from a path, a Hub id, a list of rows or a `datasets` object; a folder's files are joined.

    A row that lacks a field, or a negative where `group_size` is over 1, raises ValueError with its number and field;
    tables without a column for negatives (pairs) need none.
    """
    check_positive_int("group_size", group_size, "give the number of passages of a query")
    tables = load_tables(source, split, streaming, numbers=SCORES)
    found = [normalize_rows(table, group_size) for table in tables]
    check_layouts(tables, [layout for _, layout in found], group_size)
    normalized = [rows for rows, _ in found]
    return datasets.concatenate_datasets(normalized) if len(normalized) > 1 else normalized[0]


def normalize_rows(table: Table, group_size: int, task: str | None = None, swap: bool = False) -> tuple[Any, Layout]:
    """A table as rows of `FEATURES`, and the layout that its columns had.

    `task` is for all rows, in place of their own; `swap` makes the passage of each pair the query, and the reverse.
    """
    layout = find_layout(table)
    keywords: dict[str, Any] = {"layout": layout, "group_size": group_size, "task": task, "swap": swap}
    normalize = partial(_normalize, **keywords)
    return table.map(normalize, FEATURES), layout


def _normalize(row: Row, number: int, layout: Layout, group_size: int, task: str | None, swap: bool) -> Row:
    normalized = normalize_row(layout(row, number), number)
    if swap:
        normalized = _swapped(normalized, number)
    if group_size > 1 and not layout.pair and not normalized["neg"]:
        raise RowError(
            number,
            f"field 'neg' is empty, but train_group_size={group_size} takes "
            f"{group_size - 1} negatives a row; add some, or set train_group_size=1 for in-batch negatives alone.",
        )
    return normalized if task is None else {**normalized, "task": task}


def _swapped(row: Row, number: int) -> Row:
    if len(row["pos"]) != 1 or row["neg"]:
        raise RowError(
            number,
            f"swap=True is for pairs; the row has {len(row['pos'])} positives and "
            f"{len(row['neg'])} negatives, of which none can be the query.",
        )
    return {**row, "query": row["pos"][0], "pos": [row["query"]]}


def normalize_row(row: Row, number: int) -> Row:
    """`row` with the fields query, pos, neg, pos_scores, neg_scores and task, the last three None where unknown.

    `teacher_scores` win over `pos_scores` and `neg_scores` (`neg_score` is read too). Raises ValueError with the row
    number and the field for a missing or mistyped field, scores of another length than the texts, and a row with
    neither a positive nor scores to choose one by.
    """
    query = text_field(row, "query", number)
    positives = text_fields(row, "pos", number)
    negatives = text_fields(row, "neg", number)
    if not positives and not negatives:
        negatives = text_fields(row, "history", number)
    if not positives and not negatives:
        raise RowError(number, "field 'pos' is missing, and so are 'neg' and 'history'.")
    scores = _scores(row, len(positives), len(negatives), number)
    if not positives:
        positives, negatives, scores = _best_first(negatives, scores, number)
    return {
        "query": query,
        "pos": positives,
        "neg": negatives,
        "pos_scores": scores[: len(positives)] if scores is not None else None,
        "neg_scores": scores[len(positives) :] if scores is not None else None,
        "task": optional_text(row, "task", number),
    }


def _scores(row: Row, num_positives: int, num_negatives: int, number: int) -> list[float] | None:
    """One score for each positive, then for each negative; None for a row without scores."""
    if row.get("teacher_scores") is not None:
        return _numbers(row, "teacher_scores", num_positives + num_negatives, number)
    if row.get("pos_scores") is None:
        return None
    negative_field = "neg_score" if row.get("neg_scores") is None else "neg_scores"
    if row.get(negative_field) is None:
        raise RowError(number, "field 'neg_scores' is missing, but 'pos_scores' is there.")
    positives = _numbers(row, "pos_scores", num_positives, number)
    return positives + _numbers(row, negative_field, num_negatives, number)


def _numbers(row: Row, field: str, expected: int, number: int) -> list[float]:
    value = row[field]
    value = plain(list(value)) if isinstance(value, list | tuple) else value
    if not isinstance(value, list) or not all(map(is_number, value)):
        raise RowError(number, f"field {field!r} is {value!r}; it must be a list of numbers.")
    if len(value) != expected:
        raise RowError(
            number,
            f"field {field!r} has {len(value)} scores for {expected} texts; give one score a text, positives first.",
        )
    if not all(abs(score) <= LARGEST for score in value):  # not NaN either
        raise RowError(number, f"field {field!r} is {value!r}; its scores must be finite, in float32 too.")
    return [float(score) for score in value]


def _best_first(
    candidates: list[str], scores: list[float] | None, number: int
) -> tuple[list[str], list[str], list[float]]:
    """The best-scored candidate as the positive, the others as negatives, and the scores in that order."""
    if scores is None:
        raise RowError(
            number,
            "field 'pos' is empty, and there are no 'teacher_scores' to choose a positive by; add one of them.",
        )
    best = max(range(len(scores)), key=scores.__getitem__)
    others = [i for i in range(len(scores)) if i != best]
    return [candidates[best]], [candidates[i] for i in others], [scores[i] for i in [best, *others]]


def sample_group(
    row: Row, group_size: int, seed: int, epoch: int, number: int
) -> tuple[list[str], list[float] | None]:
    """One positive and `group_size - 1` negatives of a normalized row, and their scores (None without scores).

    The draw depends on (seed, epoch, row number) alone. Negatives are drawn without replacement while they last.
    """
    generator = random.Random(f"{seed}-{epoch}-{number}")
    positive = generator.randrange(len(row["pos"]))
    chosen: list[int] = []
    while len(chosen) < group_size - 1:
        count = min(group_size - 1 - len(chosen), len(row["neg"]))
        chosen += generator.sample(range(len(row["neg"])), count)
    passages = [row["pos"][positive], *(row["neg"][i] for i in chosen)]
    if row["pos_scores"] is None:
        return passages, None
    return passages, [row["pos_scores"][positive], *(row["neg_scores"][i] for i in chosen)]


def biencoder_example(
    row: Row,
    number: int,
    epoch: int,
    tokenizer: PreTrainedTokenizerBase,
    query_config: BiEncoderConfig,
    passage_config: BiEncoderConfig,
    group_size: int,
    seed: int,
    use_teacher_scores: bool = True,
    symmetric: bool = False,
    in_batch_negatives: bool | None = None,
    in_context: bool = False,
) -> Row:
    """query_ids, passage_ids (`group_size` lists, the positive's first) and teacher_scores of a normalized row.

    Texts stand in the prompts that the configurations have for the row's task, or for "default" where they have none
    for it, and are cut at each configuration's max_length, prompts spared; `symmetric` puts passages in the query's.
    `identity` tells equal texts: {"query": number, "passage": one a passage, "positives": one for each of the row's}.
    `in_batch_negatives` is there if it is not None. With `in_context` there is no query_ids, but what
    `InContextExamples` makes it of, when it sees the batch.
    """
    passages, scores = sample_group(row, group_size, seed, epoch, number)
    task = prompt_task(row, query_config)
    example: Row = {
        "passage_ids": tokenize(passages, tokenizer, passage_config, "query" if symmetric else "passage", task),
        "teacher_scores": scores if use_teacher_scores else None,
        "identity": {
            "query": text_identity(row["query"]),
            "passage": [text_identity(text) for text in passages],
            "positives": [text_identity(text) for text in row["pos"]],
        },
    }
    if in_batch_negatives is not None:
        example["in_batch_negatives"] = in_batch_negatives
    if in_context:
        draw = f"{seed}-{epoch}-{number}"
        return {**example, "in_context": {"query": row["query"], "answer": passages[0], "task": task, "draw": draw}}
    return {**example, "query_ids": tokenize([row["query"]], tokenizer, query_config, "query", task)[0]}


def prompt_task(row: Row, config: BiEncoderConfig) -> str | None:
    """The row's task where the configuration has a prompt for it, else None."""
    return row["task"] if row["task"] in (config.prompts or {}) else None


def text_identity(text: str) -> int:
    """A number of 63 bits, never 0, that is the same for equal texts alone (as good as: blake2b's)."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 or 1
