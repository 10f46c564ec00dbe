"""An adapter merged into the weights: afterwards the model is an ordinary one, as fast as before, saved as a whole."""

from typing import Any

from transformers import PreTrainedModel

from hub_cards.travelling.merging import merge_layers

from .adapters import check_model, has_adapters
from .quantization import is_int8, quantized_part


def merge_adapter(model: PreTrainedModel) -> Any:
    """Merge the model's adapter into its weights, in place, and take it out; all weights train again afterwards.

    Outputs stay equal up to rounding, 1e-5 in float32. What `peft.PeftModel.merge_and_unload` is for peft's wrapper,
    for a model with `add_adapter`. Trained token rows and modules that trained whole take their places. Where the
    adapter changed the embeddings and not the head that is tied to them, or the head alone, the two are untied, and
    the configuration says so (`tie_word_embeddings`).

    Returns: the model itself.

    Raises:
        ValueError: for a model without an adapter, one with quantised weights (they would be rounded once more), and
            an adapter whose merged weights are not finite.
    """
    check_model(model)
    if not has_adapters(model):
        raise ValueError("The model has no adapter to merge: put one on it with add_adapter or load_adapter.")
    if quantized_part(model) is not None or is_int8(model):
        raise ValueError(
            "The weights are quantised, and merging would round them again: load the adapter onto the base model "
            "without quantization_config, and merge it there (lookback merge does)."
        )
    merge_layers(model)
    return model.requires_grad_(True)
