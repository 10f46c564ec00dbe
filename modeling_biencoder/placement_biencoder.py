# Copied from hub_cards/travelling/placement.py by "make copies": edit that one.
"""Where weights are and how exact: parts on several devices or on the disk, each in its own precision."""

import copy
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from .loading_biencoder import check_shard

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_KEEPS_PRECISION = ContextVar("_KEEPS_PRECISION", default=False)


class PlacedModel(PreTrainedModel):
    """Base class of a model whose parts may be on several devices, and in several precisions."""

    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012  (a plain list, as in transformers)

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return input_device(self)

    @property
    def _one_device(self) -> torch.device | None:
        """The device on which an input has to be; None where accelerate moves it."""
        return None if is_dispatched(self) else self.device

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but without a `dtype` each part comes back in the precision that it was saved in."""
        dtype = kwargs.get("dtype") or kwargs.get("torch_dtype")
        with _keeping_precision(dtype in (None, "auto")):
            loaded = super().from_pretrained(*args, **kwargs)
        record_precisions(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @staticmethod
    def _load_pretrained_model(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        # Of a repo on the Hub the index is known only now, when its files lie in the cache and none is opened yet.
        for file in checkpoint_files or ():
            check_shard(f"{model.name_or_path!r} has", os.path.basename(file))
        quantized = any(getattr(settings, "hf_quantizer", None) for settings in (*args, *kwargs.values()))
        if _KEEPS_PRECISION.get():
            _keep_precisions(model, _saved_precisions(state_dict, checkpoint_files or ()), quantized)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the configuration names the precision of each part."""
        record_precisions(self)
        if not self._hf_peft_config_loaded:  # of which the adapter alone is saved
            take_quantizer(self)
        super().save_pretrained(*args, **kwargs)


def input_device(model: Any) -> torch.device:
    """Where a model takes its inputs: where it is, or where accelerate runs its embeddings when they are elsewhere."""
    device = _running_device(model)
    if device is None:
        # Not `.weight`, which peft puts together anew, of all rows, where it trains some of them.
        device = next(itertools.chain(model.get_input_embeddings().parameters(), model.parameters())).device
    return device


def own_class(model: Any) -> type:
    """The class of a model as its code has it: FSDP (torch 2.13) puts one that it makes in its place."""
    return next(kind for kind in type(model).__mro__ if not kind.__module__.startswith("torch."))


def is_sharded(model: Any) -> bool:
    """Whether all processes take part in each call of the model's layers: under FSDP and ZeRO 3."""
    kind: type = type(model)
    return kind is not own_class(model) or hasattr(next(model.parameters()), "ds_id")


@contextmanager
def as_own_class(model: Any) -> Iterator[None]:
    """The model under its own class, whose name and code a repo has to carry, while it is saved."""
    sharded = type(model)
    model.__class__ = own_class(model)
    try:
        yield
    finally:
        model.__class__ = sharded


def is_dispatched(model: Any) -> bool:
    """Whether accelerate moves inputs and weights to each other, so that an input may come from any device."""
    return _running_device(model) is not None


def to_inputs(model: Any, *tensors: Any) -> tuple[Any, ...]:
    """The tensors among these where a dispatched model takes its inputs; all as they are for any other model."""
    device = _running_device(model)
    return tuple(part.to(device) if device and isinstance(part, torch.Tensor) else part for part in tensors)


def check_at_hand(model: nn.Module) -> None:
    """Raise ValueError where a part that is to be written alone has empty weights (offloaded), or a share of them."""
    if any(weight.device.type == "meta" for weight in model.parameters()):
        raise ValueError(
            "device_map has weights on the disk or away from where they run, and then no part of the model can be "
            "written alone: load the model without device_map."
        )
    if any(type(weight).__module__.startswith("torch.distributed.") for weight in model.parameters()):
        raise ValueError(
            "each process has a share of the weights, and then no part of the model can be written alone: call "
            "save_pretrained in all of them, and load the folder in one."
        )


def _running_device(model: Any) -> torch.device | None:
    """Where accelerate's hooks run the embeddings; None without hooks. Weights that it has offloaded are on `meta`."""
    for module in model.get_input_embeddings().modules():  # adapters may be around it
        hook = getattr(module, "_hf_hook", None)
        for part in (hook, *getattr(hook, "hooks", ())):
            device = getattr(part, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return None


@contextmanager
def _keeping_precision(keeps: bool) -> Iterator[None]:
    token = _KEEPS_PRECISION.set(keeps)
    try:
        yield
    finally:
        _KEEPS_PRECISION.reset(token)


def _saved_precisions(state_dict: Any, files: Any) -> dict[str, torch.dtype]:
    """{name: dtype} of the floating-point weights that are about to be loaded, from the headers of their files."""
    if state_dict is not None:
        return {name: tensor.dtype for name, tensor in state_dict.items() if tensor.dtype in _FLOATS.values()}
    found: dict[str, torch.dtype] = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118  (no mapping)
        found |= {name: _FLOATS[kind] for name, kind in kinds.items() if kind in _FLOATS}
    return found


def _keep_precisions(model: nn.Module, saved: dict[str, torch.dtype], quantized: bool) -> None:
    """Give the empty weights of a model that is about to be loaded the precisions of those that were saved.

    transformers loads all parts in one, that of the first weight. Where the files have one alone nothing is done: then
    the configuration's `dtype` counts. Of a `quantized` model those alone that were saved under their own names: the
    others its quantiser makes of several.
    """
    if len(set(saved.values())) < 2:
        return
    parts: dict[str, set[torch.dtype]] = {}
    for name, dtype in saved.items():
        parts.setdefault(name.split(".")[0], set()).add(dtype)
    whole = {part: next(iter(dtypes)) for part, dtypes in parts.items() if len(dtypes) == 1}  # for names that change
    for name, weight in model.state_dict(keep_vars=True).items():
        kept = saved.get(name) or (None if quantized else whole.get(name.split(".")[0]))
        if quantized and type(weight) not in (nn.Parameter, torch.Tensor):  # made by its quantiser, empty as it is
            continue
        if kept is not None and weight.is_floating_point():
            weight.data = weight.data.to(kept)


def record_precisions(model: PreTrainedModel) -> None:
    """Let the configuration of each part name the precision that the part is in."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and any(weight.is_floating_point() for weight in part.parameters()):
            part.config.dtype = part.dtype


def take_quantizer(model: Any) -> None:
    """Make the quantiser of a part that of the whole, which alone transformers asks where it saves (5.23).

    ValueError where torchao holds weights that were taken over from a model with another part beside them.
    """
    held = [name for name, weight in model.named_parameters() if type(weight).__module__.startswith("torchao.")]
    if not held or getattr(model, "hf_quantizer", None) is not None:
        return
    name = held[0].split(".")[0]
    quantizer = getattr(model.get_submodule(name), "hf_quantizer", None)
    if quantizer is None or any(not other.startswith(f"{name}.") for other in held):
        raise ValueError(
            f"the weights {held[0]!r} are quantised, and of another model than this one: save it without "
            "quantization_config, and load what was saved with it."
        )
    settings = copy.deepcopy(quantizer.quantization_config)
    linear = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    beside = [key for key in linear if not key.startswith(f"{name}.")]
    settings.modules_to_not_convert = [*(settings.modules_to_not_convert or ()), *beside] or None
    model.hf_quantizer, model.config.quantization_config = quantizer, settings
