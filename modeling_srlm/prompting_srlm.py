# Copied from modeling_biencoder/prompting_biencoder.py by "make copies": edit that one.
"""From texts in a prompt to token ids: truncation that spares the prompt, special tokens, padding, parts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

ROLES = ("query", "passage")
PROMPT_KEYS = ("query", "passage", "query_suffix", "passage_suffix")
_NEUTRAL = ("a", ".", "1", "\n", "\u4e00")  # ends of a text, of which a suffix merges with some
_PROBES = (".", *_NEUTRAL)
CPU_TOKENS = 1024  # embedded at once on a CPU: the states of more fall out of its cache


class PromptSettings(Protocol):
    """What of a configuration says how texts become token ids."""

    max_length: int
    append_eos: bool
    separate_prompts: bool


def text_list(texts: object) -> list[str]:
    """`texts` as a list: any sequence of strings, such as a column of a data set, or a NumPy array of one axis.

    A lone surrogate, which no tokenizer takes, is U+FFFD, as in the rows of a training.

    Raises TypeError for anything else.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, not str: pass [text] for one text.")
    found: Any = list(texts) if isinstance(texts, Sequence) else None
    if hasattr(texts, "tolist") and not isinstance(texts, torch.Tensor):
        found = texts.tolist()
    if not isinstance(found, list):
        raise TypeError(f"texts must be a list of strings, not {type(texts).__name__}: make a list of its texts.")
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}]={text!r} must be a string, not {type(text).__name__}.")
    return [_encodable(text) for text in found]


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def tokenize_in_prompt(
    texts: Sequence[str], prefix: str, suffix: str, tokenizer: PreTrainedTokenizerBase, settings: PromptSettings
) -> list[list[int]]:
    """Token ids of each text between `prefix` and `suffix`, at most `settings.max_length` long, never empty.

    The text alone is cut, at its end: prefix, suffix and special tokens stay whole, and no token depends on those that
    are cut off. A text with no token at all becomes one end-of-sequence token. Raises ValueError where the prompt
    leaves no room for a text.
    """
    texts = text_list(texts)
    head, tail = special_tokens(tokenizer, settings.append_eos)
    room = settings.max_length - len(head) - len(tail)
    fixed = sum(len(ids) for ids in _ids(tokenizer, [prefix, suffix]))
    if room <= fixed:
        raise ValueError(
            f"max_length={settings.max_length} leaves no room for a text: the prompt takes {fixed} tokens and special "
            f"tokens {len(head) + len(tail)}. Raise config.max_length, shorten the prompt or give fewer examples."
        )
    if settings.separate_prompts:
        bodies = _separate_bodies(texts, tokenizer, prefix, suffix, room, _pooled_ids(settings, suffix, tokenizer))
    else:
        bodies = _joint_bodies(texts, tokenizer, prefix, suffix, room) if texts else []
    return [head + body + tail or [fallback_id(tokenizer)] for body in bodies]


def _joint_bodies(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prefix: str, suffix: str, room: int
) -> list[list[int]]:
    bodies = _ids(tokenizer, [prefix + text + suffix for text in texts])
    long = [i for i, body in enumerate(bodies) if len(body) > room]
    # behind a suffix a text's end might be tokenised otherwise than at its end
    starts = _ids(tokenizer, [prefix + texts[i] for i in long]) if suffix else [bodies[i] for i in long]
    cut = _cut_bodies([texts[i] for i in long], starts, tokenizer, prefix, suffix, room) if long else []
    for i, body in zip(long, cut, strict=True):
        bodies[i] = body
    return bodies


