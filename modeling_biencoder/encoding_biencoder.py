"""Texts as a bi-encoder reads them: prompts by task and role, in-context examples, batches of any size."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from .checks_biencoder import check_choice, check_positive_int, nearest, shown, typed
from .configuration_biencoder import BiEncoderConfig
from .inputs_biencoder import check_truncate_dim
from .prefix_biencoder import RowReader, shares_prefixes
from .prompting_biencoder import ROLES, text_list, tokenize_in_prompt

_SHORT_JOB_SECONDS = 2.0  # no progress bar before that


def instruction_prompt(instruction: str) -> dict[str, str]:
    """The query prompt of bge-en-icl (arXiv:2409.15700), which takes in-context examples."""
    typed("instruction", instruction, str)
    return {"query": f"<instruct>{instruction}\n<query>", "query_suffix": "\n<response>"}


def prompt_affixes(
    prompts: dict[str, dict[str, str]],
    role: str | None,
    task: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
) -> tuple[str, str]:
    """What stands before and after a text.

    Args:
        prompts: {task: {prompt key: text}}, see `BiEncoderConfig`.
        role: `query` or `passage`; None is no prompt.
        task: a key of `prompts`; None is "default", or no prompt where there is no such task.
        examples: (query, answer) pairs put before a query, each as prefix + query + suffix + answer, with blank
            lines between.

    Raises ValueError for an unknown role or task, and for examples where the prompt cannot take them.
    """
    if role is not None:
        check_choice("role", role, ROLES)
    typed("task", task, str | None)
    if task is not None and task not in prompts:
        fix = f"did you mean {nearest(task, prompts)}?" if prompts else "set config.prompts, or leave task out."
        raise ValueError(f"task={task!r} has no prompt: the tasks are {sorted(prompts)}; {fix}")
    prompt = prompts.get("default" if task is None else task, {})
    prefix, suffix = ("", "") if role is None else (prompt.get(role, ""), prompt.get(f"{role}_suffix", ""))
    if examples is not None and (isinstance(examples, str) or not isinstance(examples, Sequence)):
        raise TypeError(f"examples={shown(examples)} must be a list of pairs (query, answer), or None.")
    if not examples:
        return prefix, suffix
    _check_examples(examples, role, suffix, task)
    blocks = [prefix + query + suffix + answer for query, answer in examples]
    return "\n\n".join([*blocks, prefix]), suffix


def _check_examples(examples: Sequence[tuple[str, str]], role: str | None, suffix: str, task: str | None) -> None:
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
    role: str | None = "query",
    task: str | None = None,
    examples: Sequence[tuple[str, str]] | None = None,
) -> list[list[int]]:
    """Token ids of each text in its prompt, as `tokenize_in_prompt` makes them; arguments as in `prompt_affixes`."""
    prefix, suffix = prompt_affixes(config.prompts, role, task, examples)
    return tokenize_in_prompt(texts, prefix, suffix, tokenizer, config)


def encode(
    model: Any,
    texts: Sequence[str],
    role: str | None,
    task: str | None,
    examples: Sequence[tuple[str, str]] | None,
    batch_size: int,
    truncate_dim: int | None,
    show_progress: bool | None,
) -> torch.Tensor:
    """What `BiEncoderModel.encode` returns."""
    texts = text_list(texts)
    check_positive_int("batch_size", batch_size)
    typed("show_progress", show_progress, bool | None)
    width = model.config.hidden_size
    check_truncate_dim(truncate_dim, model.config.embedding_dims, width)
    prompt_affixes(model.config.prompts, role, task, examples)  # checked for an empty list too
    if not texts:
        return torch.zeros(0, truncate_dim or width)
    # Longest first: little padding, and a batch too large for the memory fails at once.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    starts = range(0, len(order), batch_size)
    delay = _SHORT_JOB_SECONDS if show_progress is None else 0.0
    training, parts = [module for module in model.modules() if module.training], []
    model.eval()
    try:
        # what stands before an empty text stands before all of them, or nearly so
        several = len(texts) > 1 and shares_prefixes(model)
        shared = tokenize([""], model.tokenizer, model.config, role, task, examples)[0] if several else []
        reader = RowReader(model, shared, truncate_dim)
        for start in tqdm(starts, desc="encode", disable=show_progress is False, delay=delay):
            batch = [texts[i] for i in order[start : start + batch_size]]
            rows = tokenize(batch, model.tokenizer, model.config, role, task, examples)
            parts.append(reader.embed(rows))
    finally:
        for module in training:  # not all of it may have been
            module.training = True
    return torch.cat(parts)[torch.tensor(order).argsort()]
