"""Options of transformers' Trainer that would do nothing here: refused by name, with what to do instead."""

import dataclasses
import json
import multiprocessing
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.training_args import trainer_log_levels

from hub_cards.travelling.checks import check_choice, shown

from ..data.plain_text import read_text

_NO_PREDICTIONS = (
    "an evaluation gives losses and metrics, and no logits to compute with: evaluate in a callback's on_evaluate, or "
    "override `measuring`"
)
_NO_MODEL_INIT = (
    "the model is a repo id, a folder or a model, and each run takes a Trainer of its own: pass it as model"
)
# Argument of transformers' constructor -> why it is none of these.
TRAINER_ARGUMENTS = {
    "data_collator": "rows become batches by the method's own collator: override `make_collator`",
    "compute_loss_func": "a loss has components that are logged and weighed: override `combine`",
    "compute_metrics": _NO_PREDICTIONS,
    "preprocess_logits_for_metrics": _NO_PREDICTIONS,
    "model_init": _NO_MODEL_INIT,
    "tokenizer": "pass it as processing_class",
}
# Field of TrainingArguments -> why it has to stay at its default.
SETTINGS = {
    "label_smoothing_factor": "the losses are the methods' own, and none of them smooths its labels",
    "average_tokens_across_devices": "tokens and rows are weighed over all processes",
    "label_names": "batches have the names that the methods give them",
    "include_for_metrics": _NO_PREDICTIONS,
    "batch_eval_metrics": _NO_PREDICTIONS,
    "eval_do_concat_batches": _NO_PREDICTIONS,
    "length_column_name": "the lengths of rows are those of their token ids",
    "use_liger_kernel": "it knows backbones alone: patch the backbone before the model is built on it",
    "do_predict": "predictions are what the model's own methods give",
}
# What stands in an optimizer's name -> the module that has it; the first that does.
_OPTIMIZER_PACKAGES = {
    "torch_4bit": "torchao", "torch_8bit": "torchao", "galore": "galore_torch", "apollo": "apollo_torch",
    "lomo": "lomo_optim", "grokadamw": "grokadamw", "schedule_free": "schedulefree", "stable_adamw": "optimi",
    "8bit": "bitsandbytes", "bnb": "bitsandbytes", "paged": "bitsandbytes", "lion": "bitsandbytes",
    "ademamix": "bitsandbytes",
}  # fmt: skip
_DEFAULTS = {
    field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    for field in dataclasses.fields(TrainingArguments)
}


def check_settings(args: TrainingArguments, refused: Mapping[str, str]) -> None:
    """ValueError for the first field named in `refused` that is not at its default."""
    for name, why in refused.items():
        value, default = getattr(args, name), _DEFAULTS[name]
        if value != default:
            raise ValueError(f"{name}={value!r} must be {default!r} here, as {why}; leave it out.")


def check_packages(args: TrainingArguments) -> None:
    """ValueError for a `report_to` or an `optim` whose package is not installed, or that there is not."""
    known, there = set(INTEGRATION_TO_CALLBACK), get_available_reporting_integrations()
    for name in args.report_to or ():
        if name not in known:
            raise ValueError(f"report_to={name!r} must be one of none, all, {', '.join(sorted(known))}: take one.")
        if name not in there and name != "flyte":  # of which transformers does not say
            raise ValueError(f"report_to={name!r} needs a package that is not installed: install it, or say 'none'.")
    if args.optim_args and not all("=" in one for one in args.optim_args.replace(" ", "").split(",")):
        raise ValueError(f"optim_args={args.optim_args!r} must be name=value,name=value: write it so.")
    optim = str(getattr(args.optim, "value", args.optim))
    package = next((package for mark, package in _OPTIMIZER_PACKAGES.items() if mark in optim), None)
    if package is not None and find_spec(package) is None:
        raise ValueError(f"optim={optim!r} needs {package}, which is not installed: install it, or take another.")


def check_forms(args: TrainingArguments) -> None:
    """ValueError for settings with a list of names of their own, or in JSON, before transformers reads them."""
    names: dict[str, Iterable[str]] = {
        "dataloader_multiprocessing_context": multiprocessing.get_all_start_methods(),
        "ddp_backend": ("nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl", "xccl"),
        "log_level": trainer_log_levels,
        "log_level_replica": trainer_log_levels,
        "torch_compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    }
    if args.torch_compile_backend is not None:  # which imports much
        names["torch_compile_backend"] = torch.compiler.list_backends(exclude_tags=())
    for name, known in names.items():
        if getattr(args, name) is not None:
            check_choice(name, getattr(args, name), sorted(known))
    if args.deepspeed is not None and find_spec("deepspeed") is None:
        raise ValueError("deepspeed needs the package deepspeed, which is not installed: pip install deepspeed.")
    for name in _OBJECTS:
        _check_object(name, getattr(args, name))


_OBJECTS = (
    "accelerator_config", "activation_checkpointing_kwargs", "deepspeed", "fsdp_config",
    "gradient_checkpointing_kwargs", "lr_scheduler_kwargs",
)  # fmt: skip


def _check_object(name: str, value: Any) -> None:
    """ValueError for what is no mapping: a text has to be a JSON object, or a file of one."""
    if not isinstance(value, str):
        if isinstance(value, int | float | list | tuple):
            raise ValueError(f"{name}={shown(value)} must be a mapping: give {{'name': value}}.")
        return
    try:
        found = json.loads(value if value.lstrip().startswith("{") else read_text(Path(value)))
    except ValueError as error:
        raise ValueError(
            f"{name}={shown(value)} must be a JSON object or a file of one ({error}): mend it."
        ) from error
    except OSError as error:
        raise ValueError(
            f"{name}={shown(value)} must be a JSON object or a file of one ({error.strerror}): give one of the two."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{name}={shown(value)} must hold a JSON object, not {type(found).__name__}: mend it.")


def check_trainer_arguments(trainer: str, given: Mapping[str, Any]) -> None:
    """TypeError for keywords that a family's Trainer does not take; None, which is what transformers has, may pass."""
    for name, value in given.items():
        if name not in TRAINER_ARGUMENTS:
            raise TypeError(
                f"{trainer} takes no argument {name!r}: leave it out, or see its docstring for those it has."
            )
        if value is not None:
            raise TypeError(f"{trainer} takes no {name}, as {TRAINER_ARGUMENTS[name]}; leave it out.")


class NoSearch:
    """Of a Trainer: the methods of transformers' that need what these Trainers do not have."""

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """NotImplementedError, as a search needs a model_init."""
        raise NotImplementedError(
            "hyperparameter_search needs a model_init, which these Trainers do not take: make a Trainer with a fresh "
            "model for each trial, and give your search the metrics of its `evaluate`."
        )

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """NotImplementedError, as there are no logits to return."""
        raise NotImplementedError(
            f"predict returns logits, but {_NO_PREDICTIONS}. For losses on test data: "
            "evaluate(data, metric_key_prefix='test')."
        )
