"""What a run of a Trainer has to say in the model's card."""

import dataclasses
from typing import Any

from transformers import TrainerState, TrainingArguments

SETTINGS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm",
    "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16", "seed",
)  # fmt: skip
_SPEED = ("runtime", "_per_second", "preparation_time")


def training_facts(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Setting -> value of what was trained, the family's own settings included; nothing before the first step.

    What was evaluated is no setting of the training.
    """
    if not state.global_step:
        return {}
    values = args.to_dict()
    common = {field.name for field in dataclasses.fields(TrainingArguments)}
    names = [*SETTINGS, *(field.name for field in dataclasses.fields(args) if field.name not in common)]
    names = [name for name in names if not name.startswith("eval_")]
    settings = {name: values[name] for name in names if values[name] not in (None, False)}
    return {"steps": state.global_step, "epochs": state.epoch, "processes": args.world_size, **settings}


def evaluation_facts(args: TrainingArguments, state: TrainerState) -> dict[str, float]:
    """Metric -> its last value, without `eval_`; where the best model was loaded at the end, that model's value."""
    log = [entry for entry in state.log_history if any(name.startswith("eval_") for name in entry)]
    if args.load_best_model_at_end and state.best_global_step:
        log = [entry for entry in log if entry["step"] == state.best_global_step]
    metrics = {name: value for entry in log for name, value in entry.items() if name.startswith("eval_")}
    return {name.removeprefix("eval_"): float(value) for name, value in metrics.items() if not name.endswith(_SPEED)}
