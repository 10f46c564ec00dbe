"""An adapter merged into the weights: afterwards the model is an ordinary one, as fast as before, saved as a whole."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .adapters import has_adapters
from .quantization import quantized_part


def merge_adapter(model: PreTrainedModel) -> Any:
    """Merge the model's adapter into its weights, in place, and take it out; all weights train again afterwards.

    Outputs stay equal up to rounding, 1e-5 in float32. What `peft.PeftModel.merge_and_unload` is for peft's wrapper,
    for a model with `add_adapter`. Trained token rows and modules that trained whole take their places.

    Returns: the model itself.

    Raises:
        ValueError: for a model without an adapter, one with quantised weights (they would be rounded once more), and
            an adapter whose merged weights are not finite.
    """
    if not has_adapters(model):
        raise ValueError("The model has no adapter to merge: put one on it with add_adapter or load_adapter.")
    if quantized_part(model) is not None:
        raise ValueError(
            "The weights are quantised, and merging would round them again: load the adapter onto the base model "
            "without quantization_config, and merge it there (lookback merge does)."
        )
    for name, layer in tqdm(_outermost(model), desc="Merging", unit="layer", delay=2.0):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, _merged(layer))
    del model.peft_config
    model._hf_peft_config_loaded = False
    model.tie_weights()
    return model.requires_grad_(True)


def _outermost(model: nn.Module) -> list[tuple[str, Any]]:
    """The adapted layers by name, without those inside another."""
    found: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        inside = bool(found) and name.startswith(f"{found[-1][0]}.")
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and not inside:
            found.append((name, module))
    return found


def _merged(layer: Any) -> nn.Module:
    if hasattr(layer, "unload_and_optionally_merge_module"):
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
    layer.merge(safe_merge=True)
    return layer.get_base_layer()
