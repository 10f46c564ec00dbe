"""What a model was made from: base models with their commits, the relation to them, an adapter, a licence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..transfer.retries import is_transient
from .facts import CardFacts

LICENSE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        bases: repo ids of the models that it was made from, {repo id: commit, or None where it is not known}.
        relation: "finetune" or "adapter", to the bases; None without any.
        adapter: kind and rank of the adapter that the folder holds, None for complete weights.
        on_family: the adapter's base is a complete repo of the family, onto which it fits as it is.
        by_peft: peft puts the adapter on its base, as transformers cannot (a DoRA's magnitudes, 5.23).
    """

    bases: dict[str, str | None]
    relation: str | None
    adapter: str | None
    on_family: bool
    by_peft: bool = False

    @property
    def base_model(self) -> str | list[str] | None:
        """As a card's metadata name it."""
        names = list(self.bases)
        return names[0] if len(names) == 1 else names or None


def find_origin(model: Any, facts: CardFacts) -> Origin:
    """Of a model of one of the three families; what `facts` say goes before what its configuration says."""
    config, adapter = model.config, _adapter(model)
    first, commit = config.text_config.name_or_path, _commit(config.text_config)
    if adapter is not None:
        first, commit = adapter.base_model_name_or_path or "", adapter.revision
    if facts.base_model is not None:
        first, commit = facts.base_model, facts.base_revision
    retriever = getattr(config, "retriever_config", None)  # a self-retrieval LM's
    second = "" if retriever is None or adapter is not None else retriever.name_or_path
    named = {first: commit, second: None if retriever is None else _commit(retriever)}
    bases = {repo: commit for name, commit in named.items() if (repo := hub_id(name))}
    relation = facts.base_model_relation or ("finetune" if adapter is None else "adapter")
    by_peft = bool(getattr(adapter, "use_dora", False))
    return Origin(bases, relation if bases else None, _describe(adapter), _on_family(model), by_peft)


def hub_id(name_or_path: str) -> str | None:
    """The repo id that a name is; None for a folder, one that has gone, too, and for no name."""
    if name_or_path.count("/") != 1 or Path(name_or_path).exists():
        return None
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:  # an absolute or relative path of a folder that has gone
        return None
    return name_or_path


def license_beside(model: Any) -> dict[str, str]:
    """The licence in the card of the folder that the model, or its backbone, was loaded from, if it was a folder."""
    for name in (model.name_or_path, model.config.text_config.name_or_path):
        card = Path(name or ".") / "README.md"
        if name and card.is_file():
            try:
                return _license(ModelCard.load(card).data)
            except (ValueError, yaml.YAMLError):  # somebody else's card, which need not be in order for ours
                return {}
    return {}


def license_on_hub(base_model: str | list[str] | None, token: str | bool | None) -> dict[str, str]:
    """The licence that the cards of all base models on the Hub name, {} where they differ or cannot be asked."""
    found = []
    for name in [base_model] if isinstance(base_model, str) else base_model or []:
        try:
            found.append(_license(HfApi(token=token).model_info(name).card_data))
        except Exception as error:  # a base that is private or gone, or a Hub that is busy: the card names no licence
            if not (isinstance(error, HfHubHTTPError) or is_transient(error)):
                raise
            return {}
    return found[0] if found and all(one == found[0] for one in found) else {}


def _license(data: ModelCardData | None) -> dict[str, str]:
    values = {} if data is None else data.to_dict()
    return {key: values[key] for key in LICENSE_KEYS if isinstance(values.get(key), str)}


def _adapter(model: Any) -> Any:
    """The configuration of the adapter that a save writes: the active one."""
    return model.peft_config[model.active_adapters()[0]] if model._hf_peft_config_loaded else None


def _commit(config: Any) -> str | None:
    """The commit that a backbone was loaded from, now or before it was saved with ours (see `CompleteRepository`)."""
    return getattr(config, "_commit_hash", None) or getattr(config, "base_commit", None)


def _on_family(model: Any) -> bool:
    # Lookback's adapters know whether their base has to be built, or grown, before they fit (trainers.models.bases).
    return bool(model.name_or_path) and not getattr(model, "_adapter_takes_lookback", False)


def _describe(adapter: Any) -> str | None:
    if adapter is None:
        return None
    rank = getattr(adapter, "r", None)  # not every kind has one
    return f"{adapter.peft_type.value}{f', rank {rank}' if isinstance(rank, int) else ''}"
