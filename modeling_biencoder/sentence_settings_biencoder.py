"""What sentence-transformers knows of a saved bi-encoder: the module, prompts under its names, and the width."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .configuration_biencoder import BiEncoderConfig
from .encoding_biencoder import prompt_affixes
from .loading_biencoder import read_object
from .sentence_modules_biencoder import prompts_by_task
from .sentence_transformers_biencoder import SETTINGS

TEXT = "{text}"  # stands for the text in a prompt of theirs, which is one string, where ours has a suffix
_OUR_WIDTH = "lookback_truncate_dim"  # theirs, `truncate_dim`, cuts without normalising anew


def settings_of(config: BiEncoderConfig, prompts: dict[str, str], truncate_dim: int | None = None) -> dict[str, Any]:
    """A SentenceTransformer's settings.

    A text of no role gets no prompt, or that of a passage where the embedding is read from behind the text (LLaRA's).
    """
    width = {} if truncate_dim is None else {"truncate_dim": truncate_dim}
    default = "document" if prompt_affixes(config.prompts, "passage")[1] else None
    return {"prompts": prompts, "default_prompt_name": default, "similarity_fn_name": config.similarity, **width}


def flat_prompts(prompts: dict[str, dict[str, str]]) -> dict[str, str]:
    """Their prompts of ours, each one string, under the names that sentence-transformers and mteb ask for.

    Those of the task "default" are `query` and `document`, others `task-role`; a text of no role has the query's. A
    name of a role is that, whatever tasks are called: one named "query" is there as "query-query" alone.

    >>> flat_prompts({"default": {"query": "q: ", "query_suffix": "?"}})
    {'query': 'q: {text}?', 'document': '', 'passage': ''}
    >>> flat_prompts({"STS": {"query": "similar: "}})
    {'STS': 'similar: ', 'STS-query': 'similar: ', 'STS-document': '', 'STS-passage': ''}
    """
    alone: dict[str, str] = {}
    of_roles: dict[str, str] = {}
    for task in prompts:
        query, passage = (_joined(*prompt_affixes(prompts, role, task)) for role in ("query", "passage"))
        start = "" if task == "default" else f"{task}-"
        alone |= {task: query} if start and task not in ("query", "document", "passage") else {}
        of_roles |= {f"{start}query": query, f"{start}document": passage, f"{start}passage": passage}
    return {**alone, **of_roles}


def affixes(prompt: str | None, config: BiEncoderConfig) -> tuple[str, str]:
    """What stands before and after a text by a prompt of theirs: one of the configuration's, or another."""
    for task in config.prompts:
        for role in ("query", "passage"):
            known = prompt_affixes(config.prompts, role, task)
            if _joined(*known) == prompt:
                return known
    before, _, after = (prompt or "").partition(TEXT)
    return before, after


def _joined(prefix: str, suffix: str) -> str:
    return f"{prefix}{TEXT}{suffix}" if suffix or TEXT in prefix else prefix


@contextmanager
def saved_prompts(config: BiEncoderConfig, theirs: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Prompts of theirs that are not the configuration's are its own meanwhile: a folder has one set of them.

    Gives them under all names that `flat_prompts` has.
    """
    ours = config.prompts
    # Of a role with two names `encode_document` takes the prompt of "document".
    twins = {name for name in theirs if name.endswith("passage") and f"{name[:-7]}document" in theirs}
    named = {name: text for name, text in theirs.items() if name not in twins}
    if named.items() - flat_prompts(ours).items():
        config.prompts = {task: _split(prompt, config) for task, prompt in prompts_by_task(named).items()}
    try:
        yield flat_prompts(config.prompts) | named
    finally:
        config.prompts = ours


def _split(prompt: Mapping[str, str], config: BiEncoderConfig) -> dict[str, str]:
    split: dict[str, str] = {}
    for role, text in prompt.items():
        prefix, suffix = affixes(text, config)
        split |= {role: prefix, **({f"{role}_suffix": suffix} if suffix else {})}
    return split


def own_width(truncate_dim: int | None) -> dict[str, int]:
    """The setting by which our module cuts vectors and normalises them anew."""
    return {} if truncate_dim is None else {_OUR_WIDTH: truncate_dim}


def read_own_width(source: str, place: dict[str, Any]) -> int | None:
    """What `own_width` has put into the settings of a repo."""
    return (read_object(source, SETTINGS, place) or {}).get(_OUR_WIDTH)


def write_json(file: Path, content: Any) -> None:
    """A file of settings."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
