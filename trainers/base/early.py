"""What is certain to go wrong is said before the model is loaded, or at the latest before the first step."""

import dataclasses
import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import constants, get_token
from peft import LoraConfig, PeftConfig
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hub_cards.travelling.checks import nearest
from modeling_biencoder.published_biencoder import check_preset

from ..data.sources import check_source
from ..jobs.places import check_folder
from ..models.adapters import add_adapter
from ..models.bases import added_tokens
from ..models.kind import LateModel, ModelSource, check_dtype, config_of
from ..models.weightless import build_weightless, check_words

_TIMES = ("_runtime", "_per_second")  # of each evaluation


class EarlyChecks(Trainer):
    """A Trainer that looks at names, places and data before its model is loaded."""

    model_class: ClassVar[Any]
    args: Any
    model: Any
    eval_dataset: Any

    def check_early(self, train_dataset: Any, eval_dataset: Any, model_kwargs: dict[str, Any]) -> None:
        """Raises ValueError for what cannot work: the output folder, the repo to push to, files of data, a dtype."""
        check_folder("output_dir", self.args.output_dir)
        check_push(self.args)
        check_dtype(model_kwargs.get("dtype"))
        for name in ("preset", "retriever_preset"):
            check_preset(name, model_kwargs.get(name))
        check_strategies(self.args, self.evaluates(eval_dataset))
        evaluated = eval_dataset.values() if isinstance(eval_dataset, dict) else [eval_dataset]
        for source in [*self.sources(train_dataset), *evaluated]:
            check_source(source)

    def check_weightless(
        self,
        model: ModelSource | LateModel,
        tokenizer: PreTrainedTokenizerBase | None,
        model_kwargs: dict[str, Any],
        peft_config: PeftConfig | None,
    ) -> str | None:
        """The `model_type` of what lies in a folder or repo to load, None for a model in memory.

        Raises ValueError for settings and an adapter that do not fit it.
        """
        if not isinstance(model, str | Path):
            return None
        config = config_of(model, model_kwargs)
        found = build_weightless(self.model_class, model, config, model_kwargs, tokenizer)
        check_words(model, config, model_kwargs, tokenizer)
        if found is not None:
            self.model = found
            self.check_sizes()
            if peft_config is not None:
                self._try_adapter(peft_config)
        return config.model_type

    def check_sizes(self) -> None:
        """Raises ValueError for arguments that do not fit the sizes of `self.model`, whose weights may be missing."""

    def _try_adapter(self, peft_config: PeftConfig) -> None:
        """Puts the adapter on the model without weights, for the errors that this gives."""
        if isinstance(peft_config, LoraConfig):  # other beginnings are computed from the weights
            peft_config = dataclasses.replace(peft_config, init_lora_weights=True)
        with torch.device("meta"), warnings.catch_warnings(), suppress(NotImplementedError, RuntimeError):
            warnings.simplefilter("ignore")  # they come when it is put on the model with weights
            # RuntimeError: torch's, where an adapter computes with weights that are not there (BOFT's).
            add_adapter(self.model, peft_config, self.new_token_ids(), self.trained_modules())

    def new_token_ids(self) -> list[int]:
        """Tokens that the base does not have, whose rows train along with a LoRA, and are saved in it."""
        return list(added_tokens(self.model))

    def trained_modules(self) -> list[str]:
        """Modules of the model that train whole along with an adapter, and are saved in it."""
        return []

    def sources(self, source: Any) -> Iterable[Any]:
        """The data sets that training data in any form name."""
        return [source]

    def evaluates(self, eval_dataset: Any) -> bool:
        """Whether there is something to evaluate on."""
        return eval_dataset is not None

    def metric_names(self) -> list[str]:
        """The names of what is measured on rows, without `eval_`."""
        return []

    def other_metric_names(self) -> list[str]:
        """The names of what is measured on other data."""
        return []

    def check_best_metric(self) -> None:
        """ValueError where `metric_for_best_model` is not measured: now, rather than after the first evaluation."""
        wanted = self.args.metric_for_best_model
        own = type(self).__module__.partition(".")[0] == __name__.partition(".")[0]  # others may measure more
        if wanted is None or self.args.eval_strategy == IntervalStrategy.NO or not own:
            return
        rows = ["loss", *self.metric_names()] if self.eval_dataset is not None else []
        if isinstance(self.eval_dataset, dict):
            rows = [f"{name}_{metric}" for name in self.eval_dataset for metric in rows]
        names = [*rows, *self.other_metric_names()]
        bare = wanted.removeprefix("eval_")
        if bare not in names and not bare.endswith(_TIMES):
            raise ValueError(
                f"metric_for_best_model={wanted!r} is not measured; did you mean {nearest(bare, names)}? Measured are "
                f"{', '.join(names)}."
            )


def check_push(args: TrainingArguments) -> None:
    """ValueError where `push_to_hub` cannot work: no access to the Hub, or no token."""
    if not args.push_to_hub:
        return
    if constants.HF_HUB_OFFLINE:
        raise ValueError(
            "push_to_hub=True needs the Hub, and HF_HUB_OFFLINE is set: unset the variable, or leave push_to_hub out."
        )
    if not (args.hub_token or get_token()):
        raise ValueError(
            "push_to_hub=True needs a token with the right to write: log in by `hf auth login`, or set HF_TOKEN."
        )


def check_strategies(args: TrainingArguments, evaluates: bool) -> None:
    """ValueError where something is asked of evaluations that there will not be."""
    strategy = IntervalStrategy(args.eval_strategy)
    if strategy != IntervalStrategy.NO and not evaluates:
        raise ValueError(f"eval_strategy={strategy.value!r} needs evaluation data: give some, or leave it out.")
    if args.save_strategy == SaveStrategy.BEST and args.metric_for_best_model is None:
        raise ValueError(
            "save_strategy='best' needs metric_for_best_model: name a metric, such as eval_loss, or save by steps."
        )


def check_checkpoint(name: str | None) -> None:
    """ValueError for a `resume_from_checkpoint` of the command line that is no checkpoint's folder; `last` may be."""
    if name is None or name == "last":
        return
    if not (Path(name) / "trainer_state.json").is_file():
        kind = "a folder without trainer_state.json" if os.path.isdir(name) else "no folder"
        raise ValueError(
            f"resume_from_checkpoint={name!r} is {kind} and must be a checkpoint: give its folder, such as "
            "run/checkpoint-500, or 'last' for the newest one in output_dir."
        )
