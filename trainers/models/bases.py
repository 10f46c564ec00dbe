"""The base of an adapter: which it names, which tokens were added to it, and whether Lookback alone can put it on."""

import os
import re
from collections.abc import Collection
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from hub_cards.travelling.loading import cached_config


def stored_config(model: PreTrainedModel) -> Any:
    """The configuration of what the model was loaded from, or its backbone where it is a new one.

    It is read from the folder or the Hub's cache, without asking the Hub; None where it is not there.
    """
    config = model.config if model.name_or_path else model.config.get_text_config()
    name = model.name_or_path or config.name_or_path
    file = cached_config(name, {"revision": getattr(config, "_commit_hash", None)}) if name else None
    try:
        return None if file is None else AutoConfig.from_pretrained(os.path.dirname(file))
    except (OSError, ValueError):  # of a backbone with code of its own
        return None


def added_tokens(model: PreTrainedModel) -> range:
    """Ids of the tokens that were added behind those of what the model was loaded from; none where it is not known."""
    stored = stored_config(model)
    known = getattr(stored and stored.get_text_config(), "vocab_size", None)
    size = _rows(model)
    return range(size if known is None else min(known, size), size)


def record_base(model: Any, recorded: Any) -> None:
    """Name in the adapter's configuration what it was made for: the model's repo, or the backbone's of a new model."""
    config = model.config if model.name_or_path else model.config.get_text_config()
    recorded.base_model_name_or_path = model.name_or_path or config.name_or_path or None
    recorded.revision = getattr(config, "_commit_hash", None)
    stored = stored_config(model) if model.name_or_path else None
    other = stored is not None and stored.model_type != model.config.model_type  # a LLaRA model under a bi-encoder
    built = not model.name_or_path or other or bool(added_tokens(model))
    model._adapter_takes_lookback = built  # for the card
    if built:
        _fit_nothing_else(model, recorded)


def _fit_nothing_else(model: PreTrainedModel, recorded: Any) -> None:
    """Let an adapter's configuration fit the names of our modules alone.

    On the plain backbone, where nothing has these names, peft would leave all weights out with a warning and give the
    base's outputs (0.21); so it finds every layer excluded, or none of those it looks for, which is an error. The
    pattern's comment is for who reads that error.
    """
    parts = "|".join(name for name, _ in model.named_children())
    hint = f"(?#an adapter of a {model.config.model_type}: load it with trainers.load_adapted)"
    if hasattr(recorded, "exclude_modules"):
        if not str(recorded.exclude_modules).startswith("(?#an adapter of a "):
            outside, given = rf"(?!({parts})(\.|$)).*", _as_pattern(recorded.exclude_modules)
            recorded.exclude_modules = hint + "|".join(dict.fromkeys([outside, *([given] if given else [])]))
    elif not str(recorded.target_modules).startswith("(?#an adapter of a "):
        recorded.target_modules = rf"{hint}(?=({parts})\.)(?:{_as_pattern(recorded.target_modules)})"
    if getattr(recorded, "target_parameters", None):
        recorded.target_parameters = _whole_names(model, recorded.target_parameters)


def _as_pattern(names: Any) -> str:
    """A regular expression of the modules that peft takes a list of names for, or the one that is given."""
    if names is None or isinstance(names, str):
        return names or ""
    return rf"(?:.*\.)?(?:{'|'.join(map(re.escape, sorted(names)))})"


def _whole_names(model: PreTrainedModel, names: list[str]) -> list[str]:
    """The parameters that these ends of names stand for, under the names that they had before the adapter."""
    plain = {re.sub(r"\.(base_layer|parametrizations)\b", "", name) for name, _ in model.named_parameters()}
    return sorted(one for one in plain if any(f".{one}".endswith(f".{name}") for name in names))


