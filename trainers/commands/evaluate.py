"""`lookback evaluate`: how well a bi-encoder finds the relevant passages, data set by data set, BM25 beside it.

Several processes share the work under `torchrun` or `accelerate launch`. --mteb runs tasks or benchmarks of mteb
instead, in one process; each finished one is kept, so that the same command goes on where it was. `lookback evaluate
--needle` is another test, of language models on long texts: `lookback evaluate --needle --help`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch

from hub_cards.cards.card import add_results
from hub_cards.transfer.folder_names import shared_name
from hub_cards.whole_files import written_whole
from modeling_biencoder import BiEncoderConfig

from ..jobs.idle import refuse_idle, refuse_without
from ..jobs.parts import check_absent, check_output
from ..jobs.places import check_folder
from ..jobs.processes import start_processes
from ..models.load import load_biencoder
from ..models.mteb_encoder import MtebEncoder, require_mteb
from ..retrieval.evaluator import DEFAULT_KS, RetrievalEvaluator
from ..retrieval.metrics import DEFAULT_METRICS, check_metrics
from ..retrieval.sets import MEAN, load_evaluators, means
from .loading import EmbedderArguments, WeightsArguments
from .mteb_tasks import SCORE, card_results, check_card, find_tasks, main_scores, run_tasks, write_scores
from .parsing import parse_arguments

Results = dict[str, dict[str, float]]  # by data set, and the mean
# Options that go with --data alone, and with --mteb alone.
OF_DATA = (
    "data", "baseline", "split", "ks", "metrics", "query_max_length", "passage_max_length", "data_revision",
)  # fmt: skip
OF_MTEB = ("mteb_folder", "card")


@dataclass
class EvaluateArguments:
    """What to evaluate, and on what."""

    model: str = field(metadata={"help": "Hub id or folder of a bi-encoder or a LLaRA model."})
    data: str | None = field(
        default=None,
        metadata={
            "help": "Folder with corpus, queries and qrels (BEIR, NanoBEIR), a folder of such folders, or a Hub id."
        },
    )
    mteb: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Tasks of mteb, such as STS12 SciFact, or benchmarks, such as NanoBEIR, in place of --data."
        },
    )
    mteb_folder: str | None = field(
        default=None, metadata={"help": "Where mteb files its results and finds them again. Default: its own cache."}
    )
    card: bool = field(
        default=False, metadata={"help": "Also write the results of --mteb into the card in the model's folder."}
    )
    baseline: Literal["none", "bm25"] = field(default="none", metadata={"help": "Also measure BM25."})
    output: str | None = field(default=None, metadata={"help": "Also write the metrics to this .json file."})
    overwrite: bool = field(default=False, metadata={"help": "Write over an output that is there."})
    split: str | None = field(
        default=None, metadata={"help": "Which judgements, where there are several. Default: test."}
    )
    ks: list[int] = field(default_factory=lambda: list(DEFAULT_KS), metadata={"help": "Cut-offs of the metrics."})
    metrics: list[str] = field(
        default_factory=lambda: list(DEFAULT_METRICS),
        metadata={"help": "Among mrr, ndcg, recall, map, precision, hit_rate."},
    )
    task: str | None = field(
        default=None, metadata={"help": "Task whose prompts to use. Default: 'default'; of --mteb by name and type."}
    )
    truncate_dims: list[int] | None = field(
        default=None, metadata={"help": "Also measure embeddings cut to these widths (Matryoshka)."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts that are embedded at once."})
    query_max_length: int | None = field(default=None, metadata={"help": "Cut queries at so many tokens."})
    passage_max_length: int | None = field(default=None, metadata={"help": "Cut passages at so many tokens."})
    data_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the data's repo."})

    def __post_init__(self) -> None:
        self._check_kind()
        check_metrics(self.metrics, self.ks)
        if self.batch_size < 1:
            raise ValueError(f"--batch_size={self.batch_size} must be at least 1: give a number of texts.")
        if self.output is None:
            return refuse_without(self, "output", ["overwrite"])
        check_output(self.output, ".json")
        check_absent(self.output, self.overwrite)

    def _check_kind(self) -> None:
        """ValueError unless there is one thing to evaluate on, and all else that is given goes with it."""
        if not self.mteb and self.data is None:
            raise ValueError("--data or --mteb must be given: name a folder or Hub id of data, or tasks of mteb.")
        which, other = ("--data", "--mteb") if self.mteb else ("--mteb", "--data")
        fix = f"leave it out, or give {which} alone"
        refuse_idle(self, OF_DATA if self.mteb else OF_MTEB, f"for {other}", fix)
        if self.mteb_folder is not None:
            check_folder("--mteb_folder", self.mteb_folder)


def load_data(arguments: EvaluateArguments) -> dict[str, RetrievalEvaluator]:
    """The evaluators of the arguments' data, by name."""
    return load_evaluators(
        cast(str, arguments.data), arguments.split, arguments.data_revision, ks=arguments.ks,
        metrics=arguments.metrics, task=arguments.task, batch_size=arguments.batch_size,
        truncate_dims=arguments.truncate_dims,
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
    model, data = shared_name(arguments.model), shared_name(cast(str, arguments.data))
    written = {"model": model, "data": data, "metrics": results, "sizes": sizes}
    if baseline is not None:
        written["bm25"] = baseline
    text = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    with written_whole(cast(str, arguments.output)) as new:
        new.write_text(text, encoding="utf-8")


ARGUMENTS = (EvaluateArguments, EmbedderArguments, WeightsArguments)
EXAMPLES = r"""
# beside BM25
lookback evaluate --model runs/finetune --data runs/data/holdout --baseline bm25
# metrics of your choice, to a file
lookback evaluate \
    --model runs/finetune --data beir/scifact --metrics ndcg recall --ks 10 100 --output m.json
# tasks of mteb, also into the model's card
lookback evaluate --model runs/finetune --mteb STS12 SciFact --card
"""


def evaluate_mteb(
    arguments: EvaluateArguments, loading: EmbedderArguments, weights: WeightsArguments, device: torch.device
) -> None:
    """Runs mteb's tasks, prints the table, and writes scores and card where asked to."""
    tasks = find_tasks(arguments.mteb)
    card = check_card(arguments.model) if arguments.card else None
    dims = arguments.truncate_dims or []
    keywords = {**loading.keywords(), **weights.keywords()}
    encoder = MtebEncoder(arguments.model, device=device, task=arguments.task, widths=dims, **keywords)
    encoders = {"model": encoder}
    for dim in dims:
        encoders[f"model, {dim} numbers"] = encoder.narrowed(dim)
    results = {
        name: run_tasks(one, tasks, arguments.mteb_folder, arguments.batch_size) for name, one in encoders.items()
    }
    columns = {name: with_mean(main_scores(tasks, found)) for name, found in results.items()}
    print(format_results(columns, [SCORE]))
    if arguments.output is not None:
        write_scores(arguments.output, encoder, columns, results["model"])
        print(f"scores: {arguments.output}")
    if card is not None:
        add_results(card, card_results(tasks, results["model"]))
        print(f"card: {card}")


def main(argv: list[str]) -> None:
    """Prints the table, and writes the metrics where asked to."""
    arguments, loading, weights = parse_arguments(argv, ARGUMENTS, "evaluate", __doc__)
    if arguments.mteb:
        require_mteb()
    state = start_processes()
    if arguments.mteb:
        if state.num_processes > 1:
            raise ValueError(
                f"--mteb runs in one process, and {state.num_processes} were started: leave the launcher out."
            )
        return evaluate_mteb(arguments, loading, weights, state.device)
    evaluators = load_data(arguments)

    def check(config: BiEncoderConfig) -> None:
        for evaluator in evaluators.values():
            evaluator.check_config(config)

    keywords = {**loading.keywords(), **weights.keywords()}
    model = cast(Any, load_biencoder(arguments.model, check=check, **keywords)).to(state.device)
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
