"""Search in the embeddings that `lookback encode` wrote, in any precision; the queries stay float32.

float32, float16 and int8 are searched exactly, by faiss or torch to the same result (see `search`). Of binary ones
the nearest by Hamming distance are found first, exactly, and scored anew (https://arxiv.org/abs/2106.00882): by float
embeddings of the same texts where there are some, else by the signs, as sentence-transformers does it.
"""

import json
import operator
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from hub_cards.travelling.checks import check_bool, check_positive_int

from ..jobs.parts import differing
from .embeddings import check_embeddings, check_encoder
from .hamming import nearest
from .mapped import open_stored
from .pieces import Pieces
from .quantization import centres_and_steps, quantize, signs
from .search import PassageIndex, check_index, usable_device, uses_faiss
from .stored import Stored, load_stored

_Best = tuple[torch.Tensor, torch.Tensor]  # scores and numbers, (queries, k) each, best first


class Hit(NamedTuple):
    """A text that was found. The text is None where the index does not have it."""

    id: str
    score: float
    text: str | None


# What two files of the same embeddings say alike, whatever their precision.
MADE_BY = ("texts", "encoding", "role", "task", "truncate_dim")


def load_index(
    path: str | Path, rescore: str | Path | None = None, keep_in_memory: bool = True, **settings: Any
) -> "EmbeddingIndex":
    """The index of what `lookback encode --output path` wrote, in one file or in shards.

    Args:
        rescore: the same texts' embeddings in float32, float16 or int8, which score what a binary index finds.
        keep_in_memory: False leaves all in the files, which each search then reads: no more than a file of
            .safetensors or .npy, or a row group of .parquet, and `passage_block` embeddings are in memory.
        settings: `index`, `device` and `passage_block` of [`EmbeddingIndex`].

    Raises ValueError for files that are missing or do not fit.
    """
    check_bool("keep_in_memory", keep_in_memory)
    load = load_stored if keep_in_memory else open_stored
    stored = load(path)
    if rescore is None:
        return EmbeddingIndex(stored, **settings)
    other = load(rescore)
    if len(other.ids) != len(stored.ids) or any(map(operator.ne, other.ids, stored.ids)):
        raise ValueError(
            f"rescore={str(rescore)!r} has other ids than {str(path)!r}: give embeddings of the same texts."
        )
    for name in MADE_BY:
        values = [one.about.get(name) for one in (stored, other)]
        if None not in values and _differ(name, *values):
            raise ValueError(
                f"rescore={str(rescore)!r} was made of other texts, by another model or with other settings than "
                f"{str(path)!r} ({name!r} differs): encode the same texts with the same command, but for --precision."
            )
    widths = [int(one.about.get("width", one.embeddings.shape[1])) for one in (stored, other)]
    if widths[0] != widths[1]:
        raise ValueError(
            f"rescore={str(rescore)!r} holds embeddings of {widths[1]} numbers, and {str(path)!r} of {widths[0]}: "
            "give those of the same width."
        )
    return EmbeddingIndex(stored, other, **settings)


def _differ(name: str, *values: Any) -> bool:
    if name != "encoding":
        return values[0] != values[1]
    return bool(differing(*map(json.loads, values)))  # one of them may be of a former version, which says less


