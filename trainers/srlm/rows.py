"""Documents for the self-retrieval LM: cut into token blocks whose last tokens are scored; and chat rows."""

import itertools
from functools import partial
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hub_cards.travelling.checks import checked
from modeling_srlm.tokenizers_srlm import text_ids

from ..data.sources import Row, RowError, Table, TypedTable, text_field, text_fields

logger = logging.get_logger(__name__)
TOKENS = datasets.Features(dict.fromkeys(("input_ids", "labels"), datasets.List(datasets.Value("int64"))))


@checked
def tokenize_documents(
    rows: datasets.Dataset | datasets.IterableDataset | Table,
    tokenizer: PreTrainedTokenizerBase,
    document_length: int,
    target_size: int,
) -> datasets.Dataset | datasets.IterableDataset:
    """Blocks of at most `document_length` tokens as rows with `input_ids` and `labels`.

    Labels are -100 but for the last `target_size` tokens of a block. What is left of a document after its last full
    block is a shorter block, dropped if it has no more than `target_size` tokens unless it is the whole document.
    Raises ValueError for a row without `text` (row number named) and for sizes that do not fit.
    """
    if not 0 < target_size < document_length:
        raise ValueError(
            f"target_size={target_size} must be at least 1 and less than document_length={document_length}, which has "
            f"to hold context too: give other sizes."
        )
    cut = partial(_cut_documents, tokenizer=tokenizer, document_length=document_length, target_size=target_size)
    return _as_table(rows).map(cut, TOKENS, batch_size=16)


def _cut_documents(
    batch: dict[str, list[Any]],
    numbers: list[int],
    tokenizer: PreTrainedTokenizerBase,
    document_length: int,
    target_size: int,
) -> dict[str, list[list[int]]]:
    texts = batch.get("text", [None] * len(numbers))
    texts = [text_field({"text": text}, "text", number) for text, number in zip(texts, numbers, strict=True)]
    blocks = []
    for ids in text_ids(tokenizer, texts):
        blocks += cut_blocks(ids, document_length, target_size)
    return {"input_ids": blocks, "labels": [label_end(block, target_size) for block in blocks]}


def load_chats(
    rows: datasets.Dataset | datasets.IterableDataset | Table, tokenizer: PreTrainedTokenizerBase
) -> datasets.Dataset | datasets.IterableDataset:
    """Chat rows as `chat_example` gives them, but for those of which nothing is scored (see `labelled`)."""
    check = partial(chat_example, tokenizer=tokenizer)
    texts = datasets.Value("string")
    features = datasets.Features(
        query=texts, history=datasets.List(texts), answer=texts, answer_length=datasets.Value("int64")
    )
    table = _as_table(rows)
    return labelled(table.map(check, features), table)


def load_token_rows(table: Table, vocabulary: int) -> datasets.Dataset | datasets.IterableDataset:
    """Rows with `input_ids` and `labels` as they are, but for those of which nothing is scored (see `labelled`).

    Raises ValueError with the row number and the field for what is no list of ids below `vocabulary`, or of another
    length than the other.
    """
    return labelled(table.map(partial(_token_row, vocabulary=vocabulary), TOKENS), table)


def _token_row(row: Row, number: int, vocabulary: int) -> Row:
    for field, ignored in (("input_ids", ()), ("labels", (-100,))):
        value = row.get(field)
        if not isinstance(value, list) or not value:
            raise RowError(number, f"field {field!r} is {value!r}; it must be a list of token ids.")
        wrong = [one for one in value if not _is_id(one, vocabulary) and one not in ignored]
        if wrong:
            what = f"a whole number from 0 to {vocabulary - 1}{', or -100' if ignored else ''}"
            raise RowError(number, f"field {field!r} holds {wrong[0]!r}; each of its ids must be {what}.")
    if len(row["input_ids"]) != len(row["labels"]):
        lengths = f"{len(row['labels'])} for {len(row['input_ids'])} input_ids"
        raise RowError(number, f"field 'labels' has {lengths}; give one a token, -100 where it is not scored.")
    return {field: row[field] for field in TOKENS}


