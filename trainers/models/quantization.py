"""Weights in fewer bits: under an adapter that trains (QLoRA, arXiv 2305.14314), and in int8 to embed with."""

from importlib.util import find_spec
from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel, TorchAoConfig

INT8 = ("int8_weight_only", "int8_dynamic_activation_int8_weight")  # as torchao calls them


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


def torchao_config(name: str) -> TorchAoConfig:
    """What `from_pretrained(quantization_config=...)` takes, by one of the names in `INT8`.

    ValueError where torchao is not installed.
    """
    if find_spec("torchao") is None:
        raise ValueError(f"quantization={name!r} needs torchao: pip install torchao.")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if name == INT8[0] else Int8DynamicActivationInt8WeightConfig())


def is_int8(model: PreTrainedModel) -> bool:
    """Whether torchao holds weights of the model."""
    return any(getattr(part, "quantization_method", None) == "torchao" for part in model.modules())
