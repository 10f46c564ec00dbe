"""Arguments for evaluating a retriever while it trains."""

from dataclasses import dataclass, field

from ..retrieval.evaluator import DEFAULT_KS
from ..retrieval.metrics import check_metrics


@dataclass
class EvaluationArguments:
    """What to evaluate retrieval on; texts are embedded in batches of `per_device_eval_batch_size`."""

    eval_retrieval: str | None = field(
        default=None,
        metadata={
            "help": "Evaluate retrieval on a folder with corpus, queries and qrels (BEIR, NanoBEIR), a folder of such "
            "folders, or a Hub id. Its metrics are eval_ndcg@10 and the like, and can choose the best model."
        },
    )
    eval_retrieval_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of eval_retrieval's Hub id."}
    )
    eval_ks: list[int] = field(
        default_factory=lambda: list(DEFAULT_KS), metadata={"help": "Cut-offs of the retrieval metrics."}
    )
    eval_truncate_dims: list[int] | None = field(
        default=None,
        metadata={"help": "Widths to cut the embeddings to (Matryoshka), measured beside the whole ones."},
    )
    eval_task: str | None = field(
        default=None, metadata={"help": "Task whose prompts retrieval is evaluated with. Default: 'default'."}
    )

    def _check_evaluation(self) -> None:
        check_metrics(("mrr",), self.eval_ks)
        if self.eval_retrieval_revision is not None and self.eval_retrieval is None:
            raise ValueError(f"eval_retrieval_revision={self.eval_retrieval_revision!r} needs eval_retrieval.")
