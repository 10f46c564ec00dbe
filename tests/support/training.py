"""What the tests of the Trainers share: quiet arguments, small data, weights to compare."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from tests.support.tiny import random_ids

SENTENCES = (
    "where did we leave the copper lantern",
    "on the island next to the candle and the hammer",
    "the library reads long documents",
    "and looks back at what came before",
    "a query finds the passage that answers it",
    "speaker one asks and speaker two answers",
    "the hammer is in the library",
    "long documents hold many passages",
)
PAIRS = [
    {
        "query": text,
        "pos": [f"{text} indeed"],
        "neg": [other for other in SENTENCES if other != text],
        "teacher_scores": [2.0 + i, *(0.1 * j for j in range(7))],
    }
    for i, text in enumerate(SENTENCES)
]
# Rows of unequal lengths; every third has nothing to predict.
PASSAGES = [
    {
        "input": " ".join(SENTENCES[: i + 1]),
        "output_summarize": text,
        "output_predict": None if i % 3 == 0 else text[::-1],
    }
    for i, text in enumerate(SENTENCES)
]
# Rows of unequal numbers of scored tokens.
DOCUMENTS = [
    {"input_ids": row, "labels": [-100] * (80 - 2 * number) + row[80 - 2 * number :]}
    for number, row in enumerate(random_ids(8, 96).tolist())
]
CHATS = [
    {"history": list(SENTENCES[: i + 1]), "query": text, "answers": [SENTENCES[-1] * (i % 3 + 1)]}
    for i, text in enumerate(SENTENCES)
]


def arguments(kind: type, folder: Path, **settings: Any) -> TrainingArguments:
    """Arguments of a quiet, short CPU run that logs every step and saves nothing."""
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "learning_rate": 1e-2,
        "seed": 7,
    }
    return kind(str(folder), **{**defaults, **settings})


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every weight, by name."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0.0)


def assert_moved(before: dict[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Every parameter that trains differs from `before`, every other one does not."""
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != torch.equal(before[name], parameter), name


def logged(trainer: Any, name: str) -> list[float]:
    """The values of one entry of the log, in order."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
