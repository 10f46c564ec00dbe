# Copied from modeling_biencoder/sentence_transformers_biencoder.py by "make copies": edit that one.
"""A sentence-transformers model taken as what it says it is: pooling, dense layers, lengths, prompts, similarity.

Its files are those that sentence-transformers 2 to 6 writes: modules.json names the modules in their order, each with
its settings in a folder of its own.
"""

import copy
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, logging

from .loading_srlm import find_file, read_json, tokenizer_keywords
from .sentence_modules_srlm import LAST, SentenceTransformerParts, describe, say_width
from .vocabulary_srlm import contradiction, have_other_merges, load_tokenizer

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
OUR_MODULE = "sentence_encoder_biencoder.SentenceEncoder"  # of a bi-encoder's own repo, which needs no reading
WEIGHTS = "model.safetensors"
# Of a tokenizer, beside its file and its special tokens.
_KEPT = (
    "extra_special_tokens",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "chat_template",
)
# Of the module Transformer, by the family of its first versions.
_TRANSFORMER = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

logger = logging.get_logger(__name__)


def read_sentence_transformer(source: str | os.PathLike, keywords: dict[str, Any]) -> SentenceTransformerParts | None:
    """What the files in a folder or repo say; None where they are none of sentence-transformers, or a bi-encoder's.

    Args:
        keywords: of loading, such as `revision` and `subfolder`.

    Raises ValueError for modules and settings that a bi-encoder does not have, and for files that are not there.
    """

    def read(name: str) -> Any:
        return read_json(source, name, keywords)

    modules = read(MODULES)
    if modules is None:
        _refuse_half(source, keywords)
        return None
    if isinstance(modules, list) and [module.get("type") for module in modules if isinstance(module, dict)] == [
        OUR_MODULE
    ]:
        return None
    kinds, paths = _kinds_and_paths(source, modules)
    behind = list(zip(kinds, paths, strict=True))[1:]
    if paths[0] and read(f"{paths[0]}/{ADAPTER_CONFIG_NAME}") is None:
        _needed(read, f"{paths[0]}/{CONFIG_NAME}", source)
    configs = [_needed(read, f"{path}/config.json", source) for kind, path in behind if kind != LAST]
    prefix = f"{paths[0]}/" if paths[0] else ""
    transformer: dict[str, Any] = next((found for name in _TRANSFORMER if (found := read(prefix + name))), {})
    settings = read(SETTINGS) or {}
    parts = describe(repr(str(source)), kinds, configs, transformer, settings)
    parts.folder, parts.dense_folders = paths[0], [path for kind, path in behind if kind == "Dense"]
    return parts


def is_sentence_transformer(model: object) -> bool:
    """Whether this is a SentenceTransformer, by its name: sentence-transformers need not be there."""
    return any(cls.__module__.startswith("sentence_transformers.") for cls in type(model).__mro__)


def unwrapped(model: Any) -> Any:
    """The bi-encoder that a SentenceTransformer holds as its one module; anything else as it is."""
    ours = is_sentence_transformer(model) and [type(module).__name__ for module in model] == [OUR_MODULE.split(".")[1]]
    if ours:
        say_width("the SentenceTransformer", model.truncate_dim or model[0].truncate_dim)
    return model[0].model if ours else model


def describe_sentence_transformer(model: Any) -> SentenceTransformerParts:
    """The parts of a SentenceTransformer in memory; its tokenizer puts texts in lower case by itself."""
    kinds = [type(module).__name__ for module in model]
    configs = [module.get_config_dict() for module, kind in zip(model, kinds, strict=True) if kind != LAST]
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    settings = {name: getattr(model, name) for name in names}
    parts = describe("the SentenceTransformer", kinds, configs[1:], {**configs[0], "do_lower_case": False}, settings)
    parts.max_length = model.max_seq_length
    return parts


def states_of_dense(model: nn.Module) -> dict[str, Any]:
    """The state of a SentenceTransformer's dense layers, {"0.linear.weight": ..., ...}."""
    layers = [module for module in model if type(module).__name__ == "Dense"]  # type: ignore[attr-defined]
    return {
        f"{number}.{name}": value for number, layer in enumerate(layers) for name, value in layer.state_dict().items()
    }


def within(keywords: dict[str, Any], folder: str) -> dict[str, Any]:
    """The loading keywords for a folder of the repo that they say."""
    subfolder = "/".join(part for part in (keywords.get("subfolder"), folder) if part)
    return {**keywords, "subfolder": subfolder} if subfolder else keywords


