"""QLoRA (arXiv 2305.14314): an adapter on weights that were loaded in 4 or 8 bits."""

from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel


def quantized_part(model: PreTrainedModel) -> PreTrainedModel | None:
    """The model, or the backbone inside it, whose weights bitsandbytes holds in 4 or 8 bits; None if there is none."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and (
            getattr(part, "is_loaded_in_4bit", False) or getattr(part, "is_loaded_in_8bit", False)
        ):
            return part
    return None


def prepare_quantized(model: PreTrainedModel, train: bool = True) -> None:
    """Make a model with quantised weights ready for an adapter; other models stay as they are.

    To `train`, what is not quantised goes to float32, as peft advises. (Trainer sees to gradient checkpointing.)
    """
    part: Any = quantized_part(model)
    if part is None:
        return
    if train:
        prepare_model_for_kbit_training(part, use_gradient_checkpointing=False)
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # peft looks at the whole model, not at the backbone
        setattr(model, name, getattr(part, name, False))


def check_quantization(bits: int) -> None:
    """ValueError where this machine cannot load weights in `bits` bits: no CUDA, or no bitsandbytes."""
    if not torch.cuda.is_available():
        raise ValueError(f"load_in_{bits}bit needs a CUDA device and there is none: leave it out, or train on a GPU.")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError(f"load_in_{bits}bit needs bitsandbytes: pip install bitsandbytes.") from error
