"""What `lookback mine` is told."""

from dataclasses import dataclass, field

from hub_cards.travelling.checks import check_fields
from modeling_biencoder import BiEncoderConfig
from modeling_biencoder.encoding_biencoder import prompt_affixes

from ..base.arguments import check_least
from ..data.sources import check_source
from ..jobs.idle import refuse_idle
from ..jobs.parts import check_new, check_output
from ..jobs.shards import NUM_SHARDS_HELP, check_num_shards
from ..retrieval.search import check_index
from ..retrieval.tables import refuse_tables

RETRIEVERS = ("bm25", "dense", "both")
SAMPLINGS = ("random", "top")
EXISTING = ("replace", "keep")


@dataclass
class MineArguments:
    """The rows, where to look for negatives and with what model, and where the rows go.

    Raises ValueError for an output that is no .jsonl or lies in the data or the corpus.
    """

    data: str = field(metadata={"help": "Rows with query and pos: a data file, a folder or a Hub id."})
    output: str = field(metadata={"help": "The .jsonl file to write."})
    corpus: str | None = field(
        default=None,
        metadata={
            "help": "Passages: rows with text or passage (and title), a file of lines, or a folder of such files. "
            "Default: all positives and negatives of the data."
        },
    )
    model: str | None = field(default=None, metadata={"help": "Hub id or folder of a bi-encoder, for dense and both."})
    num_shards: int | None = field(default=None, metadata={"help": NUM_SHARDS_HELP})
    overwrite: bool = field(default=False, metadata={"help": "Start anew over a finished or interrupted output."})

    def __post_init__(self) -> None:
        check_fields(self, MineArguments)
        check_num_shards(self)
        check_output(self.output, data=self.data, corpus=self.corpus)
        check_new(self.output, self.num_shards is not None, self.overwrite)
        check_source(self.data)
        if self.corpus is not None:
            check_source(self.corpus)
            refuse_tables("--corpus", self.corpus)


@dataclass
class MiningSettings:
    """How negatives are found. Scores are the retriever's: BM25's, else the bi-encoder's similarity.

    Raises TypeError or ValueError for values of another type, that are no choice or do not fit.
    """

    retriever: str = field(
        default="dense", metadata={"help": "bm25, dense, or both: reciprocal rank fusion, dense scores."}
    )
    rank_from: int = field(
        default=10, metadata={"help": "Best-ranked passages to skip, positives and same texts not counted."}
    )
    rank_to: int = field(default=210, metadata={"help": "Rank behind which no passage is taken."})
    num_negatives: int = field(default=7, metadata={"help": "Negatives of a row, kept ones included."})
    sampling: str = field(default="random", metadata={"help": "Of those that pass: random, or the top ones."})
    seed: int = field(default=0, metadata={"help": "Of the random draw, which the row number decides beside it."})
    min_score: float | None = field(default=None, metadata={"help": "Least score of a negative."})
    max_score: float | None = field(default=None, metadata={"help": "Highest score of a negative."})
    margin: float | None = field(
        default=None, metadata={"help": "Negatives score below the (lowest) positive minus this."}
    )
    relative_margin: float | None = field(
        default=None, metadata={"help": "Negatives score below the (lowest) positive times 1 - this, such as 0.05."}
    )
    existing: str = field(
        default="replace", metadata={"help": "replace the rows' negatives, or keep them and fill up behind them."}
    )
    scores: bool = field(default=False, metadata={"help": "Write pos_scores and neg_scores, the retriever's."})
    keep_empty: bool = field(default=False, metadata={"help": "Keep rows for which there is no negative at all."})
    index: str = field(default="auto", metadata={"help": "Of dense search: faiss, torch, or auto; same result."})
    task: str | None = field(
        default=None, metadata={"help": "Task whose prompts texts get; a query's own task goes before it."}
    )
    batch_size: int = field(default=32, metadata={"help": "Texts that go through the model at once."})
    block_size: int = field(default=512, metadata={"help": "Rows that are searched for at once."})

    def __post_init__(self) -> None:
        check_fields(self, MiningSettings)
        choices = {"retriever": RETRIEVERS, "sampling": SAMPLINGS, "existing": EXISTING}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(allowed)}: take one of them.")
        check_least(self, 0, "rank_from")
        check_least(self, 1, "rank_to", "num_negatives", "batch_size", "block_size")
        if self.rank_to <= self.rank_from:
            raise ValueError(
                f"rank_to={self.rank_to} must be above rank_from={self.rank_from}: raise it, or lower that."
            )
        self._check_scores()
        if self.retriever == "bm25":
            refuse_idle(self, ("index", "task", "batch_size"), "with retriever='bm25', which embeds nothing", mark="")
        if self.sampling == "top":
            refuse_idle(self, ["seed"], "with sampling='top', which draws nothing", mark="")
        check_index(self.index)

    def _check_scores(self) -> None:
        if self.margin is not None and self.margin < 0:
            raise ValueError(f"margin={self.margin} must be at least 0: with less, negatives could beat the positive.")
        if self.relative_margin is not None and not 0 <= self.relative_margin <= 1:
            raise ValueError(
                f"relative_margin={self.relative_margin} must lie between 0 and 1: give one such as 0.05."
            )
        if self.min_score is not None and self.max_score is not None and self.min_score > self.max_score:
            raise ValueError(
                f"min_score={self.min_score} must not be above max_score={self.max_score}, or no score fits both: "
                "lower it."
            )

    def check_model(self, has_model: bool) -> None:
        """Raises ValueError for a model that is missing, or that BM25 would not use."""
        if self.retriever != "bm25" and not has_model:
            raise ValueError(f"retriever={self.retriever!r} needs a model: name a bi-encoder, or take 'bm25'.")
        if self.retriever == "bm25" and has_model:
            raise ValueError("retriever='bm25' does not use a model, and one is given: take 'dense' or 'both'.")

    def check_task(self, config: BiEncoderConfig) -> None:
        """Raises ValueError for a task that the model has no prompts for."""
        prompt_affixes(config.prompts, "query", self.task, None)

    @property
    def has_margin(self) -> bool:
        """Whether the positives' scores decide."""
        return self.margin is not None or self.relative_margin is not None
