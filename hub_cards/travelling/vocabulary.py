"""The tokenizer of a folder or repo, loaded; refused where half of it lies there, or where it is not the model's."""

import json
import os
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from .halves import check_json
from .loading import find_file
from .saving import is_full_disk

_WHOLE = "tokenizer.json"
_WORDS = ("vocab.txt", "vocab.json")  # of older files beside it, those that can be read without their class
_FILES = ("tokenizer_config.json", _WHOLE, "vocab.json", "special_tokens_map.json", "added_tokens.json")
# Tokens that a tokenizer puts beside a text by itself.
_PUT = ("bos_token", "eos_token", "cls_token", "sep_token", "pad_token", "unk_token")
_FEWEST = 8  # tokens beside the special ones; what transformers makes of no file at all has fewer
logger = logging.get_logger(__name__)


def load_tokenizer(
    source: str | os.PathLike, keywords: dict[str, Any], folder: str = "", compare: bool = True
) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder of a repo, found by what found the repo.

    Where its vocabulary is in two files that contradict each other, this is said once (unless not to `compare`).

    Raises ValueError if there is none, or a part of one: of some families transformers makes a tokenizer without
    words where it finds no file (5.23).
    """
    subfolder = "/".join(part for part in (keywords.get("subfolder"), folder) if part)
    place = {**keywords, "subfolder": subfolder}
    where = f"{str(source)!r}, folder {subfolder!r}" if subfolder else repr(str(source))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **place)
    except Exception as error:  # that of tokenizers has no class of its own
        if isinstance(error, ImportError) or is_full_disk(error):  # while it was fetched
            raise
        if "trust_remote_code" in str(error) and find_file(source, _FILES[0], place) is not None:  # code of its own
            raise
        raise ValueError(f"no tokenizer could be loaded from {where}: {_cause(source, place)}") from error
    if keywords.get("gguf_file"):  # which holds it
        return tokenizer
    if not _has_words(tokenizer) and find_file(source, _WHOLE, place) is None:
        raise ValueError(f"no tokenizer could be loaded from {where}: {_cause(source, place)}")
    if compare:
        _compare_files(tokenizer, source, place, where)
    return tokenizer


def check_rows(tokenizer: PreTrainedTokenizerBase, rows: int, what: str = "the embeddings") -> None:
    """ValueError for a tokenizer that makes ids for which there are no rows.

    Tokens that a text has only if it names them may lie beyond, as those for images of Gemma 3 do.
    """
    ids = tokenizer.get_vocab()
    if not ids or max(ids.values()) < rows:
        return
    put = {str(token) for name, token in tokenizer.special_tokens_map.items() if name in _PUT}
    named = set(map(str, tokenizer.all_special_tokens)) - put
    beyond = {index: token for token, index in ids.items() if index >= rows and token not in named}
    if beyond:
        last = max(beyond)
        raise ValueError(
            f"the tokenizer has tokens up to id {last} ({beyond[last]!r}), and {what} have {rows} rows: take the "
            f"tokenizer of this model, or first make room with model.resize_token_embeddings({last + 1})."
        )


def check_fit(tokenizer: PreTrainedTokenizerBase, embeddings: Any, what: str = "the embeddings") -> None:
    """`check_rows` of a layer of embeddings, where its weight is at hand (some quantised and sharded ones are not)."""
    if embeddings.weight.dim() == 2:
        check_rows(tokenizer, len(embeddings.weight), what)


def contradiction(one: dict[str, int], other: dict[str, int]) -> str | None:
    """The first token that has another id in the other vocabulary; None where there is none."""
    differ = (token for token in other if token in one and one[token] != other[token])
    return min(differ, key=lambda token: other[token], default=None)


def merges_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """What cuts words into tokens beside the vocabulary: merges of a BPE in their order, scores of a Unigram's tokens.

    As the library tokenizers writes them down, with what stands behind: of a large vocabulary JSON takes a second to
    read. Nothing of a WordPiece, which has the vocabulary alone, and of what does not run in that library.
    """
    if not tokenizer.is_fast:
        return ""
    written = tokenizer.backend_tokenizer.to_str()
    begins = max(written.rfind(name) for name in ('"merges":[', '"vocab":['))  # in a token the quotes are escaped
    return written[begins:] if begins >= 0 else ""


def have_other_merges(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether both have merges, or scores, and these differ: then equal tokens do not make equal texts of ids."""
    ours, theirs = merges_of(one), merges_of(other)
    return bool(ours and theirs) and ours != theirs


def compare_given(given: Any, source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """Say once where a tokenizer that the caller gave has other ids or merges than that of the model's folder."""
    if not isinstance(given, PreTrainedTokenizerBase) or not os.path.isdir(source):
        return
    try:
        own = load_tokenizer(source, keywords, compare=False)
    except (ImportError, OSError, ValueError):  # the caller gave one as there is none
        return
    ids, known = given.get_vocab(), own.get_vocab()
    if (token := contradiction(ids, known)) is not None:
        said = f"{token!r} at id {ids[token]}, and that of {str(source)!r} at {known[token]}"
    elif have_other_merges(given, own):
        said = f"other merges, or scores of its tokens, than that of {str(source)!r}"
    else:
        return
    logger.warning_once(
        f"The tokenizer given has {said}: give none, to take the model's own, unless the model is to learn another "
        "vocabulary."
    )


def _has_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    words = set(tokenizer.get_vocab()) - set(map(str, tokenizer.all_special_tokens))
    return len(words) >= _FEWEST


def _cause(source: str | os.PathLike, place: dict[str, Any]) -> str:
    """What is the matter, and what to do, where a tokenizer cannot be loaded."""
    fix = "fetch it again, or set model.tokenizer."
    repo = None if os.path.isdir(source) else str(source)
    try:
        files = {name: find_file(source, name, place) for name in dict.fromkeys((*_FILES, *_WORDS))}
    except OSError:  # no such repo, or no way to it
        return f"does it hold one, with all its files? {fix[0].upper()}{fix[1:]}"
    for name in _FILES:
        if (file := files[name]) is not None:
            try:
                check_json(Path(file), repo)
            except OSError as error:
                return str(error)
    if not any(files[name] for name in (_WHOLE, *_WORDS)):
        return (
            f"it has no {_WHOLE}, nor the vocabulary of an older one: fetch the model whole, save a tokenizer there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained), or set model.tokenizer."
        )
    return f"its files do not make one that transformers knows: {fix}"


def _compare_files(
    tokenizer: PreTrainedTokenizerBase, source: str | os.PathLike, place: dict[str, Any], where: str
) -> None:
    if not os.path.isdir(source) or find_file(source, _WHOLE, place) is None:
        return
    for name in _WORDS:
        file = find_file(source, name, place)
        if file is None:
            continue
        ids, beside = tokenizer.get_vocab(), _words(Path(file))
        if (token := contradiction(ids, beside)) is not None:
            logger.warning_once(
                f"{where} has two tokenizers that differ: {token!r} is {ids[token]} in {_WHOLE}, which is read, and "
                f"{beside[token]} in {name}. Remove the one that is not the model's."
            )


def _words(file: Path) -> dict[str, int]:
    """{token: id} of an older file; nothing where it is none."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".txt":
            return {token: number for number, token in enumerate(text.split("\n")) if token}
        found = json.loads(text)
    except ValueError:
        return {}
    return {str(token): index for token, index in found.items()} if isinstance(found, dict) else {}
