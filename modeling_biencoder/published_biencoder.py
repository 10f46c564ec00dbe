"""What a folder or repo says of how it embeds: sentence-transformers' files first, then the preset of its name."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .checks_biencoder import nearest, typed
from .loading_biencoder import find_file, read_json
from .presets_biencoder import PRESETS, Preset
from .sentence_modules_biencoder import SentenceTransformerParts
from .sentence_transformers_biencoder import (
    describe_sentence_transformer,
    is_sentence_transformer,
    read_sentence_transformer,
)

NO_PRESET = "none"
# Of sentence-transformers' losses, which multiply cosines by 20: a model that was trained with them goes on so.
_TEMPERATURE = 0.05
# What the code of a card loads, and the name of a repo's folder in the Hub's cache.
_LOADED = re.compile(r"""(?:from_pretrained|SentenceTransformer|Model|get_model)\(\s*['"]([\w.-]+/[\w.-]+)['"]""")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]+/?$")
_NAMES = {repo: name for name, preset in PRESETS.items() for repo in preset.repos}
logger = logging.get_logger(__name__)


def published_parts(
    source: Any, keywords: dict[str, Any], preset: str | None = None, given: Mapping[str, Any] | None = None
) -> SentenceTransformerParts | None:
    """How a model embeds, by its files and by a preset for what they do not say; None where neither says anything.

    Args:
        source: Hub id, folder, SentenceTransformer or model in memory.
        keywords: of loading, such as `revision`.
        preset: a name of `PRESETS`, or "none"; by default that of the source, which is then said once.
        given: fields that the caller decides.

    Raises ValueError for an unknown preset, and for files of sentence-transformers that cannot be taken.
    """
    parts = _described(source, keywords, preset, given or {})
    if parts is not None:
        parts.check(given or {})
    return parts


def _described(
    source: Any, keywords: dict[str, Any], preset: str | None, given: Mapping[str, Any]
) -> SentenceTransformerParts | None:
    check_preset("preset", preset)
    in_memory = not isinstance(source, str | os.PathLike)
    if in_memory:
        parts = describe_sentence_transformer(source) if is_sentence_transformer(source) else None
    else:
        parts = read_sentence_transformer(source, keywords)
    name = preset or (_name_in_memory(source) if in_memory else recognised(source, keywords))
    if name in (None, NO_PRESET):
        if parts is not None and parts.fields["normalize"]:
            parts.fields["temperature"] = _TEMPERATURE
        return parts
    joined, added = _joined(parts, PRESETS[str(name)])
    if parts is None and PRESETS[str(name)].has_files:
        raise ValueError(
            f"{_called(source)} lacks the files of sentence-transformers (modules.json and its folders), in which the "
            f"dense layers of {name!r} lie: fetch the repo whole."
        )
    if preset is None and (said := [field for field in added if field not in given]):
        logger.warning_once(
            f"{_called(source)} is read as {name!r} of the published models, from which it has {', '.join(said)}: "
            f"give fields of your own, or preset={NO_PRESET!r}, where it is another."
        )
    return joined


def check_preset(what: str, preset: str | None) -> None:
    """ValueError for a name that is no preset; None is one, too."""
    if typed(what, preset, str | None) is not None and preset not in (*PRESETS, NO_PRESET):
        names = (*PRESETS, NO_PRESET)
        raise ValueError(f"{what}={preset!r} is none of {', '.join(names)}: did you mean {nearest(preset, names)}?")