class EmbeddingIndex:
    """Embeddings to search in.

    Args:
        stored: as `stored.load_stored` gives them.
        rescore: the same texts' embeddings, not binary, for a binary index.
        index: `faiss` (on the CPU), `torch`, or `auto`: faiss where it is installed. The result is the same.
        device: where torch multiplies.
        passage_block: embeddings that are searched at once where they are not in memory, and by torch.

    Attributes:
        ids, texts, about: of `stored`. `about` says what made the embeddings.
        precision: float32, float16, int8 or binary. width: numbers of a query.
    """

    def __init__(
        self,
        stored: Stored,
        rescore: Stored | None = None,
        index: str = "auto",
        device: torch.device | str = "cpu",
        passage_block: int = 32768,
    ):
        check_index(index)
        self.ids, self.texts, self.about = stored.ids, stored.texts, stored.about
        self.codes, self.index, self.device = stored.embeddings, index, usable_device(device)
        check_positive_int("passage_block", passage_block)
        self.passage_block = passage_block
        self.precision = self.about.get("precision", "float32")
        self.width = int(self.about.get("width", self.codes.shape[1]))
        settings = json.loads(self.about.get("encoding", "{}"))
        self.cosine = settings.get("similarity") == "cosine" and not settings.get("normalize")
        if rescore is not None and (self.precision != "binary" or rescore.about.get("precision") == "binary"):
            raise ValueError(
                f"rescore is for a binary index and the float32, float16 or int8 embeddings of its texts, and this "
                f"index is {self.precision}: leave it out."
            )
        self.exact = None if rescore is None else _Scores(rescore, self.cosine)
        self._passages = None if self.precision == "binary" else self._searchable(stored)

    def __len__(self) -> int:
        return len(self.ids)

    def _searchable(self, stored: Stored) -> tuple["_Scores", PassageIndex]:
        scores = _Scores(stored, self.cosine)
        return scores, PassageIndex(scores.numbers, self.index, self.device, self.passage_block)

    def find(
        self, model: Any, queries: Sequence[str], k: int = 10, task: str | None = None, batch_size: int = 32
    ) -> list[list[Hit]]:
        """The k best texts of each query, which `model` embeds as a query: the bi-encoder that made the index.

        Args:
            task: whose prompt the queries get; by default that of the index.
        """
        check_encoder(model)
        cut = int(self.about.get("truncate_dim") or 0) or None
        found = model.encode(
            list(queries), "query", task or self.about.get("task") or None, batch_size=batch_size, truncate_dim=cut
        )
        scores, numbers = self.search(check_embeddings(found, len(queries)), k)
        texts = self.texts
        # In their order, as those of a file that is not in memory are read together.
        ordered = sorted(set(numbers.flatten().tolist()))
        known = {number: (self.ids[number], None if texts is None else texts[number]) for number in ordered}
        rows = zip(scores.tolist(), numbers.tolist(), strict=True)
        return [[Hit(known[one][0], score, known[one][1]) for score, one in zip(*row, strict=True)] for row in rows]

    def hits(self, scores: Iterable[float], numbers: Iterable[int]) -> list[Hit]:
        """What a row of `search` stands for."""
        texts = self.texts
        pairs = zip(scores, numbers, strict=True)
        return [Hit(self.ids[number], score, None if texts is None else texts[number]) for score, number in pairs]

    def blocks(self) -> Iterator[torch.Tensor]:
        """The embeddings as they are stored, `passage_block` at a time: for an index of another kind, as of faiss."""
        return iter(self.codes.split(self.passage_block))

    def search(self, queries: torch.Tensor, k: int = 10, rescore_multiplier: int = 4) -> _Best:
        """Scores (Q, min(k, N)) float32 and numbers (Q, min(k, N)) int64 of the best texts, best first, on the CPU.

        Args:
            queries: (Q, width), as the model's `encode` gives them.
            rescore_multiplier: of a binary index so many times k texts are scored anew.

        Equal scores are in the order of the texts. Raises ValueError for queries of another width.
        """
        check_positive_int("k", k)
        check_positive_int("rescore_multiplier", rescore_multiplier)
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise ValueError(
                f"queries of shape {tuple(queries.shape)} must be (Q, {self.width}) for this index: embed them with "
                "the model that made it."
            )
        queries = queries.detach().float().cpu()
        if self.cosine:
            queries = F.normalize(queries, dim=-1)
        if self._passages is None:
            return self._search_binary(queries, min(k, len(self)), rescore_multiplier)
        scores, passages = self._passages
        found, numbers = passages.search(scores.asked(queries), k)
        return found + scores.constant(queries), numbers

    def _search_binary(self, queries: torch.Tensor, k: int, multiplier: int) -> _Best:
        found = torch.zeros(len(queries), k), torch.zeros(len(queries), k, dtype=torch.long)
        by_faiss = uses_faiss(self.index, self.device)
        near = nearest(quantize(queries, "binary"), self.blocks(), min(k * multiplier, len(self)), by_faiss)
        for row, candidates in enumerate(near):
            numbers = torch.from_numpy(np.sort(candidates))  # so that a stable sort leaves equal scores in this order
            if self.exact is None:
                scores = signs(self.codes[numbers], self.width).double() @ queries[row].double() / self.width**0.5
            else:
                scores = self.exact.of(queries[row], numbers)
            order = scores.argsort(descending=True, stable=True)[:k]
            found[0][row], found[1][row] = scores[order].float(), numbers[order]
        return found


class _Scores:
    """float32, float16 or int8 embeddings as `numbers`: their dot product with `asked(queries)`, and `constant` more,
    is the score, that of an int8 embedding at the middle of its steps.
    """

    def __init__(self, stored: Stored, cosine: bool):
        self.numbers, self.starts, self.steps = stored.embeddings, torch.zeros(()), torch.ones(())
        if stored.about.get("precision") == "int8":
            self.starts, self.steps = centres_and_steps(torch.tensor(json.loads(stored.about["ranges"])))
        if cosine:
            self.numbers = self._normalized(self.starts, self.steps)
            self.starts, self.steps = torch.zeros(()), torch.ones(())

    def _normalized(self, starts: torch.Tensor, steps: torch.Tensor) -> torch.Tensor | Pieces:
        def normalize(numbers: torch.Tensor) -> torch.Tensor:
            return F.normalize(numbers.float() * steps + starts, dim=-1)

        return self.numbers.map(normalize) if isinstance(self.numbers, Pieces) else normalize(self.numbers)

    def asked(self, queries: torch.Tensor) -> torch.Tensor:
        return queries * self.steps

    def constant(self, queries: torch.Tensor) -> torch.Tensor:
        """(Q, 1)."""
        return (queries * self.starts).sum(dim=1, keepdim=True)

    def of(self, query: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """(n,) float64 scores of one query."""
        asked = self.asked(query[None]).double()
        return (self.numbers[numbers].double() @ asked[0]) + self.constant(query[None]).double()[0]
