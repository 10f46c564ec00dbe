"""From texts to token ids: prompts by task and role, in-context examples, truncation that spares the prompt."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from .checks_biencoder import ROLES, check_choice, check_texts, nearest
from .configuration_biencoder import BiEncoderConfig


def instruction_prompt(instruction: str) -> dict[str, str]:
    """The query prompt of bge-en-icl (arXiv:2409.15700), which takes in-context examples."""
    return {"query": f"<instruct>{instruction}\n<query>", "query_suffix": "\n<response>"}


def prompt_affixes(
    prompts: dict[str, dict[str, str]],
    role: str,
    task: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
) -> tuple[str, str]:
    """What stands before and after a text.

    Args:
        prompts: {task: {prompt key: text}}, see `BiEncoderConfig`.
        role: `query` or `passage`.
        task: a key of `prompts`; None is "default", or no prompt where there is no such task.
        examples: (query, answer) pairs put before a query, each as prefix + query + suffix + answer, with blank
            lines between.

    Raises ValueError for an unknown role or task, and for examples where the prompt cannot take them.
    """
    check_choice("role", role, ROLES)
    if task is not None and task not in prompts:
        fix = f"did you mean {nearest(task, prompts)}?" if prompts else "set config.prompts, or leave task out."
        raise ValueError(f"task={task!r} has no prompt: the tasks are {sorted(prompts)}; {fix}")
    prompt = prompts.get("default" if task is None else task, {})
    prefix, suffix = prompt.get(role, ""), prompt.get(f"{role}_suffix", "")
    if not examples:
        return prefix, suffix
    _check_examples(examples, role, suffix, task)
    blocks = [prefix + query + suffix + answer for query, answer in examples]
    return "\n\n".join([*blocks, prefix]), suffix


def _check_examples(examples: Sequence[tuple[str, str]], role: str, suffix: str, task: str | None) -> None:
    if role != "query":
        raise ValueError(f"examples were given for role={role!r}: in-context examples stand before queries only.")
    if not suffix:
        raise ValueError(
            f"task={task!r} has no query_suffix, so nothing parts an example's query from its answer: use "
            "prompts={task: instruction_prompt(...)} or a query_suffix such as '\\n<response>'."
        )
    for i, example in enumerate(examples):
        if not isinstance(example, list | tuple) or [type(part) for part in example] != [str, str]:
            raise TypeError(f"examples[{i}]={example!r} must be a pair of strings (query, answer).")


def tokenize(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    config: BiEncoderConfig,
    role: str = "query",
    task: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
) -> list[list[int]]:
    """Token ids of each text in its prompt, at most `config.max_length` long, of unequal lengths, never empty.

    The text alone is cut, at its end: prefix, suffix and special tokens stay. A text with no token at all becomes
    one end-of-sequence token. Raises ValueError where the prompt leaves no room for a text.
    """
    check_texts(texts)
    prefix, suffix = prompt_affixes(config.prompts, role, task, examples)
    head, tail = _special_tokens(tokenizer, config.append_eos)
    room = config.max_length - len(head) - len(tail)
    fixed = sum(len(ids) for ids in _ids(tokenizer, [prefix, suffix]))
    if room <= fixed:
        raise ValueError(
            f"max_length={config.max_length} leaves no room for a text: the prompt takes {fixed} tokens and special "
            f"tokens {len(head) + len(tail)}. Raise config.max_length, shorten the prompt or give fewer examples."
        )
    make_bodies = _separate_bodies if config.separate_prompts else _joint_bodies
    bodies = make_bodies(texts, tokenizer, prefix, suffix, room) if texts else []
    return [head + body + tail or [fallback_id(tokenizer)] for body in bodies]


def _joint_bodies(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prefix: str, suffix: str, room: int
) -> list[list[int]]:
    bodies = _ids(tokenizer, [prefix + text + suffix for text in texts])
    long = [i for i, body in enumerate(bodies) if len(body) > room]
    without_suffix = _ids(tokenizer, [prefix + texts[i] for i in long])
    for i, start in zip(long, without_suffix, strict=True):
        kept = bodies[i][len(start) :] if suffix else []  # the suffix as it was tokenised behind the text
        bodies[i] = bodies[i][: room - len(kept)] + kept
    return bodies


def _separate_bodies(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prefix: str, suffix: str, room: int
) -> list[list[int]]:
    before, after = _ids(tokenizer, [prefix, suffix])
    room -= len(before) + len(after)
    return [before + ids[:room] + after for ids in _ids(tokenizer, list(texts))]


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # verbose=False: no warning that a text is longer than the model takes, it is cut afterwards
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _special_tokens(tokenizer: PreTrainedTokenizerBase, append_eos: bool) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text ([CLS] and [SEP], or BOS), with EOS at the end if asked for."""
    bare, full = tokenizer(".", add_special_tokens=False)["input_ids"], tokenizer(".")["input_ids"]
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