def _cut_bodies(
    texts: list[str],
    starts: list[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    prefix: str,
    suffix: str,
    room: int,
) -> list[list[int]]:
    """The first tokens of prefix and text (`starts`), then the suffix, tokenised without the text's end."""
    after = _suffix_ids(suffix, tokenizer) if suffix else []
    room -= len(after)
    # where a text changes how its prefix is tokenised, little room might end inside of the prefix
    tight = bool(prefix) and room <= len(prefix.encode())
    for i, text in enumerate(texts):
        if tight and not _reaches(prefix, text, tokenizer, room):
            before, ids = _ids(tokenizer, [prefix, text])
            starts[i] = before + ids
    return [start[:room] + after for start in starts]


def _suffix_ids(suffix: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The suffix as it is tokenised behind a text that it does not merge with.

    By itself it may begin otherwise: some tokenizers put a space before whatever they are given.
    """
    apart, *starts = _ids(tokenizer, [suffix, *_NEUTRAL])
    unknown = tokenizer.unk_token_id  # several in a row may become one
    for start, joint in zip(starts, _ids(tokenizer, [text + suffix for text in _NEUTRAL]), strict=True):
        behind = joint[len(start) :]
        if joint == start + behind and unknown not in start and behind.count(unknown) == apart.count(unknown):
            return behind if len(behind) <= len(apart) else apart
    return apart


def _reaches(prefix: str, text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> bool:
    """Whether the first `room` tokens of prefix and text hold the prefix whole and something of the text."""
    if not tokenizer.is_fast:
        return False  # unknown
    offsets = tokenizer(prefix + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return max((end for _, end in offsets["offset_mapping"][:room]), default=0) > len(prefix)


def _separate_bodies(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prefix: str, suffix: str, room: int, left_out: set[int]
) -> list[list[int]]:
    before, after = _ids(tokenizer, [prefix, suffix])
    room -= len(before) + len(after)
    bodies = ([index for index in ids if index not in left_out] for ids in _ids(tokenizer, list(texts)))
    return [before + ids[:room] + after for ids in bodies]


def _pooled_ids(settings: Any, suffix: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the added tokens at the suffixes' ends that the embedding is a mean over.

    A text may spell one, and is then read without it, as in the training rows of LLaRA.
    """
    if getattr(settings, "pooling", None) != "mean_last_k":
        return set()
    prompts = getattr(settings, "prompts", None) or {}
    tasks = [task for task in prompts.values() if isinstance(task, Mapping)] or [prompts]
    suffixes = {suffix, *(text for task in tasks for key, text in task.items() if key.endswith("_suffix"))}
    ends = _ids(tokenizer, sorted(suffixes))
    return {index for ids in ends for index in ids[-settings.pooling_k :]} & set(tokenizer.added_tokens_decoder)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: no warning that a text is longer than the model takes, it is cut afterwards
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def special_tokens(tokenizer: PreTrainedTokenizerBase, append_eos: bool) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text ([CLS] and [SEP], or BOS), with EOS at the end if asked for.

    Raises ValueError for a tokenizer of which neither can be known, and for `append_eos` without such a token.
    """
    # Of a text without tokens the two could not be told apart, and some tokenizers make none of a full stop.
    some = next((text for text, ids in zip(_PROBES, _ids(tokenizer, list(_PROBES)), strict=True) if ids), None)
    if some is None:
        raise ValueError(f"the tokenizer makes no token of any of {list(_PROBES)}: give the one of the backbone.")
    bare, full = _ids(tokenizer, [some])[0], tokenizer(some)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    head, tail = full[:start], full[start + len(bare) :]
    if append_eos and tokenizer.eos_token_id is None:
        raise ValueError("append_eos=True, but the tokenizer has no eos_token: set one, or append_eos=False.")
    if append_eos and tail[-1:] != [tokenizer.eos_token_id]:
        tail = [*tail, tokenizer.eos_token_id]
    return head, tail


def fallback_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token id that every tokenizer has: end of sequence, padding, beginning of sequence, or else 0."""
    choices = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, 0)
    return next(token for token in choices if token is not None)


def split_by_tokens(rows: Sequence[Sequence[int]], most: int | None) -> list[list[int]]:
    """Numbers of the rows, longest first, in parts of at most `most` tokens, padding included, or of one row.

    >>> split_by_tokens([[5], [6, 7, 8], [9, 9]], most=4)
    [[1], [2, 0]]
    """
    parts: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True):
        longest = len(rows[parts[-1][0]]) if parts else 0
        if parts and (most is None or (len(parts[-1]) + 1) * longest <= most):
            parts[-1].append(number)
        else:
            parts.append([number])
    return parts


def pad_rows(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Rows of token ids -> `input_ids` and `attention_mask`, (len(rows), longest row) int64, padded on the right.

    The mask alone says what is padding, so a tokenizer without a padding token is fine: any id fills the place.

    Token rows [[5, 6, 7], [8]] and padding id 2 become
        input_ids      [[5, 6, 7], [8, 2, 2]]
        attention_mask [[1, 1, 1], [1, 0, 0]]
    """
    if not rows:
        raise ValueError("the batch is empty: it needs at least one row of token ids.")
    pad = fallback_id(tokenizer) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    longest = max(len(row) for row in rows)
    ids = [[*row, *[pad] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def embed_rows(
    rows: Sequence[Sequence[int]],
    embed: Callable[..., torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> torch.Tensor:
    """(len(rows), d) float32 on the CPU, in the order given.

    Args:
        rows: of token ids; on a CPU not all go at once where they are long.
        embed: `input_ids` and `attention_mask`, (n, length) on `device` -> (n, d).

    Raises ValueError for embeddings that are not finite.
    """
    parts = split_by_tokens(rows, CPU_TOKENS if device.type == "cpu" else None)
    embedded = []
    for part in parts:
        padded = pad_rows([rows[number] for number in part], tokenizer)
        on_device = {name: tensor.to(device) for name, tensor in padded.items()}
        embedded.append(embed(**on_device).float().cpu())
    embeddings = torch.cat(embedded)[torch.tensor([number for part in parts for number in part]).argsort()]
    if not (finite := embeddings.isfinite().all(dim=1)).all():
        row = rows[int(finite.long().argmin())]
        raise ValueError(
            f"the embedding of a text of {len(row)} tokens, {tokenizer.decode(list(row[:16]))!r}..., holds NaN or "
            "infinity: the weights do (a run that diverged), or their dtype overflows. Take another checkpoint, or "
            "load it with dtype=torch.float32."
        )
    return embeddings
