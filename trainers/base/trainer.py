"""What the three Trainers share: taking models and data in any form, adapters, and checkpoints that are repos."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import datasets
import torch
from peft import PeftConfig
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINING_ARGS_NAME

from ..data.sources import Row, RowSource
from ..data.transforms import EpochCallback, StreamedRows, Transform, TransformedRows, transform_rows
from ..models.adapters import add_adapter, check_not_wrapped, has_adapters, take_adapter
from ..models.kind import LateModel, ModelSource, check_plain, model_type, refuse_preset
from ..models.saved_adapters import load_adapter_weights
from .cards import CardTrainer, arguments_text, data_facts, origin_facts
from .checkpoints import WholeCheckpoints, write_text
from .components import ComponentTrainer
from .early import EarlyChecks
from .options import NoSearch, check_trainer_arguments
from .pushing import PushingTrainer
from .sharding import ShardedTrainer, as_tied
from .streams import stream_loader

Prepared = TransformedRows | StreamedRows


class FamilyTrainer(
    NoSearch, EarlyChecks, PushingTrainer, WholeCheckpoints, CardTrainer, ShardedTrainer, ComponentTrainer
):
    """Base of the Trainers: a subclass says how to make its model, its rows and its batches.

    Args:
        model: repo id, folder or model; of the family, or a backbone that the family's model is then built on; or a
            function that gives the model, called when all else was looked at.
        args: the family's training arguments.
        train_dataset, eval_dataset: a `datasets` Dataset (map-style or streaming), a list of rows, a data file, a
            folder or a Hub id; for evaluation also a dictionary of them.
        processing_class: the tokenizer; by default the model's own.
        peft_config: train an adapter instead of the weights; checkpoints then hold the adapter alone.
        model_kwargs: for a model to load or build: settings of the family's configuration, and loading keywords such
            as `revision` or `dtype`.
        callbacks, optimizers, optimizer_cls_and_kwargs: as in transformers.

    Raises ValueError for rows that lack a field before any training, and TypeError for arguments of transformers'
    Trainer that would do nothing, with what to do instead.
    """

    arguments_class: ClassVar[type[TrainingArguments]]
    model_class: ClassVar[Any]
    args: Any
    model: Any
    processing_class: Any

    def __init__(
        self,
        model: ModelSource | LateModel,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: RowSource | dict[str, RowSource] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        model_kwargs: dict[str, Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        **others: Any,
    ):
        check_trainer_arguments(type(self).__name__, others)
        args = self.arguments_class() if args is None else args
        if not isinstance(args, self.arguments_class):
            raise TypeError(f"args is a {type(args).__name__}, must be a {self.arguments_class.__name__}: make one.")
        check_not_wrapped(model)
        self.args, self.eval_dataset = args, eval_dataset
        self.check_early(train_dataset, eval_dataset, model_kwargs or {})
        kind = self.check_weightless(model, processing_class, model_kwargs or {}, peft_config)
        set_seed(args.seed)  # for what is drawn before Trainer does so: adapters
        self.model = self._load(model, processing_class, model_kwargs or {}, kind)
        self.processing_class = self.model.tokenizer
        self.check_sizes()
        self.card_facts = {**origin_facts(self.model, args.hub_model_id), **data_facts(self.sources(train_dataset))}
        eval_dataset = self.take_evaluators(eval_dataset)
        if peft_config is not None:
            add_adapter(self.model, peft_config, self.new_token_ids(), self.trained_modules())
        if has_adapters(self.model):
            take_adapter(self.model, trains=train_dataset is not None)
        train_dataset = self.prepare_training(train_dataset)
        super().__init__(
            model=self.model,
            args=args,
            data_collator=self.make_collator(),
            train_dataset=train_dataset,
            eval_dataset=self._prepare_evaluation(eval_dataset),
            processing_class=self.processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        self.check_best_metric()
        if isinstance(self.train_dataset, TransformedRows):
            self.add_callback(EpochCallback(self.train_dataset))

    def build_model(
        self, backbone: ModelSource, tokenizer: PreTrainedTokenizerBase | None, kwargs: dict[str, Any], kind: str
    ) -> PreTrainedModel:
        """The family's model on a backbone that is not of the family, but of the `model_type` `kind`."""
        return self.model_class.from_backbone(backbone, tokenizer=tokenizer, **kwargs)

    def take_evaluators(self, source: Any) -> Any:
        """The rows among the evaluation data; a subclass keeps what else it evaluates on."""
        return source

    def load_rows(self, source: RowSource) -> datasets.Dataset | datasets.IterableDataset:
        """Checked rows of a data set given in any form."""
        raise NotImplementedError

    def transform(self) -> Transform:
        """What makes token ids of a row."""
        raise NotImplementedError

    def make_collator(self) -> Callable[[list[Row]], Row]:
        """What makes padded tensors of token ids; called when the training data are prepared."""
        raise NotImplementedError

    def prepare(self, source: RowSource | Prepared | None) -> Prepared | None:
        """The data set as the data loader reads it; None and data sets that are prepared stay as they are."""
        if source is None or isinstance(source, TransformedRows | StreamedRows):
            return source
        rows = self.load_rows(source)
        if isinstance(source, str | Path) and isinstance(rows, datasets.Dataset) and not len(rows):
            raise ValueError(f"{str(source)!r} holds no row, or blank texts alone: give one that is not blank.")
        return transform_rows(rows, self.transform())

    def prepare_training(self, source: Any) -> Any:
        """The same for training data."""
        return self.prepare(source)

    def _prepare_evaluation(self, source: Any) -> Any:
        # A DatasetDict is a dict too: each of its splits is evaluated under its name.
        if isinstance(source, dict):
            return {name: self.prepare(rows) for name, rows in source.items()}
        return self.prepare(source)

    def get_train_dataloader(self) -> DataLoader:
        """As in transformers; a stream gives batches without an end, of which each process reads its own share."""
        if not isinstance(self.train_dataset, StreamedRows):
            loader = super().get_train_dataloader()
            self._check_batches(loader)
            return loader
        collate, size = self.data_collator, self._train_batch_size
        return stream_loader(self.train_dataset, collate, self.args, self.accelerator, size)

    def _check_batches(self, loader: DataLoader) -> None:
        """ValueError where there is nothing to train on, which would end in a model as if it were trained."""
        if len(loader) == 0:
            joint = self._train_batch_size * self.accelerator.num_processes
            raise ValueError(
                f"dataloader_drop_last=True leaves no batch of the {len(self.train_dataset)} rows, as one of all "
                f"processes takes {joint}: leave it out, or lower per_device_train_batch_size."
            )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Losses on the evaluation data; `eval_dataset` as in the constructor, or the name of one of its data sets."""
        names: Any = self.eval_dataset if isinstance(self.eval_dataset, dict) else ()
        if not (isinstance(eval_dataset, str) and eval_dataset in names):
            eval_dataset = self._prepare_evaluation(eval_dataset)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _load(
        self,
        model: ModelSource | LateModel,
        tokenizer: PreTrainedTokenizerBase | None,
        kwargs: dict[str, Any],
        kind: str | None = None,
    ) -> PreTrainedModel:
        if isinstance(model, LateModel):
            model = model()
        if not isinstance(model, str | Path | PreTrainedModel):
            raise TypeError(f"model is a {type(model).__name__}; pass a repo id, a folder or a transformers model.")
        kind, own = kind or model_type(model, kwargs), self.model_class.config_class.model_type
        if kind != own:
            return self.build_model(check_plain(model, kind, own), tokenizer, kwargs, kind)
        refuse_preset(model if isinstance(model, str) else type(model).__name__, kwargs)
        if isinstance(model, PreTrainedModel) and kwargs:
            raise ValueError(f"model_kwargs {sorted(kwargs)} are for a model to load or build; this one is ready.")
        ready: Any = model if isinstance(model, PreTrainedModel) else self.model_class.from_pretrained(model, **kwargs)
        if tokenizer is not None:
            ready.tokenizer = tokenizer
        return ready

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # `state_dict` is what FSDP and ZeRO gathered: it has to reach save_pretrained.
        super()._save(output_dir, None if state_dict is None else as_tied(self.model, state_dict))
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            # A pickle, with the access token in it: the same as text, without the token.
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_text((folder / TRAINING_ARGS_NAME).with_suffix(".json"), arguments_text(self.args))
            self._write_card(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        # Trainer reads adapter checkpoints into peft's wrapper only, not into a model with `add_adapter`.
        if has_adapters(self.model):
            load_adapter_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if has_adapters(self.model):
            load_adapter_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()