def check_added_rows(model: PreTrainedModel, adapter: Any) -> None:
    """ValueError where tokens were added to the base and the adapter lacks their rows: nothing could load it."""
    added = added_tokens(model)
    if added and not brings_rows(model, adapter, added) and not _made_anew(model, added):
        raise ValueError(
            f"{len(added)} tokens (ids {added.start} to {added.stop - 1}) were added to the embeddings of "
            f"{adapter.base_model_name_or_path!r}, and their rows are not among what the adapter saves: save the "
            "model with them (save_pretrained) and train from that folder, or let a LoRA train the rows of all of "
            "them (trainable_token_indices), or the whole of the embeddings and of the head (modules_to_save)."
        )


def _made_anew(model: PreTrainedModel, added: range) -> bool:
    """Whether the rows are those that LLaRA makes again on the same backbone: each is the mean of the old ones."""
    if model.config.model_type != "lookback_llara":
        return False
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [_weight(layer)[added.start :] for layer in layers]
    return not model.name_or_path and all(bool((rows == rows[:1]).all()) for rows in weights)


def brings_rows(model: PreTrainedModel, adapter: Any, ids: Collection[int], prefix: str = "") -> bool:
    """Whether the adapter holds the rows of all these tokens, of the head too where it has rows of its own.

    Args:
        prefix: of the names that the adapter has for the modules, where `model` is a part of what it was made for.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: prefix + name for name, module in model.named_modules()}
    alone = head is None or (_weight(head) is _weight(embeddings) and not _leaves_head(adapter, names[embeddings]))
    layers = [embeddings] if alone else [embeddings, head]
    return all(_brings(adapter, names[layer], layer is embeddings, set(ids)) for layer in layers)


def is_whole(adapter: Any, name: str) -> bool:
    """Whether the adapter trains and saves all of the module of this name."""
    return any(f".{name}".endswith(f".{key}") for key in getattr(adapter, "modules_to_save", None) or ())


def _leaves_head(adapter: Any, name: str) -> bool:
    """Whether peft copies the embeddings to train them whole, so that a head tied to them keeps the rows of before."""
    return is_whole(adapter, name) and not getattr(adapter, "ensure_weight_tying", False)


def _rows(model: PreTrainedModel) -> int:
    embeddings: Any = model.get_input_embeddings()
    return embeddings.weight.shape[0]


def _weight(layer: Any) -> Any:
    """The weight of a layer that may have got an adapter, which holds it."""
    for inside in ("token_adapter", "original_module", "base_layer"):
        layer = getattr(layer, inside, layer)
    return layer.weight


def _brings(adapter: Any, name: str, is_input: bool, ids: set[int]) -> bool:
    rows = getattr(adapter, "trainable_token_indices", None) or {}
    if isinstance(rows, list):  # peft takes a list for the input embeddings
        return is_input and ids <= set(rows)
    by_rows = any(f".{name}".endswith(f".{key}") and ids <= set(given) for key, given in rows.items())
    return by_rows or is_whole(adapter, name)


def grow(model: PreTrainedModel, adapter: Any, size: int, needed: Collection[int] = (), prefix: str = "") -> bool:
    """Make room for tokens that were added before the training, where the adapter brings the rows of all of them.

    Returns: whether it does so, and brings those of the `needed` tokens, too; if not, the model stays as it is.
    """
    known = _rows(model)
    if not brings_rows(model, adapter, {*range(known, size), *needed}, prefix):
        return False
    if size > known:
        model.resize_token_embeddings(size, mean_resizing=False)
    return True


def own_name(name: str, model: PreTrainedModel) -> str:
    """A module's name in our model, of one in its backbone where an adapter was trained on that alone."""
    part, parts = model.base_model, {child for child, _ in model.named_children()}
    if name.partition(".")[0] in parts or not isinstance(part, PreTrainedModel):
        return name
    head = f"{part.base_model_prefix}." if part.base_model is part else ""  # of one with a head, whose base this is
    return f"{model.base_model_prefix}.{name.removeprefix(head)}"


def fit_names(config: Any, model: PreTrainedModel) -> None:
    """Whole names of modules in an adapter's configuration as they are in our model; ends of names stay."""
    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        names = getattr(config, field, None)
        if isinstance(names, list | set | tuple):
            whole = (own_name(name, model) if name.count(".") > 1 else name for name in names)
            setattr(config, field, type(names)(whole))
