"""A new card into an existing one: generated sections are renewed, everything else belongs to a person.

A generated section stands between `<!-- lookback:begin NAME -->` and `<!-- lookback:end NAME -->`, comments that a
reader of the rendered card does not see.
"""

import re
from typing import cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

_SECTION = re.compile(r"<!-- lookback:begin (?P<name>[\w-]+) -->.*?<!-- lookback:end (?P=name) -->", re.DOTALL)
_LISTS = ("datasets", "language", "tags")


def merge_cards(old: ModelCard, new: ModelCard, given: set[str]) -> ModelCard:
    """`old` with the generated sections and the metadata of `new`.

    Args:
        old: the card as it stands, with or without generated sections.
        new: the freshly rendered card.
        given: names of metadata that somebody asked for; of the others, a value of `old` stays.

    Returns: `old`, changed. A section that it lacks is put behind the one that precedes it in `new`, or at the end;
        one that `new` lacks stays as it is.
    """
    old.text = _merge_text(old.text, new.text)
    _merge_metadata(cast(ModelCardData, old.data), cast(ModelCardData, new.data), given)
    return old


def is_generated(card: ModelCard) -> bool:
    """Whether nobody wrote anything outside the generated sections."""
    return not _SECTION.sub("", card.text).strip()


def _merge_text(old: str, new: str) -> str:
    previous = None
    for found in _SECTION.finditer(new):
        stands = next((section[0] for section in _SECTION.finditer(old) if section["name"] == found["name"]), None)
        anchor = stands or previous
        if anchor is None:
            old = f"{old.rstrip()}\n\n{found[0]}\n"
        else:
            old = old.replace(anchor, found[0] if stands else f"{anchor}\n\n{found[0]}", 1)
        previous = found[0]
    return old


def _merge_metadata(old: ModelCardData, new: ModelCardData, given: set[str]) -> None:
    results = _merge_results(old.eval_results or [], new.eval_results or [])
    old.model_name = old.model_name or new.model_name
    old.eval_results = results or None
    for name, value in new.to_dict().items():
        if name in _LISTS:
            old[name] = _union(old.get(name), value)
        elif name != "model-index" and (name in given or old.get(name) is None):
            old[name] = value


def _merge_results(old: list[EvalResult], new: list[EvalResult]) -> list[EvalResult]:
    """The results of `old`, without those that `new` measured again, then `new`."""
    kept = [result for result in old if not any(result.is_equal_except_value(other) for other in new)]
    return kept + new


def _union(old: str | list[str] | None, new: str | list[str]) -> list[str]:
    parts = [[value] if isinstance(value, str) else value or [] for value in (old, new)]
    return list(dict.fromkeys(parts[0] + parts[1]))
