"""What ranks a corpus for queries: BM25, a bi-encoder, or both."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional as F

from modeling_biencoder import BiEncoderModel

from ..retrieval.bm25 import BM25Index
from ..retrieval.embeddings import check_embeddings
from ..retrieval.pieces import Pieces
from ..retrieval.search import PassageIndex
from .corpus import Corpus
from .filters import fuse_ranks


class Query(NamedTuple):
    """A query to search for.

    Args:
        task: whose prompt it gets, where the bi-encoder has one for it.
        left_out: numbers of passages that do not count.
        scored: texts to score as well, passages of the corpus or not.
    """

    text: str
    task: str | None
    left_out: set[int]
    scored: list[str]


class Found(NamedTuple):
    """Passages of the corpus, best first, their scores, and those of the texts that the query asked for."""

    ids: list[int]
    scores: list[float]
    text_scores: list[float]


class Retriever(Protocol):
    """Ranks the corpus for a block of queries."""

    def search(self, queries: Sequence[Query], depth: int) -> list[Found]:
        """For each query at most `depth` passages, what is left out not counted."""


class BM25Retriever:
    """Ranks passages that share a word with the query."""

    def __init__(self, corpus: Corpus, show_progress: bool = False):
        self.index = BM25Index(corpus.texts, show_progress)

    def search(self, queries: Sequence[Query], depth: int) -> list[Found]:
        """See `Retriever`."""
        return [self._search(query, depth) for query in queries]

    def _search(self, query: Query, depth: int) -> Found:
        scores, ids = self.index.search(query.text, depth + len(query.left_out))
        text_scores = [self.index.score_text(query.text, text) for text in query.scored]
        return _leave_out(query, ids.tolist(), scores.tolist(), depth, text_scores)


class DenseRetriever:
    """Ranks by a bi-encoder's similarity.

    Args:
        embeddings: (passages, d) of the corpus, as `BiEncoderModel.encode` gives them, in memory or in files.
        index: see `PassageIndex`.
    """

    def __init__(
        self,
        model: BiEncoderModel,
        corpus: Corpus,
        embeddings: torch.Tensor | Pieces,
        index: str = "auto",
        task: str | None = None,
        batch_size: int = 32,
    ):
        self.model, self.corpus, self.task, self.batch_size = model, corpus, task, batch_size
        if isinstance(embeddings, Pieces):
            self.embeddings: torch.Tensor | Pieces = embeddings.map(self._comparable)
        else:
            self.embeddings = self._comparable(embeddings)
        self.index = PassageIndex(self.embeddings, index, model.device)

    def search(self, queries: Sequence[Query], depth: int) -> list[Found]:
        """See `Retriever`."""
        return self.search_embedded(self.embed_queries(queries), queries, depth)

    def search_embedded(self, embedded: torch.Tensor, queries: Sequence[Query], depth: int) -> list[Found]:
        """`search` with the (queries, d) embeddings of the queries."""
        most = depth + max(len(query.left_out) for query in queries)
        scores, ids = self.index.search(embedded, most, query_block=len(queries))
        text_scores = self._score_texts(embedded, queries)
        found = zip(queries, ids.tolist(), scores.tolist(), text_scores, strict=True)
        return [_leave_out(query, row_ids, row, depth, texts) for query, row_ids, row, texts in found]

    def embed_queries(self, queries: Sequence[Query]) -> torch.Tensor:
        """(queries, d): each in the prompt of its task."""
        known = self.model.config.prompts
        tasks = [query.task if query.task in known else self.task for query in queries]
        embedded = torch.empty(len(queries), self.embeddings.shape[1])
        for task in dict.fromkeys(tasks):
            rows = [i for i, own in enumerate(tasks) if own == task]
            embedded[rows] = self._encode([queries[i].text for i in rows], "query", task)
        return embedded

    def score_passages(self, embedded: torch.Tensor, ids: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of each query's (d,) embedding the scores of its passages of the corpus."""
        rows = self._rows(one for own in ids for one in own)
        return [
            _dot(torch.stack([rows[one] for one in own]), query) if own else []
            for own, query in zip(ids, embedded, strict=True)
        ]

    def _rows(self, numbers: Iterable[int]) -> dict[int, torch.Tensor]:
        """The embeddings of some passages, which may be in many files: each is read once."""
        wanted = sorted(set(numbers))
        return dict(zip(wanted, self.embeddings[torch.tensor(wanted, dtype=torch.long)], strict=True))

    def _score_texts(self, embedded: torch.Tensor, queries: Sequence[Query]) -> list[list[float]]:
        places = {text: self.corpus.find(text) for query in queries for text in query.scored}
        rows = self._rows(place for place in places.values() if place is not None)
        outside = [text for text, place in places.items() if place is None]
        known = {text: rows[place] for text, place in places.items() if place is not None}
        known.update(zip(outside, self._encode(outside, "passage", self.task), strict=True))
        return [
            _dot(torch.stack([known[text] for text in query.scored]), row) if query.scored else []
            for query, row in zip(queries, embedded, strict=True)
        ]

    def _encode(self, texts: list[str], role: str, task: str | None) -> torch.Tensor:
        found = self.model.encode(texts, role, task, batch_size=self.batch_size, show_progress=False)
        return self._comparable(check_embeddings(found, len(texts)))

    def _comparable(self, embeddings: torch.Tensor) -> torch.Tensor:
        """So that the dot product is the model's similarity."""
        cosine = self.model.config.similarity == "cosine" and not self.model.config.normalize
        return F.normalize(embeddings, dim=-1) if cosine else embeddings


class FusedRetriever:
    """Ranks by reciprocal rank fusion of BM25 and a bi-encoder; the scores are the bi-encoder's."""

    def __init__(self, bm25: BM25Retriever, dense: DenseRetriever):
        self.bm25, self.dense = bm25, dense

    def search(self, queries: Sequence[Query], depth: int) -> list[Found]:
        """See `Retriever`."""
        embedded = self.dense.embed_queries(queries)
        dense = self.dense.search_embedded(embedded, queries, depth)
        bm25 = self.bm25.search([query._replace(scored=[]) for query in queries], depth)
        fused = [fuse_ranks([one.ids, other.ids])[:depth] for one, other in zip(dense, bm25, strict=True)]
        return [
            Found(ids, scores, one.text_scores)
            for ids, scores, one in zip(fused, self.dense.score_passages(embedded, fused), dense, strict=True)
        ]


def _dot(embeddings: torch.Tensor, query: torch.Tensor) -> list[float]:
    """(n, d) with (d,), computed as in `PassageIndex`."""
    return (embeddings.double() @ query.double()).float().tolist()


def _leave_out(query: Query, ids: list[int], scores: list[float], depth: int, text_scores: list[float]) -> Found:
    kept = [(i, score) for i, score in zip(ids, scores, strict=True) if i not in query.left_out][:depth]
    return Found([i for i, _ in kept], [score for _, score in kept], text_scores)
