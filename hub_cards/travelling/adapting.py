"""A model and the adapters on it: those that fit are taken, others leave it as it was, and none is lost in a save."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .loading import not_shared, refuse_pickled_adapter
from .merging import is_adapted, outermost, unwrap_layers
from .placement import PlacedModel

_BARE = ("base_layer.", "original_module.", "token_adapter.")  # what a layer of peft's holds beside its adapters
logger = logging.get_logger(__name__)


class AdaptableModel(PlacedModel):
    """Base class of a model that takes adapters as transformers has it."""

    def load_adapter(
        self, peft_model_id: str | None = None, adapter_name: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in transformers, but from safetensors alone, and ValueError where the weights do not fit the model, which
        is then as it was.

        transformers cannot read a DoRA's magnitudes (5.23); `peft.PeftModel.from_pretrained(model, folder)` does.
        """
        if peft_model_id is not None and kwargs.get("adapter_state_dict") is None:
            refuse_pickled_adapter(peft_model_id, kwargs)
        name = adapter_name or "default"
        with warnings.catch_warnings(), self._as_it_was(name), own_names(self):
            # Our pattern of what lies outside excludes nothing where there is nothing.
            warnings.filterwarnings("ignore", "You have passed exclude_modules=.* but no modules were excluded")
            result = super().load_adapter(peft_model_id, adapter_name, *args, **kwargs)
            if strange := misfits(self, name, result):
                hint = (
                    "transformers cannot load a DoRA; use peft.PeftModel.from_pretrained(model, folder)."
                    if any("lora_magnitude_vector" in one for one in strange)
                    else "load it onto the model that it was trained on (see its base_model_name_or_path)."
                )
                raise ValueError(
                    f"the adapter {str(peft_model_id)!r} does not fit: {strange[0]!r} is on one side; {hint}"
                )
        self._compare_base()
        return result

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """As in transformers; with the last one the layers are plain again, as a save needs them."""
        super().delete_adapter(adapter_names)
        if not self._hf_peft_config_loaded:
            unwrap_layers(self)

    @contextmanager
    def _as_it_was(self, name: str) -> Iterator[None]:
        """Takes the adapter of this name out again where an error comes, unless it was there before."""
        active = self.active_adapters() if self._hf_peft_config_loaded else []
        known = self._hf_peft_config_loaded and name in self.peft_config
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        try:
            yield
        except BaseException:
            if not known and name in getattr(self, "peft_config", {}):
                self._hf_peft_config_loaded = True
                self.delete_adapter(name)
                if active:
                    self.set_adapter(active)
                for weight in trained:
                    weight.requires_grad_(True)
            raise

    def _compare_base(self) -> None:
        """A warning where an adapter names another commit of this repo: transformers takes the newest one."""
        here = getattr(self.config, "_commit_hash", None)
        for adapter in self.peft_config.values() if self._hf_peft_config_loaded else ():
            wanted = getattr(adapter, "revision", None)
            if here and wanted and wanted != here and adapter.base_model_name_or_path == self.name_or_path:
                logger.warning(
                    f"The adapter was trained on commit {wanted} of {self.name_or_path!r}, and this is commit {here}: "
                    f"load the base with revision={wanted!r}, then the adapter with load_adapter."
                )


@contextmanager
def own_names(model: PreTrainedModel) -> Iterator[None]:
    """A model's weights are saved under the names that they have: transformers (5.23) would give them those of the
    adapter that was loaded in this block, also when it has been taken out or merged."""
    kept = vars(model).get("_weight_conversions")
    try:
        yield
    finally:
        vars(model).pop("_weight_conversions", None)
        if kept is not None:
            model._weight_conversions = kept


def misfits(model: PreTrainedModel, name: str, result: Any) -> list[str]:
    """What an adapter of this name has too much or too little, by what transformers says of loading it.

    (It counts as missing whatever holds the name, or the method's, anywhere in its own: a layer, another adapter.)
    """
    missing = [one for one in _weights_of(model, name) if one in result.missing_keys]
    return sorted({*not_shared(model, missing), *result.unexpected_keys})


def _weights_of(model: nn.Module, name: str) -> list[str]:
    """Names of an adapter's weights in a model: `lora_A.<name>.weight` of a layer, `trainable_tokens_delta.<name>`."""
    return [
        f"{layer}.{weight}"
        for layer, module in model.named_modules()
        if is_adapted(module)
        for weight, _ in module.named_parameters(remove_duplicate=False)
        if weight.split(".")[1:2] == [name] and not weight.startswith(_BARE)
    ]


def refuse_adapted(backbone: nn.Module) -> None:
    """ValueError for a backbone with an adapter on it, which a model of ours would train beside and could not save."""
    if outermost(backbone):
        raise ValueError(
            f"the {type(backbone).__name__} carries an adapter: merge it first (merge_and_unload()), or add "
            "the adapter to the model that is made of it."
        )


def refuse_wrapped(model: PreTrainedModel) -> None:
    """ValueError for adapters that transformers does not know of: a save would hold neither the model nor them."""
    if model._hf_peft_config_loaded or not outermost(model):
        return
    if any(_holds_adapter(layer) for _, layer in outermost(model)):
        raise ValueError(
            "the model lies in a PeftModel, or its backbone carries an adapter of its own, and a save would leave one "
            "of them out: save the PeftModel, or merge the adapter first (merge_and_unload())."
        )
    unwrap_layers(model)


def _holds_adapter(layer: nn.Module) -> bool:
    return any(
        not weight.startswith(_BARE)
        for module in layer.modules()
        if is_adapted(module)
        for weight, _ in module.named_parameters()
    )
