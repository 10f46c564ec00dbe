"""A new card into an existing one: generated sections are renewed, everything else belongs to a person.

A generated section stands between `<!-- lookback:begin NAME DIGEST -->` and `<!-- lookback:end NAME -->`, comments
that a reader of the rendered card does not see. One whose text no longer has that digest was edited, and stays as it
is; whoever wants it generated again deletes it. A comment at the end has the digests of the metadata that were
generated: a value that differs from its digest, or has none, is a person's.
"""

import hashlib
import re
from typing import cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

_SECTION = re.compile(
    r"<!-- lookback:begin (?P<name>[\w-]+)(?: (?P<digest>[0-9a-f]{12}))? -->"
    r"(?P<text>.*?)<!-- lookback:end (?P=name) -->",
    re.DOTALL,
)
_LISTS = ("datasets", "language", "tags")
_RESULTS = "model-index"
_PLAIN = re.compile(r"[\w.-]+")  # a name that a generated one may have
_METADATA = re.compile(r"<!-- lookback:metadata (?P<digests>[^>]*) -->")


def stamp(text: str) -> str:
    """`text` with the digest of each generated section in its first line."""

    def stamped(found: re.Match[str]) -> str:
        return found[0].replace(" -->", f" {_digest(found['text'])} -->", 1)

    return _SECTION.sub(stamped, text)


def replace_generated(text: str, old: str, new: str) -> str:
    """`text` with `new` for `old` in its generated sections, but not in one that somebody edited."""

    def replaced(section: re.Match[str]) -> str:
        name, content = section["name"], section["text"]
        if old not in content or _is_edited(section):
            return section[0]
        return stamp(f"<!-- lookback:begin {name} -->{content.replace(old, new)}<!-- lookback:end {name} -->")

    return _SECTION.sub(replaced, text)


def _digest(text: str) -> str:
    # Ends of lines may change on the way through an editor or the Hub's web page.
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def _is_edited(section: re.Match[str]) -> bool:
    return section["digest"] is not None and section["digest"] != _digest(section["text"])


def own_metadata(card: ModelCard) -> set[str]:
    """Names of the metadata, lists and results aside, that a person wrote.

    Of a card of an earlier Lookback, which has no digests, nobody knows: none.
    """
    if (found := _METADATA.search(card.text)) is None:
        return set() if _SECTION.search(card.text) else set(_single_values(card))
    digests = dict(entry.partition("=")[::2] for entry in found["digests"].split())
    return {name for name, value in _single_values(card).items() if digests.get(name) != _digest(repr(value))}


def stamp_metadata(card: ModelCard, own: set[str]) -> ModelCard:
    """The card with the digests of its metadata, but for those of the names in `own`, which a person wrote."""
    values = {
        name: value for name, value in _single_values(card).items() if name not in own and _PLAIN.fullmatch(name)
    }
    digests = [f"{name}={_digest(repr(value))}" for name, value in values.items()]
    comment = f"<!-- lookback:metadata {' '.join(digests)} -->"
    if _METADATA.search(card.text):  # where it stands, also if a person writes behind it
        card.text = _METADATA.sub(comment, card.text, count=1)
    else:
        card.text = f"{card.text.rstrip()}\n\n{comment}\n"
    return card


def _single_values(card: ModelCard) -> dict[str, object]:
    return {name: value for name, value in card.data.to_dict().items() if name not in (*_LISTS, _RESULTS)}


def merge_cards(old: ModelCard, new: ModelCard, given: set[str]) -> ModelCard:
    """`old` with the generated sections and the metadata of `new`.

    Args:
        old: the card as it stands, with or without generated sections.
        new: the freshly rendered card, or one in a folder whose metadata a person may have changed.
        given: names of metadata that somebody asked for, beside those that a person wrote in `new`; of the others, a
            value of `old` stays.

    Returns: `old`, changed. A section that it lacks is put behind the one that precedes it in `new`, or at the end;
        one that `new` lacks stays as it is.
    """
    own = own_metadata(new)
    persons = own | own_metadata(old)
    old.text = _merge_text(old.text, new.text)
    _merge_metadata(cast(ModelCardData, old.data), cast(ModelCardData, new.data), given | own)
    return stamp_metadata(old, persons)


def is_generated(card: ModelCard) -> bool:
    """Whether nobody wrote anything outside the generated sections, or in one of them."""
    text = _METADATA.sub("", _SECTION.sub("", card.text))
    return not text.strip() and not any(map(_is_edited, _SECTION.finditer(card.text)))


def _merge_text(old: str, new: str) -> str:
    previous = None
    for found in _SECTION.finditer(new):
        section = next((section for section in _SECTION.finditer(old) if section["name"] == found["name"]), None)
        if section is not None and _is_edited(section):
            previous = section[0]
            continue
        stands = section[0] if section else None
        anchor = stands or previous
        if anchor is None:
            old = f"{old.rstrip()}\n\n{found[0]}\n"
        else:
            old = old.replace(anchor, found[0] if stands else f"{anchor}\n\n{found[0]}", 1)
        previous = found[0]
    return old


def _merge_metadata(old: ModelCardData, new: ModelCardData, given: set[str]) -> None:
    results = merge_results(old.eval_results or [], new.eval_results or [])
    old.model_name = old.model_name or new.model_name
    old.eval_results = results or None
    _change_kind(old, new)
    for name, value in new.to_dict().items():
        if name in _LISTS:
            old[name] = _union(old.get(name), value)
        elif name != _RESULTS and (name in given or old.get(name) is None):
            old[name] = value


def _change_kind(old: ModelCardData, new: ModelCardData) -> None:
    """Where an adapter takes the place of full weights, or the other way round, the relation to the base changes."""
    was, is_now = old.get("base_model_relation") == "adapter", new.get("base_model_relation") == "adapter"
    if was == is_now:
        return
    old["base_model"] = new.get("base_model") or old.get("base_model")
    old["base_model_relation"] = new.get("base_model_relation") or "finetune"
    if was and old.tags:
        old.tags = [tag for tag in old.tags if tag != "peft"]


def merge_results(old: list[EvalResult], new: list[EvalResult]) -> list[EvalResult]:
    """The results of `old`, without those that `new` measured again, then `new`."""
    kept = [result for result in old if not any(result.is_equal_except_value(other) for other in new)]
    return kept + new


def _union(old: str | list[str] | None, new: str | list[str]) -> list[str]:
    parts = [[value] if isinstance(value, str) else value or [] for value in (old, new)]
    return list(dict.fromkeys(parts[0] + parts[1]))