def check_tokens(parts: SentenceTransformerParts, tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError for a tokenizer without the tokens that the prompts are made of."""
    if missing := [token for token in parts.tokens if token not in tokenizer.get_vocab()]:
        raise ValueError(
            f"the preset has the token {missing[0]!r} in its prompts, and the tokenizer has not: take the tokenizer "
            f"of the published model, or preset={NO_PRESET!r}."
        )


def recognised(source: str | os.PathLike, keywords: dict[str, Any]) -> str | None:
    """The preset of a Hub id or folder, by its name or by what lies in it; None where there is none.

    It says what it is by its place in the Hub's cache, the name that its configuration was saved under, the special
    tokens of its tokenizer, or the model that the code of its card loads; then its backbone must be of that family.
    """
    if (name := _NAMES.get(str(source).lower())) is not None:
        return name
    if (found := _CACHED.search(Path(source).as_posix())) and (name := _NAMES.get(f"{found[1]}/{found[2]}".lower())):
        return name
    config = _settings(source, "config.json", keywords)
    family, saved_as = config.get("model_type"), str(config.get("_name_or_path", "")).lower()
    candidates = [_NAMES.get(saved_as), *_by_tokens(source, keywords, family), *_by_card(source, keywords)]
    if family is None:  # an adapter: its base is of another repo
        return next(filter(None, candidates), None)
    return next((name for name in candidates if name and family in PRESETS[name].families), None)


def _settings(source: str | os.PathLike, name: str, keywords: dict[str, Any]) -> dict[str, Any]:
    try:
        found = read_json(source, name, keywords)
    except (OSError, ValueError):  # not in the cache of a machine without network; who needs the file will say so
        return {}
    return found if isinstance(found, dict) else {}


def _by_tokens(source: str | os.PathLike, keywords: dict[str, Any], family: str | None) -> list[str]:
    wanted = {name: preset for name, preset in PRESETS.items() if preset.tokens and family in preset.families}
    if not wanted:
        return []
    settings = _settings(source, "tokenizer_config.json", keywords)
    tokens = set(_settings(source, "added_tokens.json", keywords))
    tokens |= {str(token.get("content")) for token in (settings.get("added_tokens_decoder") or {}).values()}
    # Since transformers 5 they stand here alone.
    added = _settings(source, "tokenizer.json", keywords).get("added_tokens", ())
    tokens |= {str(token.get("content")) for token in added}
    for names in ("additional_special_tokens", "extra_special_tokens"):
        tokens |= {str(token) for token in settings.get(names) or ()}
    return [name for name, preset in wanted.items() if tokens.issuperset(preset.tokens)]


def _by_card(source: str | os.PathLike, keywords: dict[str, Any]) -> list[str]:
    try:
        card = find_file(source, "README.md", keywords)
    except (OSError, ValueError):
        return []
    text = "" if card is None else Path(card).read_text(encoding="utf-8", errors="replace")
    return [_NAMES[repo.lower()] for repo in _LOADED.findall(text) if repo.lower() in _NAMES]


def _name_in_memory(model: Any) -> str | None:
    """By the Hub id that a model in memory was loaded by."""
    backbone = model[0].auto_model if is_sentence_transformer(model) else model
    if not isinstance(backbone, PreTrainedModel):
        return None
    return _NAMES.get(str(backbone.config.name_or_path).lower())


def _joined(parts: SentenceTransformerParts | None, preset: Preset) -> tuple[SentenceTransformerParts, list[str]]:
    """What the files say, with the preset for the rest; and the names of the fields that it decides."""
    if parts is None:
        alone = SentenceTransformerParts(dict(preset.fields), max_length=preset.max_length, tokens=preset.tokens)
        return alone, list(preset.fields)
    prompts = _joined_prompts(parts.fields["prompts"], preset.fields["prompts"])
    fields = {**preset.fields, **parts.fields, "prompts": prompts}
    added = [name for name in preset.fields if name not in parts.fields]
    if prompts != parts.fields["prompts"]:
        added.append("prompts")
    parts.fields, parts.tokens = fields, preset.tokens
    parts.max_length = preset.max_length if parts.max_length is None else parts.max_length
    return parts, added


def _joined_prompts(said: dict[str, dict[str, str]], preset: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The files' prompts, and the preset's tasks that they lack.

    A file has one text for both roles of a task: where it is the preset's for queries, the preset knows which role it
    is for.
    """
    joined = {**preset, **said}
    for task, prompt in preset.items():
        if not any(joined[task].values()) or joined[task].get("query") == prompt["query"]:
            joined[task] = prompt
    return joined


def _called(source: Any) -> str:
    return repr(str(source)) if isinstance(source, str | os.PathLike) else f"the {type(source).__name__}"
