"""Rows for LLaRA: a passage, and the words that its summarize and predict prompts have to name.

Accepted as they are: rows with `input`, `output_summarize` and `output_predict` (texts, the last two optional), and
rows with `text`, whose words are the summarize prompt's target and which have no target for the predict prompt.
"""

import datasets
from transformers import PreTrainedTokenizerBase

from modeling_llara import LlaraConfig, build_row

from .rows import Row, RowSource, column_names, load_rows, text_field
from .stop_words import without_stop_words

FEATURES = datasets.Features(
    dict.fromkeys(("input", "output_summarize", "output_predict"), datasets.Value("string")),
)


def load_llara_rows(
    source: RowSource, split: str = "train", streaming: bool = False
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows of `FEATURES` from a path, a Hub id, a list of rows or a `datasets` object; a folder's files are joined.

    A row that lacks its passage raises ValueError with the row number and the field.
    """
    normalized = [
        rows.map(normalize_row, with_indices=True, remove_columns=column_names(rows), features=FEATURES)
        for rows in load_rows(source, split, streaming)
    ]
    return datasets.concatenate_datasets(normalized) if len(normalized) > 1 else normalized[0]


def normalize_row(row: Row, number: int) -> Row:
    """`row` with input, output_summarize and output_predict, the last two None where there is no target.

    Raises ValueError with the row number and the field for a passage that is missing or blank, or a target of
    another type than text.
    """
    if row.get("input") is None and row.get("text") is not None:
        text = text_field(row, "text", number)
        return {"input": text, "output_summarize": text, "output_predict": None}
    targets = {}
    for field in ("output_summarize", "output_predict"):
        value = row.get(field)
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f"Row {number} (the first is 0): field {field!r} is {value!r}; it must be a text or null."
            )
        targets[field] = value
    return {"input": text_field(row, "input", number), **targets}


def llara_example(
    row: Row,
    number: int,
    epoch: int,
    tokenizer: PreTrainedTokenizerBase,
    config: LlaraConfig,
    max_length: int,
    remove_stop_words: bool,
) -> Row:
    """The token ids of a normalized row: input_ids, labels, output_summarize_ids and output_predict_ids.

    A target is the sorted list of its text's distinct ids, those that the model ignores left out, empty where the row
    has no target. Texts are cut at `max_length` tokens, and a summarize target that is the passage itself where the
    passage is cut. `remove_stop_words` takes the stop words out of the predict target.
    """
    passage = _ids(tokenizer, row["input"], max_length)
    example = build_row(config, passage, max_length)
    kept = [label for label in example["labels"] if label >= 0]
    own_words = row["output_summarize"] == row["input"]
    summarize = kept if own_words else _ids(tokenizer, row["output_summarize"], max_length)
    predicted = row["output_predict"]
    if remove_stop_words and predicted is not None:
        predicted = without_stop_words(predicted)
    ignored = set(config.ignored_target_ids)
    example["output_summarize_ids"] = sorted(set(summarize) - ignored)
    example["output_predict_ids"] = sorted(set(_ids(tokenizer, predicted, max_length)) - ignored)
    return example


def _ids(tokenizer: PreTrainedTokenizerBase, text: str | None, max_length: int) -> list[int]:
    if not text:
        return []
    return tokenizer(text, add_special_tokens=False, truncation=True, max_length=max_length)["input_ids"]
