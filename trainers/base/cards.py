"""What a run of a Trainer has to say in the model's card."""

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel, Trainer, TrainerState, TrainingArguments

from hub_cards import write_card
from hub_cards.cards.origin import hub_id

from ..data.sources import split_revision

SETTINGS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "max_grad_norm",
    "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16", "seed",
)  # fmt: skip
# How a data set from the Hub names its files in its checksums.
_HUB_FILE = re.compile(r"hf://datasets/(?P<repo>[^@]+)@(?P<commit>[0-9a-f]+)/")
_SPEED = ("runtime", "_per_second", "preparation_time")


def training_facts(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Setting -> value of what was trained, the family's own settings included; nothing before the first step.

    What was evaluated is no setting of the training, and of a file only the name is told, not where it lies.
    """
    if not state.global_step:
        return {}
    values = args.to_dict()
    common = {field.name for field in dataclasses.fields(TrainingArguments)}
    names = [*SETTINGS, *(field.name for field in dataclasses.fields(args) if field.name not in common)]
    names = [name for name in names if not name.startswith("eval_")]
    settings = {name: _without_folders(values[name]) for name in names if values[name] not in (None, False)}
    return {"steps": state.global_step, "epochs": state.epoch, "processes": args.world_size, **settings}


def _without_folders(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(str(_without_folders(part)) for part in value)
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~") or Path(value).exists()):
        return Path(value).name
    return value


def arguments_text(args: TrainingArguments) -> str:
    """The arguments as JSON, of a file or folder its own name; transformers leaves access tokens out."""
    return json.dumps(_names_alone(json.loads(args.to_json_string())), indent=2) + "\n"


def _names_alone(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _names_alone(one) for name, one in value.items()}
    return [_names_alone(one) for one in value] if isinstance(value, list) else _without_folders(value)


def loss_facts(state: TrainerState) -> dict[str, list[tuple[float, float]]]:
    """The loss by step, as it was logged: {"training": [(step, loss), ...], "evaluation": [...]}, what there is."""
    names = {"training": "loss", "evaluation": "eval_loss"}
    curves = {
        curve: [(entry["step"], entry[name]) for entry in state.log_history if name in entry and "step" in entry]
        for curve, name in names.items()
    }
    return {curve: points for curve, points in curves.items() if points}


def origin_facts(model: PreTrainedModel, hub_model_id: str | None) -> dict[str, str]:
    """The repo of the family that training began with, and its commit; nothing where that was a backbone or a folder.

    An adapter's configuration names its base itself.
    """
    repo = hub_id(model.name_or_path or "")
    if repo is None or repo == hub_model_id or model._hf_peft_config_loaded:
        return {}
    commit = getattr(model.config, "_commit_hash", None)
    return {"base_model": repo, **({"base_revision": commit} if commit else {})}


def evaluation_facts(args: TrainingArguments, state: TrainerState) -> dict[str, float]:
    """Metric -> its last value, without `eval_`; where the best model was loaded at the end, that model's value."""
    log = [entry for entry in state.log_history if any(name.startswith("eval_") for name in entry)]
    if args.load_best_model_at_end and state.best_global_step:
        log = [entry for entry in log if entry["step"] == state.best_global_step]
    metrics = {name: value for entry in log for name, value in entry.items() if name.startswith("eval_")}
    return {name.removeprefix("eval_"): float(value) for name, value in metrics.items() if not name.endswith(_SPEED)}


def data_facts(sources: Iterable[Any]) -> dict[str, Any]:
    """`datasets` and `data`: what was trained on, Hub ids with their revisions, files by their names alone.

    Args:
        sources: the data sets, each as `data.sources.load_rows` takes it.
    """
    found = dict.fromkeys(pair for source in sources for pair in _describe(source))
    if not found:
        return {}
    repos = dict.fromkeys(repo for repo, _ in found if repo)
    return {"data": [text for _, text in found], **({"datasets": list(repos)} if repos else {})}


def _describe(source: Any) -> Iterator[tuple[str | None, str]]:
    """(repo id, in words) of each data set."""
    if isinstance(source, str | Path):
        name, revision = split_revision(str(source))
        repo = None if Path(source).exists() else hub_id(name)
        own = os.path.basename(os.path.abspath(source))
        yield repo, (f"{repo}, revision {revision}" if revision else repo) if repo else own
    elif isinstance(source, datasets.Dataset | datasets.IterableDataset):
        for file in source.info.download_checksums or {}:
            if found := _HUB_FILE.match(str(file)):
                yield found["repo"], f"{found['repo']}, revision {found['commit']}"
    elif isinstance(source, tuple):
        yield from (pair for file in source for pair in _describe(file))


class CardTrainer(Trainer):
    """A Trainer whose card is its family's, with the run in it."""

    args: Any
    model: Any
    card_facts: dict[str, Any]

    def _write_card(self, folder: str | Path, **facts: Any) -> None:
        run = {
            "training": training_facts(self.args, self.state),
            "losses": loss_facts(self.state),
            "metrics": evaluation_facts(self.args, self.state),
        }
        repo: dict[str, Any] = {} if self.hub_model_id is None else {"repo_id": self.hub_model_id}
        write_card(self.model, folder, **{**self.card_facts, **run, **repo, **facts})

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """The family's card of the run in the output folder, in place of transformers' generic one.

        Args:
            language, license: for the card's metadata.
            finetuned_from: repo id of the model that was trained; default the backbone's.
            dataset_tags: repo ids of the training data. dataset: what the metrics were measured on, in your words.
            tags, model_name, tasks, dataset_args: as in transformers' method; this card takes them from the family.
        """
        if not self.is_world_process_zero():
            return
        given = {
            "language": language,
            "license": license,
            "base_model": finetuned_from,
            "datasets": dataset_tags,
            "evaluation_data": ", ".join(dataset) if isinstance(dataset, list) else dataset,
        }
        self._write_card(self.args.output_dir, **{name: value for name, value in given.items() if value is not None})
