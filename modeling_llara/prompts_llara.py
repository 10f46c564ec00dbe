"""Prompts and rows: the special tokens and prompt texts of LLaRA, and how a passage becomes a training row."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .checks_llara import check_bool, check_positive_int, check_token_ids
from .configuration_llara import MOST_PROMPT_TOKENS, LlaraConfig
from .loss_llara import IGNORED_LABEL

PASSAGE_PREFIX = '"'
SUMMARIZE_TEXT = '", summarize the above passage within {count} words: '
PREDICT_TEXT = '", predict the following passage within {count} words: '

# Of BAAI/LLARA-pretrain and the checkpoints fine-tuned from it: 8 to summarize, 8 to predict.
PUBLISHED_TOKENS = [f"<s{i + 1}>" for i in range(16)]

# In the configuration of a backbone that is saved alone: how many special tokens each of its prompts has.
COUNTS = ("llara_num_summary_tokens", "llara_num_predict_tokens")


def add_prompts(
    tokenizer: PreTrainedTokenizerBase, num_summary_tokens: int, num_predict_tokens: int
) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """A copy of the tokenizer with the special tokens added, and the LlaraConfig keywords that describe the prompts.

    Tokens that are there already (a backbone that LLaRA has seen before, the paper's own among them) are used again.
    """
    tokenizer = copy.deepcopy(tokenizer)
    summary_tokens, predict_tokens = _special_tokens(tokenizer, num_summary_tokens, num_predict_tokens)
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


def _special_tokens(
    tokenizer: PreTrainedTokenizerBase, num_summary_tokens: int, num_predict_tokens: int
) -> tuple[list[str], list[str]]:
    if (num_summary_tokens, num_predict_tokens) == (8, 8) and _knows(tokenizer, PUBLISHED_TOKENS):
        return PUBLISHED_TOKENS[:8], PUBLISHED_TOKENS[8:]
    counts = {"summarize": num_summary_tokens, "predict": num_predict_tokens}
    summary, predict = ([f"<|{name}_{i + 1}|>" for i in range(count)] for name, count in counts.items())
    return summary, predict


def check_prompts(config: LlaraConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError for a tokenizer that makes other ids of the special tokens of the prompts' texts, where there are."""
    for name, ids in (("summarize", config.summarize_token_ids), ("predict", config.predict_token_ids)):
        text = getattr(config, f"{name}_prompt")
        if text is None or not ids:
            continue
        found = tokenizer(text, add_special_tokens=False)["input_ids"][-len(ids) :]
        if found != ids:
            raise ValueError(
                f"the tokenizer ends the {name} prompt with the ids {found}, and the model with {ids}, which are its "
                "special tokens: take the tokenizer that is saved with the model (model.tokenizer), in which they are."
            )


def _knows(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> bool:
    return set(tokens) <= set(tokenizer.get_vocab())


def adapted_config(tokenizer: PreTrainedTokenizerBase, backbone: PreTrainedConfig) -> LlaraConfig | None:
    """The prompts of a plain backbone that LLaRA adapted (a published checkpoint, or one that `save_backbone` wrote).

    How many special tokens they have is in the backbone's configuration where this version wrote it: of more the
    tokenizer may know from before. Else they are counted there; None for a tokenizer that has none of a prompt.
    """
    counts = [_saved_count(backbone, name) for name in COUNTS]
    if 0 in counts:
        published = _knows(tokenizer, PUBLISHED_TOKENS)
        counts = [8, 8] if published else [_count(tokenizer, name) for name in ("summarize", "predict")]
    if 0 in counts or not all(_knows(tokenizer, tokens) for tokens in _special_tokens(tokenizer, *counts)):
        return None
    prompts = add_prompts(tokenizer, *counts)[1]
    return LlaraConfig(num_summary_tokens=counts[0], num_predict_tokens=counts[1], **prompts)


def _saved_count(backbone: PreTrainedConfig, name: str) -> int:
    """0 where there is none, or what is there is no such number."""
    saved = getattr(backbone, name, None)
    return saved if isinstance(saved, int) and 0 < saved <= MOST_PROMPT_TOKENS else 0


def _count(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    vocabulary, count = tokenizer.get_vocab(), 0
    while f"<|{name}_{count + 1}|>" in vocabulary:
        count += 1
    return count


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
