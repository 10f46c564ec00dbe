"""What `lookback evaluate --mteb` does with mteb's tasks: finds them by name, runs them, tells their scores."""

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetsError
from huggingface_hub import EvalResult

from hub_cards.transfer.retries import is_transient
from hub_cards.whole_files import written_whole

from ..models.mteb_encoder import MtebEncoder, require_mteb

SCORE = "score"  # a task's main metric, in the table
SOURCE, SOURCE_URL = "MTEB", "https://github.com/embeddings-benchmark/mteb/"


def find_tasks(names: Sequence[str]) -> list[Any]:
    """The tasks of these names, and those of the benchmarks of these names, each once.

    Raises ValueError for a name that mteb does not have, and for a task that is not of texts alone.
    """
    found: dict[str, Any] = {}
    for name in names:
        for task in _tasks_of(name):
            if set(task.metadata.modalities) != {"text"}:
                kinds = ", ".join(task.metadata.modalities)
                raise ValueError(
                    f"--mteb={name!r}: the task {task.metadata.name!r} is of {kinds}, and a bi-encoder reads texts "
                    "alone: name others."
                )
            found.setdefault(task.metadata.name, task)
    return list(found.values())


def _tasks_of(name: str) -> Iterable[Any]:
    mteb = require_mteb()
    for get in (lambda: [mteb.get_task(name)], lambda: mteb.get_benchmark(name).tasks):
        try:
            return get()
        except KeyError:
            continue
    tasks = [kind.metadata.name for kind in vars(mteb.tasks).values() if hasattr(kind, "metadata")]
    near = get_close_matches(name, [*tasks, *(benchmark.name for benchmark in mteb.get_benchmarks())], n=1)
    hint = (
        f"did you mean {near[0]!r}?" if near else "`mteb available-tasks` and `mteb available-benchmarks` list them."
    )
    raise ValueError(f"--mteb={name!r} is no task or benchmark of mteb {mteb.__version__}: {hint}")


def run_tasks(encoder: MtebEncoder, tasks: Iterable[Any], folder: str | None, batch_size: int) -> dict[str, Any]:
    """{name: mteb's result of the task}; those that the folder holds are read from there.

    Args:
        folder: where mteb files its results; default its own cache.

    Raises ValueError for a task whose data cannot be had.
    """
    mteb = require_mteb()
    cache, results = mteb.ResultCache(folder), {}
    for task in tasks:
        name, path = task.metadata.name, task.metadata.dataset["path"]
        lacking = f"the data of mteb's task {name!r} ({path}) cannot be had"
        kept = f"what was measured before it is kept in {str(cache.cache_path)!r}: run the same command again."
        try:
            found = mteb.evaluate(
                encoder, task, co2_tracker=False, cache=cache, show_progress_bar=False,
                encode_kwargs={"batch_size": batch_size, "show_progress_bar": True},
            )  # fmt: skip
        except (OSError, DatasetsError) as error:
            if getattr(error, "errno", None) is not None and not is_transient(error):
                raise
            said = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{lacking} ({said}): is the network there? {kept}") from error
        if found.exceptions:  # of a data set that is not public
            raise ValueError(f"{lacking} ({found.exceptions[0].exception}): log in by `hf auth login`. {kept}")
        results[name] = found.task_results[0]
    return results


def main_scores(tasks: Iterable[Any], results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """A line of the table for each task, {"STS12 cosine_spearman": {"score": mean over its subsets and splits}}."""
    return {
        f"{task.metadata.name} {task.metadata.main_score}": {SCORE: float(results[task.metadata.name].get_score())}
        for task in tasks
    }


def write_scores(path: str, model: MtebEncoder, columns: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """The JSON file: the table's scores by retriever, and all that mteb says of each task, by split and subset."""
    about = model.mteb_model_meta
    written = {
        "model": about.name, "revision": about.revision, "mteb": require_mteb().__version__,
        "metrics": {
            retriever: {line: scores[SCORE] for line, scores in lines.items()} for retriever, lines in columns.items()
        },
        "scores": {name: result.scores for name, result in results.items()},
    }  # fmt: skip
    with written_whole(path) as new:
        new.write_text(json.dumps(written, indent=2, ensure_ascii=False, default=float) + "\n", encoding="utf-8")


def card_results(tasks: Iterable[Any], results: Mapping[str, Any]) -> list[EvalResult]:
    """What a model's card says: the main metric of each task, by split and subset."""
    return [
        EvalResult(
            task_type=str(task.metadata.type),
            dataset_type=task.metadata.dataset["path"],
            dataset_name=task.metadata.name,
            dataset_config=scores["hf_subset"],
            dataset_split=split,
            dataset_revision=task.metadata.dataset.get("revision"),
            metric_type=task.metadata.main_score,
            metric_value=float(scores["main_score"]),
            source_name=SOURCE,
            source_url=SOURCE_URL,
        )
        for task in tasks
        for split, subsets in results[task.metadata.name].scores.items()
        for scores in subsets
    ]


def check_card(model: str) -> Path:
    """The card in a model's folder; ValueError where there is none."""
    card = Path(model) / "README.md"
    if not card.is_file():
        where = "has no README.md" if Path(model).is_dir() else "is no folder"
        raise ValueError(
            f"--card: --model={model!r} {where}: give a folder with a card, as every saved model has one (`lookback "
            "pull` fetches a repo, `lookback push` sends it)."
        )
    return card
