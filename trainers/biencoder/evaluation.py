"""Retrieval metrics at every evaluation of a Trainer, beside losses or without them."""

import difflib
import time
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..base.trainer import FamilyTrainer
from ..retrieval.beir import is_collection, is_retrieval_source
from ..retrieval.evaluator import RetrievalEvaluator
from ..retrieval.sets import evaluate_all, load_evaluators

Evaluators = dict[str, RetrievalEvaluator]


class RetrievalEvaluation(FamilyTrainer):
    """A Trainer whose `eval_dataset` may also be, or hold, what retrieval is evaluated on.

    That is a `RetrievalEvaluator`, a folder in BEIR's form or a folder of such folders; in a dictionary they may stand
    beside rows, and have names. The arguments' `eval_retrieval` is another place for it. Metrics are logged and
    returned as `eval_ndcg@10`, or `eval_<name>_ndcg@10` for those of a dictionary or of a folder of folders; with
    several come their means, `eval_mean_ndcg@10`.
    """

    evaluators: Evaluators
    _pending: dict[str, float] | None = None  # retrieval metrics that are to be logged with the next losses

    def take_evaluators(self, source: Any) -> Any:
        """Keeps the evaluators of the evaluation data, and returns the rest: rows."""
        rows, self.evaluators = self._split(source)
        if self.args.eval_retrieval is not None:
            if self.evaluators:
                raise ValueError(
                    "eval_retrieval is set, and eval_dataset holds retrieval data, too; put both into it."
                )
            self.evaluators = self._load_evaluators("", self.args.eval_retrieval, self.args.eval_retrieval_revision)
        for evaluator in self.evaluators.values():
            evaluator.check(self.model)
        self._check_best_metric(rows)
        # Trainer takes None for no evaluation at all.
        return {} if rows is None and self.evaluators else rows

    def _split(self, source: Any) -> tuple[Any, Evaluators]:
        if isinstance(source, RetrievalEvaluator):
            return None, {"": source}
        if is_retrieval_source(source):
            return None, self._load_evaluators("", source)
        if not isinstance(source, dict):
            return source, {}
        rows, evaluators = {}, {}
        for name, value in source.items():
            if isinstance(value, RetrievalEvaluator):
                evaluators[name] = value
            elif is_retrieval_source(value):
                evaluators.update(self._load_evaluators(name, value))
            else:
                rows[name] = value
        return (rows or None if evaluators else source), evaluators

    def _load_evaluators(self, name: str, source: str | Path, revision: str | None = None) -> Evaluators:
        args = self.args
        loaded = load_evaluators(
            source, revision=revision, ks=args.eval_ks, truncate_dims=args.eval_truncate_dims, task=args.eval_task,
            query_max_length=args.query_max_length, passage_max_length=args.passage_max_length,
        )  # fmt: skip
        if not is_collection(source):
            return dict.fromkeys([name], *loaded.values())
        return {f"{name}_{part}" if name else part: evaluator for part, evaluator in loaded.items()}

    def _check_best_metric(self, rows: Any) -> None:
        """A metric that will not be there is an error now, not after the first evaluation."""
        wanted = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if wanted == "loss" and (isinstance(rows, dict) or (rows is None and self.evaluators)):
            losses = [f"{name}_loss" for name in rows or ()]
            retrieval = evaluate_all(self.evaluators, lambda evaluator: dict.fromkeys(evaluator.names(), 0.0))
            raise ValueError(
                f"metric_for_best_model='loss' (which load_best_model_at_end takes where none is named) is not "
                f"measured; name one of {', '.join([*losses, *retrieval])}."
            )
        if "@" not in wanted:
            return
        names = list(evaluate_all(self.evaluators, lambda evaluator: dict.fromkeys(evaluator.names(), 0.0)))
        if not names:
            raise ValueError(f"metric_for_best_model={wanted!r} needs retrieval data: set eval_retrieval.")
        if wanted not in names:
            (nearest,) = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)
            raise ValueError(f"metric_for_best_model={wanted!r} is not measured; did you mean {nearest!r}?")

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Losses and retrieval metrics; `eval_dataset` as in the constructor, or the name of one of its parts."""
        rows, evaluators = self._chosen(eval_dataset)
        if not evaluators:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        metrics = self._retrieve(evaluators, metric_key_prefix)
        if not rows:
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics
        # One entry of the log, and one call of the callbacks: early stopping has to see the metric that it watches.
        self._pending = metrics
        try:
            losses = super().evaluate(None if eval_dataset is None else rows, ignore_keys, metric_key_prefix)
        finally:
            self._pending = None
        return {**losses, **metrics}

    def _chosen(self, eval_dataset: Any) -> tuple[Any, Evaluators]:
        if eval_dataset is None:
            return self.eval_dataset, self.evaluators
        if isinstance(eval_dataset, str) and eval_dataset in self.evaluators:
            return None, {"": self.evaluators[eval_dataset]}
        if isinstance(eval_dataset, str) and isinstance(self.eval_dataset, dict) and eval_dataset in self.eval_dataset:
            return eval_dataset, {}
        return self._split(eval_dataset)

    def _retrieve(self, evaluators: Evaluators, prefix: str) -> dict[str, float]:
        start = time.perf_counter()
        show_progress = False if self.args.disable_tqdm else None
        with self.accelerator.autocast():
            metrics = evaluate_all(
                evaluators, lambda evaluator: evaluator(self.model, self.args.eval_batch_size, show_progress)
            )
        metrics["retrieval_runtime"] = round(time.perf_counter() - start, 4)
        return {f"{prefix}_{name}": value for name, value in metrics.items()}

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The losses' loop, with the retrieval metrics that are to be logged beside them."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        pending, self._pending = self._pending, None
        return output._replace(metrics={**(output.metrics or {}), **(pending or {})})
