"""Prompts and rows: the special tokens and prompt texts of LLaRA, and how a passage becomes a training row."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from .checks_llara import check_bool, check_positive_int, check_token_ids
from .configuration_llara import LlaraConfig
from .loss_llara import IGNORED_LABEL

PASSAGE_PREFIX = '"'
SUMMARIZE_TEXT = '", summarize the above passage within {count} words: '
PREDICT_TEXT = '", predict the following passage within {count} words: '

# Of BAAI/LLARA-pretrain and the checkpoints fine-tuned from it: 8 to summarize, 8 to predict.
PUBLISHED_TOKENS = [f"<s{i + 1}>" for i in range(16)]


def add_prompts(
    tokenizer: PreTrainedTokenizerBase, num_summary_tokens: int, num_predict_tokens: int
) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """A copy of the tokenizer with the special tokens added, and the LlaraConfig keywords that describe the prompts.

    Tokens that are there already (a backbone that LLaRA has seen before, the paper's own among them) are used again.
    """
    tokenizer = copy.deepcopy(tokenizer)
    summary_tokens = [f"<|summarize_{i + 1}|>" for i in range(num_summary_tokens)]
    predict_tokens = [f"<|predict_{i + 1}|>" for i in range(num_predict_tokens)]
    if (num_summary_tokens, num_predict_tokens) == (8, 8) and _knows(tokenizer, PUBLISHED_TOKENS):
        summary_tokens, predict_tokens = PUBLISHED_TOKENS[:8], PUBLISHED_TOKENS[8:]
    tokenizer.add_tokens(summary_tokens + predict_tokens, special_tokens=True)
    summarize_prompt, summarize_ids = _prompt(tokenizer, SUMMARIZE_TEXT, summary_tokens)
    predict_prompt, predict_ids = _prompt(tokenizer, PREDICT_TEXT, predict_tokens)
    return tokenizer, {
        "passage_prefix": PASSAGE_PREFIX,
        "summarize_prompt": summarize_prompt,
        "predict_prompt": predict_prompt,
        "prefix_ids": _prefix_ids(tokenizer),
        "summarize_prompt_ids": summarize_ids,
        "predict_prompt_ids": predict_ids,
        "ignored_target_ids": sorted({*tokenizer.all_special_ids, *summarize_ids[-num_summary_tokens:]}
                                     | set(predict_ids[-num_predict_tokens:])),
    }  # fmt: skip


def _knows(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> bool:
    return set(tokens) <= set(tokenizer.get_vocab())


def adapted_config(tokenizer: PreTrainedTokenizerBase) -> LlaraConfig | None:
    """The prompts of a plain backbone that LLaRA adapted (a published checkpoint, or one that `save_backbone` wrote).

    They are known by their special tokens; None for a tokenizer that has none.
    """
    vocabulary = tokenizer.get_vocab()
    count = 0
    while {f"<|summarize_{count + 1}|>", f"<|predict_{count + 1}|>"} <= set(vocabulary):
        count += 1
    count = 8 if _knows(tokenizer, PUBLISHED_TOKENS) else count
    if not count:
        return None
    prompts = add_prompts(tokenizer, count, count)[1]
    return LlaraConfig(num_summary_tokens=count, num_predict_tokens=count, **prompts)


def _prompt(tokenizer: PreTrainedTokenizerBase, text: str, tokens: list[str]) -> tuple[str, list[int]]:
    prompt = text.format(count="eight" if len(tokens) == 8 else len(tokens)) + "".join(tokens)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if ids[-len(tokens) :] != tokenizer.convert_tokens_to_ids(tokens):
        raise ValueError(
            f"{type(tokenizer).__name__} does not keep the special tokens of {prompt!r} whole (ids {ids}): pass "
            "summarize_prompt_ids and predict_prompt_ids yourself."
        )
    return prompt, ids


def _prefix_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the opening quote behind what the tokenizer puts before a text (BOS), without what it puts after."""
    quote = tokenizer(PASSAGE_PREFIX, add_special_tokens=False)["input_ids"]
    ids = tokenizer(PASSAGE_PREFIX)["input_ids"]
    while ids[-len(quote) :] != quote and len(ids) > len(quote):
        ids = ids[:-1]
    return ids


def build_row(
    config: LlaraConfig,
    passage_ids: Sequence[int],
    max_length: int | None = None,
    summarize: bool = True,
    predict: bool = True,
) -> dict[str, list[int]]:
    """One training row `[prefix | passage | summarize prompt | predict prompt]`, unpadded.

    Args:
        config: holds `prefix_ids` and the ids of both prompts.
        passage_ids: the passage's token ids, without BOS or EOS; the prompts' own special tokens are dropped (a text
            may spell them), and the end is cut off where the row would be longer than `max_length` tokens.
        summarize, predict: which prompts the row gets.

    Returns: `input_ids` and `labels` (the passage's own ids, -100 at the prefix and the prompts), of equal length.

    Raises:
        TypeError, ValueError: for ids that are none of the vocabulary, a wrong setting, and when `max_length` leaves
            no room for the passage.
    """
    _check_passage(config, passage_ids, max_length, {"summarize": summarize, "predict": predict})
    prompts = [*(config.summarize_prompt_ids if summarize else []), *(config.predict_prompt_ids if predict else [])]
    special = {*config.summarize_token_ids, *config.predict_token_ids}
    passage = [token for token in passage_ids if token not in special]
    if max_length is not None:
        room = max_length - len(config.prefix_ids) - len(prompts)
        if room < 1:
            raise ValueError(
                f"max_length is {max_length} but prefix and prompts alone take {max_length - room} tokens: pass at "
                f"least {max_length - room + 1}."
            )
        passage = passage[:room]
    return {
        "input_ids": [*config.prefix_ids, *passage, *prompts],
        "labels": [IGNORED_LABEL] * len(config.prefix_ids) + passage + [IGNORED_LABEL] * len(prompts),
    }


def _check_passage(
    config: LlaraConfig, passage_ids: Sequence[int], max_length: int | None, prompts: dict[str, bool]
) -> None:
    check_token_ids("passage_ids", passage_ids)
    if (largest := max(passage_ids, default=0)) >= config.text_config.vocab_size:
        raise ValueError(
            f"passage_ids holds {largest}, and the vocabulary ends at {config.text_config.vocab_size - 1}: make them "
            "with the model's own tokenizer."
        )
    if max_length is not None:
        check_positive_int("max_length", max_length, "give the longest row in tokens")
    for name, value in prompts.items():
        check_bool(name, value)


def biencoder_keywords(config: LlaraConfig) -> dict[str, Any]:
    """Keywords of a bi-encoder that reads queries with the predict and passages with the summarize prompt."""
    if None in (config.passage_prefix, config.summarize_prompt, config.predict_prompt):
        raise ValueError(
            "passage_prefix, summarize_prompt and predict_prompt are not all in the config, which was built from "
            "token ids: pass these texts to from_backbone, too."
        )
    if config.num_summary_tokens != config.num_predict_tokens:
        raise ValueError(
            f"the prompts have {config.num_summary_tokens} and {config.num_predict_tokens} special tokens but "
            "mean_last_k pools over one number: pretrain with equal numbers."
        )
    prompts = {
        "query": config.passage_prefix,
        "query_suffix": config.predict_prompt,
        "passage": config.passage_prefix,
        "passage_suffix": config.summarize_prompt,
    }
    return {
        "pooling": "mean_last_k",
        "pooling_k": config.num_summary_tokens,
        "normalize": True,
        "temperature": 0.01,
        "separate_prompts": True,  # as build_row makes its rows: no token spans a prompt and the passage
        "prompts": {"default": prompts},
    }
