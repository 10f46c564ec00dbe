"""RetrievalEvaluator: how well a bi-encoder finds the relevant passages of queries in a corpus."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from hub_cards.travelling.checks import check_positive_int, typed
from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.encoding_biencoder import prompt_affixes
from modeling_biencoder.gather_biencoder import gather_rows, gather_sizes, is_distributed
from modeling_biencoder.inputs_biencoder import check_max_length, check_truncate_dim
from modeling_biencoder.pooling_biencoder import finish

from ..jobs.processes import place
from .bm25 import BM25Index
from .data import Judgements, RetrievalData, make_retrieval_data
from .embeddings import check_embeddings, check_encoder
from .metrics import DEFAULT_METRICS, check_metrics, retrieval_metrics
from .search import top_k_passages

DEFAULT_KS = (10, 100)
PASSAGES_AT_ONCE = 2**16  # embedded and searched before the next ones: bounds the memory for their embeddings
_Best = tuple[torch.Tensor, torch.Tensor]  # scores and passage numbers, (queries, k) each, best first
# texts and their role -> (texts, d)
_Encode = Callable[[Sequence[str], str], torch.Tensor]


class RetrievalEvaluator:
    """Queries, a corpus and judgements, to be called with a bi-encoder.

    Args:
        queries: {query id: text}. Those without a relevant passage are left out; `left_out` says how many. Or all
            three as one of `load_retrieval_data`.
        corpus: {passage id: text} or {passage id: {"title": ..., "text": ...}}; the title comes first, then a blank.
        qrels: {query id: {passage id: grade}}, a grade above 0 is relevant; or {query id: ids of the relevant ones}.
            A relevant passage that the corpus lacks counts as not found, as in pytrec_eval; a warning says how many.
        ks: cut-offs of the metrics. metrics: names among mrr, ndcg, recall, map, precision and hit_rate.
        task: whose prompts of `config.prompts` to use; None is "default".
        batch_size: texts that are embedded at once.
        truncate_dims: also measure embeddings cut to these widths (Matryoshka), as `dim<width>_ndcg@10`.
        query_max_length, passage_max_length: cut texts at so many tokens; by default the model's `max_length`.

    A passage with id and text of a query, its title and white space aside, is the query itself (as in ArguAna), and no
    result unless judged relevant. Of equal scores the passage that comes first in the corpus is ranked first.

    In a distributed run every process must call it: each embeds its share, and all get the result of one process.

    >>> evaluate = RetrievalEvaluator({"q": "who?"}, {"a": "he", "b": "she"}, {"q": {"b": 1}})
    >>> evaluate(model)  # doctest: +SKIP
    {'mrr@10': 1.0, 'ndcg@10': 1.0, 'recall@10': 1.0, 'map@10': 1.0, 'mrr@100': 1.0, ...}

    Raises ValueError for an empty corpus, no query to score, no relevant passage in the corpus, unknown metrics and
    cut-offs below 1; TypeError for another form; and when called, ValueError for a width that the model does not have.
    """

    def __init__(
        self,
        queries: Mapping[str, str] | RetrievalData,
        corpus: Mapping[str, str | Mapping[str, str]] | None = None,
        qrels: Mapping[str, Judgements] | None = None,
        ks: Sequence[int] = DEFAULT_KS,
        metrics: Sequence[str] = DEFAULT_METRICS,
        task: str | None = None,
        batch_size: int = 32,
        truncate_dims: Sequence[int] | None = None,
        query_max_length: int | None = None,
        passage_max_length: int | None = None,
    ):
        check_metrics(metrics, ks)
        check_positive_int("batch_size", batch_size)
        typed("task", task, str | None)
        for width in typed("truncate_dims", truncate_dims, Sequence[int] | None) or ():
            check_positive_int("truncate_dims", width, "give widths to cut the embeddings to")
        for name, length in {"query_max_length": query_max_length, "passage_max_length": passage_max_length}.items():
            if length is not None:
                check_positive_int(name, length, "give the most tokens of a text")
        data = _checked(queries, corpus, qrels)
        self.queries, self.corpus, self.qrels, self.left_out = data.queries, data.corpus, data.qrels, data.left_out
        self._themselves = {query for query in data.queries if data.is_passage(query)}
        self.ks, self.metrics, self.task, self.batch_size = tuple(ks), tuple(metrics), task, batch_size
        self.truncate_dims = tuple(truncate_dims or ())
        self.max_lengths = {"query": query_max_length, "passage": passage_max_length}

    def names(self) -> list[str]:
        """The names of the metrics, as a call returns them."""
        plain = [f"{name}@{k}" for k in self.ks for name in self.metrics]
        return plain + [f"dim{dim}_{name}" for dim in self.truncate_dims for name in plain]

    def check(self, model: BiEncoderModel) -> None:
        """Raises ValueError for a task, a width or a length that the model does not have."""
        check_encoder(model)
        self._check_sizes(model.config)
        model.encode([], task=self.task)

    def check_config(self, config: BiEncoderConfig) -> None:
        """`check` of a bi-encoder whose weights need not be there."""
        self._check_sizes(config)
        prompt_affixes(config.prompts, "query", self.task, None)

    def _check_sizes(self, config: Any) -> None:
        for role, length in self.max_lengths.items():
            if length is not None:
                check_max_length(f"{role}_max_length", length, config.max_positions)
        for dim in self.truncate_dims:
            check_truncate_dim(dim, config.embedding_dims, config.hidden_size)

    def __call__(
        self, model: BiEncoderModel, batch_size: int | None = None, show_progress: bool | None = None
    ) -> dict[str, float]:
        """{"ndcg@10": ..., ...}: means over the queries.

        Args:
            batch_size: in place of the constructor's.
            show_progress: progress bars; None shows them for jobs of more than two seconds.
        """
        if batch_size is not None:
            check_positive_int("batch_size", batch_size)
        typed("show_progress", show_progress, bool | None)
        self.check(model)
        found: dict[str, float] = {}
        for dim, run in self.search(model, batch_size, show_progress).items():
            prefix = "" if dim is None else f"dim{dim}_"
            found.update({f"{prefix}{name}": value for name, value in self.score(run).items()})
        return found

    def score(self, run: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The metrics of a run {query id: {passage id: score}}, results best first."""
        rankings = [list(run.get(query, ())) for query in self.queries]
        return retrieval_metrics(rankings, [self.qrels[query] for query in self.queries], self.ks, self.metrics)

    def bm25(self, show_progress: bool = False) -> dict[str, float]:
        """The metrics of BM25, the baseline: {"ndcg@10": ..., ...}."""
        index = BM25Index(list(self.corpus.values()), show_progress)
        best = [index.search(query, max(self.ks) + 1) for query in self.queries.values()]
        return self.score(self._run([scores.tolist() for scores, _ in best], [ids.tolist() for _, ids in best]))

    @torch.no_grad()
    def search(
        self, model: BiEncoderModel, batch_size: int | None = None, show_progress: bool | None = None
    ) -> dict[int | None, dict[str, dict[str, float]]]:
        """{width: run}, None for the whole embeddings; a run is {query id: {passage id: score}}, best first.

        It holds the passages that the largest cut-off needs.
        """
        rank, processes = place()

        def encode(texts: Sequence[str], role: str) -> torch.Tensor:
            with _cut_at(model, self.max_lengths[role]):
                found = model.encode(
                    texts, role=role, task=self.task, batch_size=batch_size or self.batch_size,
                    show_progress=show_progress if rank == 0 else False,
                )  # fmt: skip
                return check_embeddings(found, len(texts))

        queries = _encode_shared(list(self.queries.values()), model, encode)
        passages = list(self.corpus.values())[rank::processes]
        best: dict[int | None, _Best] = {}
        for start in range(0, len(passages), PASSAGES_AT_ONCE):
            block = encode(passages[start : start + PASSAGES_AT_ONCE], "passage")
            for dim in (None, *self.truncate_dims):
                asked, found = _view(model, queries, dim), _view(model, block, dim)
                scores, ids = top_k_passages(asked, found, max(self.ks) + 1, device=model.device)
                best[dim] = self._merge(best.get(dim), (scores, (ids + start) * processes + rank))
        return {dim: self._gathered(best.get(dim), model) for dim in (None, *self.truncate_dims)}

    def _merge(self, one: _Best | None, other: _Best) -> _Best:
        """The best of both; equal scores by passage number."""
        scores, ids = other if one is None else [torch.cat(pair, dim=1) for pair in zip(one, other, strict=True)]
        by_number = ids.argsort(dim=1)
        scores, ids = scores.gather(1, by_number), ids.gather(1, by_number)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : max(self.ks) + 1]
        return scores.gather(1, order), ids.gather(1, order)

    def _gathered(self, best: _Best | None, model: BiEncoderModel) -> dict[str, dict[str, float]]:
        """The run of all processes' passages."""
        if best is None:  # fewer passages than processes
            best = torch.zeros(len(self.queries), 0), torch.zeros(len(self.queries), 0, dtype=torch.long)
        if is_distributed():
            # As columns, because processes may have found different numbers of passages.
            parts = [part.T.contiguous().to(model.device) for part in best]
            sizes = gather_sizes(len(parts[0]), model.device)
            scores, ids = (gather_rows(part, sizes).T.cpu() for part in parts)
            best = self._merge(None, (scores, ids))
        return self._run(best[0].tolist(), best[1].tolist())

    def _run(self, scores: list[list[float]], ids: list[list[int]]) -> dict[str, dict[str, float]]:
        """Results by id, without the query itself."""
        names = list(self.corpus)
        run = {}
        for query, row, numbers in zip(self.queries, scores, ids, strict=True):
            results = {names[number]: score for number, score in zip(numbers, row, strict=True)}
            if query in self._themselves and query not in self.qrels[query]:
                results.pop(query, None)
            run[query] = dict(list(results.items())[: max(self.ks)])
        return run