def _is_id(value: Any, vocabulary: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocabulary


def labelled(
    rows: datasets.Dataset | datasets.IterableDataset, table: Table
) -> datasets.Dataset | datasets.IterableDataset:
    """The rows without those of which nothing is scored: what they would add must not depend on their batch.

    A warning counts them; of a stream it names the first that is met. Raises ValueError where all rows are so.

    Args:
        rows: with `labels` or, of chats, `answer_length`; one for each row of `table`, which knows where it stands.
    """
    if isinstance(rows, datasets.IterableDataset):
        # not filter: datasets 4.0 cannot where the stream knows the types of its columns
        return rows.map(_StreamFilter(), with_indices=True, batched=True, batch_size=1)
    column = "labels" if "labels" in rows.column_names else "answer_length"
    values = rows.select_columns([column]).with_format("numpy")
    kept = [number for number, row in enumerate(values) if _is_scored(row)]
    if len(kept) == len(rows):
        return rows
    first = next((place for place, number in enumerate(kept) if place != number), len(kept))
    where, _ = next(itertools.islice(iter(table), first, None))
    if not kept:
        raise ValueError(
            f"{where}: nothing is scored, as its labels are all -100 (but for a first token, which nothing predicts), "
            f"and so it is with all {len(rows)} rows: give one row or more a label."
        )
    left_out = len(rows) - len(kept)
    logger.warning(f"{left_out} of {len(rows)} rows have no label and are left out; the first of them: {where}.")
    return rows.select(kept)


class _StreamFilter:
    """A streamed row, as a batch of one, or none where nothing in it is scored; a warning names the first."""

    warned = False

    def __call__(self, rows: dict[str, list], numbers: list[int]) -> dict[str, list]:
        kept = _is_scored({name: values[0] for name, values in rows.items()})
        if not kept and not self.warned:
            self.warned = True
            logger.warning(f"Row {numbers[0]} (the first is 0) has no label; it and others like it are left out.")
        return {name: list(values) if kept else [] for name, values in rows.items()}


def _is_scored(row: Row) -> bool:
    if "labels" not in row:
        return bool(row["answer_length"] > 0)
    return bool((np.asarray(row["labels"])[1:] != -100).any())


def _as_table(rows: datasets.Dataset | datasets.IterableDataset | Table) -> Table:
    return TypedTable(rows) if isinstance(rows, datasets.Dataset | datasets.IterableDataset) else rows


def cut_blocks(ids: list[int], document_length: int, target_size: int) -> list[list[int]]:
    """Consecutive blocks of `document_length` ids; the last may be shorter (see `tokenize_documents`).

    >>> cut_blocks([1, 2, 3, 4, 5, 6, 7], document_length=3, target_size=1)
    [[1, 2, 3], [4, 5, 6]]
    """
    blocks = [ids[start : start + document_length] for start in range(0, len(ids), document_length)]
    return [block for i, block in enumerate(blocks) if len(block) > (1 if i == 0 else target_size)]


def label_end(block: list[int], target_size: int) -> list[int]:
    """The labels of a block: -100 but for its last `target_size` ids; a block's first token is never scored.

    >>> label_end([4, 5, 6], target_size=2)
    [-100, 5, 6]
    """
    scored = min(target_size, len(block) - 1)
    return [-100] * (len(block) - scored) + block[len(block) - scored :]


def chat_example(row: Row, number: int, tokenizer: PreTrainedTokenizerBase) -> Row:
    """A chat row (`history` turns, `query`, `answers`) as query, history, first answer and the answer's tokens.

    Raises ValueError with the row number and the field for what is missing.
    """
    if row.get("history") is None:
        raise RowError(number, "field 'history' is None; it must be a list of texts, empty where none came before.")
    history = text_fields(row, "history", number)
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers:
        raise RowError(number, f"field 'answers' is {answers!r}; it must be a list of texts.")
    answer = text_field({"answers": answers[0]}, "answers", number)
    length = len(text_ids(tokenizer, [answer])[0])
    return {"query": text_field(row, "query", number), "history": history, "answer": answer, "answer_length": length}
