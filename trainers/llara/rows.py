"""Rows for LLaRA: a passage, and the words that its summarize and predict prompts have to name.

Two kinds of data are told apart by their columns:

- `input`, `output_summarize`, `output_predict` (texts, the last two optional): rows as they are;
- `text`, or plain text files: documents, cut into passages. A passage is the target of its own summarize prompt, the
  passage behind it that of its predict prompt, which the last one of a document does not have.
"""

from functools import partial
from typing import Any, TypeAlias

import datasets
from transformers import PreTrainedTokenizerBase

from hub_cards.travelling.checks import check_positive_int, checked
from modeling_llara import LlaraConfig, build_row

from ..data.documents import plain_files, read_text_files
from ..data.sources import (
    Row,
    RowSource,
    Table,
    TypedTable,
    load_tables,
    optional_text,
    text_field,
)  # fmt: skip
from .passages import cut_passages
from .stop_words import without_stop_words

Rows: TypeAlias = datasets.Dataset | datasets.IterableDataset
FEATURES = datasets.Features(
    dict.fromkeys(("input", "output_summarize", "output_predict"), datasets.Value("string")),
)


@checked
def load_llara_rows(
    source: RowSource, tokenizer: PreTrainedTokenizerBase, room: int, split: str = "train", streaming: bool = False
) -> Rows:
    """Rows of `FEATURES` from a path, a Hub id, a list of rows or a `datasets` object.

    Args:
        source: data files hold rows of either kind; a folder of nothing else, but for a card or a licence, is their
            rows joined. Any other file is a document, and a folder with such a file is all documents, read
            recursively, hidden files left out.
        room: tokens of a passage at most (see `passage_room`).
        streaming: read and cut while training goes on, a document at a time, instead of before it.

    Raises ValueError for other columns, and for a row that lacks its passage (row number and field named).
    """
    check_positive_int("room", room, "see passage_room")
    normalized = [_normalize(table, tokenizer, room) for table in _load(source, split, streaming)]
    return datasets.concatenate_datasets(normalized) if len(normalized) > 1 else normalized[0]


def passage_room(config: LlaraConfig, max_length: int) -> int:
    """Tokens that a row of `max_length` tokens has for its passage beside prefix and prompts; ValueError if none.

    Also for more than the backbone has positions for.
    """
    taken = len(config.prefix_ids) + len(config.summarize_prompt_ids) + len(config.predict_prompt_ids)
    if max_length <= taken:
        raise ValueError(
            f"max_length={max_length}, but prefix and prompts take {taken} tokens: give {taken + 1} or more."
        )
    # The predict prompt stands at the positions of the summarize prompt.
    needed = max_length - min(len(config.summarize_prompt_ids), len(config.predict_prompt_ids))
    positions = config.max_positions
    if needed > positions:
        raise ValueError(
            f"max_length={max_length} needs {needed} positions, and the backbone has {positions}: give at most "
            f"{max_length - needed + positions}."
        )
    return max_length - taken


def _load(source: RowSource, split: str, streaming: bool) -> list[Table]:
    files = plain_files(source)
    if not files:  # of an empty folder this says what is wrong
        return load_tables(source, split, streaming)
    return [TypedTable(read_text_files(files, streaming))]


def _normalize(table: Table, tokenizer: PreTrainedTokenizerBase, room: int) -> Rows:
    where, first = next(iter(table), ("The data set", {}))
    if "input" in first:
        return table.map(normalize_row, FEATURES)
    if "text" not in first:
        raise ValueError(
            f"{where}: the columns are {list(first)}; there must be 'input' (with 'output_summarize' "
            "and 'output_predict', where there are targets) or 'text', documents to make rows from: rename one."
        )
    size = 1 if table.streaming else 16  # a stream shall hold as little as it can
    cut = partial(passage_rows, tokenizer=tokenizer, room=room)
    return table.map(cut, FEATURES, batch_size=size)


def normalize_row(row: Row, number: int) -> Row:
    """`row` with input, output_summarize and output_predict, the last two None where there is no target.

    Raises ValueError with the row number and the field for a passage that is missing or blank, or a target of
    another type than text.
    """
    targets = {field: optional_text(row, field, number) for field in ("output_summarize", "output_predict")}
    return {"input": text_field(row, "input", number), **targets}


def passage_rows(
    batch: dict[str, list[Any]], numbers: list[int], tokenizer: PreTrainedTokenizerBase, room: int
) -> dict[str, list[str | None]]:
    """The rows of some documents (`text`): each passage, its own words, and the next passage's.

    A blank document gives no rows. Raises ValueError with the row number for one that is missing or not a text.
    """
    rows: dict[str, list[str | None]] = {name: [] for name in FEATURES}
    for text, number in zip(batch["text"], numbers, strict=True):
        if text == "" or (isinstance(text, str) and text.isspace()):
            continue
        passages = cut_passages(text_field({"text": text}, "text", number), tokenizer, room)
        rows["input"] += passages
        rows["output_summarize"] += passages
        rows["output_predict"] += [*passages[1:], None]
    return rows


def llara_example(
    row: Row,
    number: int,
    epoch: int,
    tokenizer: PreTrainedTokenizerBase,
    config: LlaraConfig,
    max_length: int,
    stop_words: frozenset[str],
) -> Row:
    """The token ids of a normalized row: input_ids, labels, output_summarize_ids and output_predict_ids.

    A target is the sorted list of its text's distinct ids, without the tokenizer's special ids and those that the
    model ignores, empty where the row has no target, or the model no such prompt. Texts are cut at `max_length`
    tokens, and a summarize target that is the passage itself where the passage is cut. `stop_words` are left out of
    the predict target.
    """
    passage = _ids(tokenizer, row["input"], max_length)
    example = build_row(config, passage, max_length)
    kept = [label for label in example["labels"] if label >= 0]
    own_words = row["output_summarize"] == row["input"]
    summarize = kept if own_words else _ids(tokenizer, row["output_summarize"], max_length)
    predicted = row["output_predict"]
    if stop_words and predicted is not None:
        predicted = without_stop_words(predicted, stop_words)
    ignored = {*config.ignored_target_ids, *tokenizer.all_special_ids}
    targets = {"summarize": summarize, "predict": _ids(tokenizer, predicted, max_length)}
    for name, ids in targets.items():
        asked = getattr(config, f"{name}_prompt_ids")
        example[f"output_{name}_ids"] = sorted(set(ids) - ignored) if asked else []
    return example


def _ids(tokenizer: PreTrainedTokenizerBase, text: str | None, max_length: int) -> list[int]:
    if not text:
        return []
    # A tokenizer that truncates by itself may do so on the left, and leave out the beginning.
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_length]