def _checked(queries: Any, corpus: Any, qrels: Any) -> RetrievalData:
    if not isinstance(queries, RetrievalData):
        return make_retrieval_data(queries, corpus, qrels)
    if corpus is not None or qrels is not None:
        raise ValueError("The queries come with a corpus and qrels of their own: leave corpus and qrels out.")
    return queries


def _encode_shared(texts: list[str], model: BiEncoderModel, encode: _Encode) -> torch.Tensor:
    """(texts, d) embeddings of queries, on every process; each makes its share."""
    rank, processes = place()
    mine = encode(texts[rank::processes], "query")
    if processes == 1:
        return mine
    joint = gather_rows(mine.to(model.device), gather_sizes(len(mine), model.device)).cpu()
    order = torch.tensor([number for start in range(processes) for number in range(start, len(texts), processes)])
    return joint[order.argsort()]


def _view(model: BiEncoderModel, embeddings: torch.Tensor, dim: int | None) -> torch.Tensor:
    """Embeddings cut to `dim` numbers, such that their dot product is the model's similarity."""
    return finish(embeddings, model.config.normalize or model.config.similarity == "cosine", dim)


@contextlib.contextmanager
def _cut_at(model: BiEncoderModel, max_length: int | None) -> Iterator[None]:
    before = model.config.max_length
    model.config.max_length = before if max_length is None else max_length
    try:
        yield
    finally:
        model.config.max_length = before
