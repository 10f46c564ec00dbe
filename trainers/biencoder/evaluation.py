"""What a Trainer of bi-encoders evaluates beside its losses, or without them: retrieval."""

import time
from pathlib import Path
from typing import Any

from hub_cards.travelling.checks import nearest
from modeling_biencoder import BiEncoderModel

from ..retrieval.beir import is_collection, is_retrieval_source
from ..retrieval.evaluator import RetrievalEvaluator
from ..retrieval.sets import evaluate_all, load_evaluators
from .arguments import BiEncoderTrainingArguments

Evaluators = dict[str, RetrievalEvaluator]


class RetrievalEvaluation:
    """The retrieval data among what a Trainer evaluates on, and the metrics on them.

    Retrieval data are a `RetrievalEvaluator`, a folder in BEIR's form or a folder of such folders; in a dictionary
    they may stand beside rows, and have names. The arguments' `eval_retrieval` is another place for them. Metrics are
    named `eval_ndcg@10`, or `eval_<name>_ndcg@10` for those of a dictionary or of a folder of folders; with several
    come their means, `eval_mean_ndcg@10`.

    Args:
        args: the Trainer's. model: what will be evaluated.
        source: the Trainer's `eval_dataset`; what of it are rows is `rows`.

    Raises ValueError where the model cannot take the texts, or `metric_for_best_model` will not be measured.
    """

    def __init__(self, args: BiEncoderTrainingArguments, model: BiEncoderModel, source: Any):
        self.args = args
        self.rows, self.evaluators = self._split(source)
        if args.eval_retrieval is not None:
            if self.evaluators:
                raise ValueError(
                    f"eval_retrieval={args.eval_retrieval!r} must be the only retrieval data, and eval_dataset holds "
                    "some too: put both into eval_dataset."
                )
            self.evaluators = self._load("", args.eval_retrieval, args.eval_retrieval_revision)
        self._check_dtype(self.evaluators)
        for evaluator in self.evaluators.values():
            evaluator.check(model)
        self._check_best_metric()

    def names(self) -> list[str]:
        """The names of all metrics, without `eval_`."""
        return list(evaluate_all(self.evaluators, lambda evaluator: dict.fromkeys(evaluator.names(), 0.0)))

    def chosen(self, source: Any, rows: Any) -> tuple[Any, Evaluators]:
        """(rows, evaluators) that `evaluate(source)` is about, where the Trainer has prepared `rows`."""
        if source is None:
            return rows, self.evaluators
        if isinstance(source, str) and source in self.evaluators:
            return None, {"": self.evaluators[source]}
        if isinstance(source, str) and isinstance(rows, dict) and source in rows:
            return source, {}
        return self._split(source)

    def measure(self, evaluators: Evaluators, model: BiEncoderModel, prefix: str) -> dict[str, float]:
        """The metrics of some evaluators under their full names, and how long it took."""
        self._check_dtype(evaluators)
        start = time.perf_counter()
        show_progress = False if self.args.disable_tqdm else None
        metrics = evaluate_all(
            evaluators, lambda evaluator: evaluator(model, self.args.eval_batch_size, show_progress)
        )
        metrics["retrieval_runtime"] = round(time.perf_counter() - start, 4)
        return {f"{prefix}_{name}": value for name, value in metrics.items()}

    def _split(self, source: Any) -> tuple[Any, Evaluators]:
        if isinstance(source, RetrievalEvaluator):
            return None, {"": source}
        if is_retrieval_source(source):
            return None, self._load("", source)
        if not isinstance(source, dict):
            return source, {}
        rows, evaluators = {}, {}
        for name, value in source.items():
            if isinstance(value, RetrievalEvaluator):
                evaluators[name] = value
            elif is_retrieval_source(value):
                evaluators.update(self._load(name, value))
            else:
                rows[name] = value
        return (rows or None if evaluators else source), evaluators

    def _load(self, name: str, source: str | Path, revision: str | None = None) -> Evaluators:
        args = self.args
        loaded = load_evaluators(
            source, revision=revision, ks=args.eval_ks, truncate_dims=args.eval_truncate_dims, task=args.eval_task,
            query_max_length=args.query_max_length, passage_max_length=args.passage_max_length,
        )  # fmt: skip
        if not is_collection(source):
            return dict.fromkeys([name], *loaded.values())
        return {f"{name}_{part}" if name else part: evaluator for part, evaluator in loaded.items()}

    def _check_dtype(self, evaluators: Evaluators) -> None:
        """ValueError for transformers' types of an evaluation, which are those of its loop over rows alone."""
        for name in ("bf16_full_eval", "fp16_full_eval"):
            if evaluators and getattr(self.args, name):
                raise ValueError(
                    f"{name}=True must be False beside retrieval data, which the model embeds in its own type: leave "
                    "it out, or set bf16 or fp16, under which texts are embedded too."
                )

    def _check_best_metric(self) -> None:
        """A metric that will not be there is an error now, not after the first evaluation."""
        wanted = (self.args.metric_for_best_model or "").removeprefix("eval_")
        names = self.names()
        if wanted == "loss" and (isinstance(self.rows, dict) or (self.rows is None and self.evaluators)):
            losses = [f"{name}_loss" for name in self.rows or ()]
            raise ValueError(
                f"metric_for_best_model='loss' (which load_best_model_at_end takes where none is named) is not "
                f"measured; name one of {', '.join([*losses, *names])}."
            )
        if "@" not in wanted:
            return
        if not names:
            raise ValueError(f"metric_for_best_model={wanted!r} needs retrieval data: set eval_retrieval.")
        if wanted not in names:
            raise ValueError(
                f"metric_for_best_model={wanted!r} is not measured; did you mean {nearest(wanted, names)}?"
            )
