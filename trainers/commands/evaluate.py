"""`lookback evaluate`: how well a bi-encoder finds the relevant passages, data set by data set, BM25 beside it.

Several processes share the work under `torchrun` or `accelerate launch`. `lookback evaluate --needle` is another test,
of language models on long texts: `lookback evaluate --needle --help`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from hub_cards.transfer.folder_names import shared_name
from hub_cards.whole_files import written_whole

from ..jobs.parts import check_output
from ..jobs.processes import start_processes
from ..models.load import load_biencoder
from ..retrieval.evaluator import DEFAULT_KS, RetrievalEvaluator
from ..retrieval.metrics import DEFAULT_METRICS, check_metrics
from ..retrieval.sets import MEAN, load_evaluators, means
from .parsing import EmbedderArguments, parse_arguments

Results = dict[str, dict[str, float]]  # by data set, and the mean


@dataclass
class EvaluateArguments:
    """What to evaluate, and on what."""

    model: str = field(metadata={"help": "Hub id or folder of a bi-encoder or a LLaRA model."})
    data: str = field(
        metadata={
            "help": "Folder with corpus, queries and qrels (BEIR, NanoBEIR), a folder of such folders, or a Hub id."
        }
    )
    baseline: Literal["none", "bm25"] = field(default="none", metadata={"help": "Also measure BM25."})
    output: str | None = field(default=None, metadata={"help": "Also write the metrics to this .json file."})
    split: str | None = field(
        default=None, metadata={"help": "Which judgements, where there are several. Default: test."}
    )
    ks: list[int] = field(default_factory=lambda: list(DEFAULT_KS), metadata={"help": "Cut-offs of the metrics."})
    metrics: list[str] = field(
        default_factory=lambda: list(DEFAULT_METRICS),
        metadata={"help": "Among mrr, ndcg, recall, map, precision, hit_rate."},
    )
    task: str | None = field(default=None, metadata={"help": "Task whose prompts to use. Default: 'default'."})
    truncate_dims: list[int] | None = field(
        default=None, metadata={"help": "Also measure embeddings cut to these widths (Matryoshka)."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts that are embedded at once."})
    query_max_length: int | None = field(default=None, metadata={"help": "Cut queries at so many tokens."})
    passage_max_length: int | None = field(default=None, metadata={"help": "Cut passages at so many tokens."})
    data_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the data's repo."})

    def __post_init__(self) -> None:
        check_metrics(self.metrics, self.ks)
        if self.batch_size < 1:
            raise ValueError(f"--batch_size={self.batch_size} must be at least 1: give a number of texts.")
        if self.output is not None:
            check_output(self.output, ".json")


def load_data(arguments: EvaluateArguments) -> dict[str, RetrievalEvaluator]:
    """The evaluators of the arguments' data, by name."""
    return load_evaluators(
        arguments.data, arguments.split, arguments.data_revision, ks=arguments.ks, metrics=arguments.metrics,
        task=arguments.task, batch_size=arguments.batch_size, truncate_dims=arguments.truncate_dims,
        query_max_length=arguments.query_max_length, passage_max_length=arguments.passage_max_length,
    )  # fmt: skip


def with_mean(results: Results) -> Results:
    """The results, and those of "mean" where there are several data sets."""
    return {**results, MEAN: means(results)} if len(results) > 1 else results


def format_results(columns: Mapping[str, Results], metrics: list[str]) -> str:
    """A table: for each data set a line of each retriever (a key of `columns`), a column of each metric."""
    sets = list(next(iter(columns.values())))
    first, second = (max(map(len, ["data set", *names])) for names in (sets, [*columns, "retriever"]))
    lines = [f"{'data set':<{first}}  {'retriever':<{second}}" + "".join(f"{name:>12}" for name in metrics)]
    for name in sets:
        for number, (retriever, results) in enumerate(columns.items()):
            figures = "".join(f"{results[name][metric]:>12.4f}" for metric in metrics)
            lines.append(f"{name if number == 0 else '':<{first}}  {retriever:<{second}}{figures}")
    return "\n".join(lines)


def by_retriever(results: Results, baseline: Results | None, evaluator: RetrievalEvaluator) -> dict[str, Results]:
    """The columns of the table: the whole embeddings, each width, the baseline."""
    columns = {"model": results}
    for dim in evaluator.truncate_dims:
        prefix = f"dim{dim}_"
        cut = {
            name: {key.removeprefix(prefix): value for key, value in one.items() if key.startswith(prefix)}
            for name, one in results.items()
        }
        columns[f"model, {dim} numbers"] = cut
    return columns if baseline is None else {**columns, "BM25": baseline}


def write_results(
    arguments: EvaluateArguments,
    evaluators: Mapping[str, RetrievalEvaluator],
    results: Results,
    baseline: Results | None,
) -> None:
    """The JSON file: metrics by data set, and how many queries and passages each has."""
    sizes = {
        name: {"queries": len(one.queries), "passages": len(one.corpus), "queries left out": one.left_out}
        for name, one in evaluators.items()
    }
    model, data = shared_name(arguments.model), shared_name(arguments.data)
    written = {"model": model, "data": data, "metrics": results, "sizes": sizes}
    if baseline is not None:
        written["bm25"] = baseline
    text = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    with written_whole(cast(str, arguments.output)) as new:
        new.write_text(text, encoding="utf-8")


ARGUMENTS = (EvaluateArguments, EmbedderArguments)
EXAMPLES = r"""
# beside BM25
lookback evaluate --model runs/finetune --data runs/data/holdout --baseline bm25
# metrics of your choice, to a file
lookback evaluate \
    --model runs/finetune --data beir/scifact --metrics ndcg recall --ks 10 100 --output m.json
# narrower embeddings beside the whole ones
lookback evaluate --model runs/finetune --data runs/data/holdout --truncate_dims 128 64
"""


def main(argv: list[str]) -> None:
    """Prints the table, and writes the metrics where asked to."""
    arguments, loading = parse_arguments(argv, ARGUMENTS, "evaluate", __doc__)
    state = start_processes()
    evaluators = load_data(arguments)
    model = cast(Any, load_biencoder(arguments.model, **loading.keywords())).to(state.device)
    for evaluator in evaluators.values():
        evaluator.check(model)
    results = with_mean({name: evaluator(model) for name, evaluator in evaluators.items()})
    if not state.is_main_process:
        return
    baseline = None
    if arguments.baseline == "bm25":
        baseline = with_mean(
            {name: one.bm25(show_progress=len(one.corpus) > 10_000) for name, one in evaluators.items()}
        )
    first = next(iter(evaluators.values()))
    names = [f"{name}@{k}" for k in first.ks for name in first.metrics]
    print(format_results(by_retriever(results, baseline, first), names))
    if arguments.output is not None:
        write_results(arguments, evaluators, results, baseline)
        print(f"metrics: {arguments.output}")