def longest_input(parts: SentenceTransformerParts, tokenizer: Any, positions: int | None) -> int:
    """Where texts are cut: where the parts say, else the tokenizer; no later than at the backbone's last position."""
    longest = tokenizer.model_max_length if parts.max_length is None else parts.max_length
    return longest if positions is None else min(longest, positions)


def say_two_tokenizers(
    tokenizer: PreTrainedTokenizerBase, source: str | os.PathLike, parts: SentenceTransformerParts, loading: dict
) -> None:
    """Say once where another tokenizer lies beside that of the backbone's folder, which is the one that is read.

    Args:
        tokenizer: that of the folder. loading: keywords for the folder, as `within` gives them.
    """
    root = {**loading, "subfolder": (loading.get("subfolder") or "").removesuffix(parts.folder).rstrip("/")}
    if not parts.folder or find_file(source, "tokenizer.json", root) is None:
        return
    other = load_tokenizer(source, tokenizer_keywords(root), compare=False)
    ids, others = tokenizer.get_vocab(), other.get_vocab()
    read = f"in {parts.folder!r}, which is read, as sentence-transformers does"
    if (token := contradiction(ids, others)) is not None:
        said = f"{token!r} is {ids[token]} {read}, and {others[token]} beside it"
    elif have_other_merges(tokenizer, other):
        said = f"the one {read}, has other merges, or scores of its tokens"
    else:
        return
    logger.warning_once(
        f"{str(source)!r} has two tokenizers that differ: {said}. Remove the one that is not the model's."
    )


def lower_cased(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer that reads every text in lower case; as sentence-transformers does it.

    It is of the plain class, which is loaded as it was saved: others make their normaliser anew (transformers 5.23).
    """
    from tokenizers.normalizers import Lowercase, Sequence

    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    before = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = Sequence([Lowercase(), *before])
    kept = {name: getattr(tokenizer, name) for name in _KEPT}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map, **kept)


def dense_weights(
    source: str | os.PathLike, parts: SentenceTransformerParts, keywords: dict[str, Any]
) -> dict[str, Any]:
    """The state of the dense layers, {"0.linear.weight": ..., ...}; ValueError where one is no safetensors."""
    state: dict[str, Any] = {}
    for number, folder in enumerate(parts.dense_folders):
        file = find_file(source, f"{folder}/{WEIGHTS}", keywords)
        if file is None:
            raise ValueError(
                f"{str(source)!r} has no {folder}/{WEIGHTS}, which its {MODULES} asks for; another file of weights "
                "is a pickle, and not read: load it with sentence-transformers and save it there, or ask its owner to."
            )
        state |= {f"{number}.{name}": value for name, value in load_file(file).items()}
    return state


def _kinds_and_paths(source: Any, modules: Any) -> tuple[list[str], list[str]]:
    """The modules' names and folders; no folder outside of the repo, no code of a repo."""
    fix = "ask its owner to save it with sentence-transformers."
    if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"{MODULES} of {str(source)!r} is no list of modules: {fix}")
    kinds, paths = [], []
    for module in modules:
        kind, path = str(module.get("type")), str(module.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise ValueError(
                f"{str(source)!r} has the module {kind!r}, code of its own, which a bi-encoder cannot take: wrap "
                "SentenceTransformer(...) in an object with encode()."
            )
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
            raise ValueError(f"{MODULES} of {str(source)!r} names {path!r}, outside of its folder: do not load it.")
        kinds.append(kind.rpartition(".")[2])
        paths.append(path)
    return kinds, paths


def _needed(read: Callable[[str], Any], name: str, source: Any) -> Any:
    content = read(name)
    if not isinstance(content, dict):
        raise ValueError(
            f"{str(source)!r} has no {name}, which its {MODULES} asks for: half of a sentence-transformers model. "
            "Fetch it whole, or take the backbone alone, without modules.json, and give pooling=..."
        )
    return content


def _refuse_half(source: str | os.PathLike, keywords: dict[str, Any]) -> None:
    """ValueError for a folder with some of the files, but not the one that says how they belong together."""
    here = Path(source, keywords.get("subfolder") or "")
    found = [name for name in (SETTINGS, "1_Pooling") if (here / name).exists()]
    if found:
        raise ValueError(
            f"{str(source)!r} has {' and '.join(found)}, but no {MODULES}: half of a sentence-transformers model. "
            "Fetch it whole, or take these away and give pooling=..."
        )
