"""Exact search by dot product: the k best passages of each query, by faiss or by blocked torch, to the same result.

A fast search in float32 finds a few candidates more than k. They are scored anew in float64 and sorted, equal scores
by passage number; where rounding leaves it open whether the k best are among them, the query is searched in float64.
So neither the index, the device nor the block sizes decide which passages come out.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from tqdm.auto import tqdm

from hub_cards.travelling.checks import check_bool

from .pieces import Pieces

INDEXES = ("auto", "faiss", "torch")
_UNIT = 2.0**-24  # rounding of float32
_RESCORED = 2**24  # numbers of candidate embeddings that are gathered at once
_Best = tuple[torch.Tensor, torch.Tensor]  # scores and ids, (queries, k) each


def top_k_passages(
    query_embeddings: torch.Tensor,
    passage_embeddings: torch.Tensor | Pieces,
    k: int,
    index: str = "auto",
    device: torch.device | str | None = None,
    query_block: int = 512,
    passage_block: int = 32768,
    show_progress: bool = False,
) -> _Best:
    """Scores (Q, min(k, N)) float32 and ids (Q, min(k, N)) int64 of the best passages, best first, on the CPU.

    Args:
        query_embeddings, passage_embeddings: (Q, d) and (N, d); for cosine similarity, normalised.
        index, device, passage_block: as [`PassageIndex`] has them, which is built once for many searches.
        query_block: queries searched at once.

    Equal scores are in the order of the passage numbers. Raises ValueError for shapes or a `k` that do not fit.

    >>> top_k_passages(torch.eye(2), torch.tensor([[1.0, 0], [0, 1], [0, 2], [0, 1]]), k=2)[1].tolist()
    [[0, 1], [2, 1]]
    """
    passages = PassageIndex(passage_embeddings, index, device, passage_block)
    return passages.search(query_embeddings, k, query_block, show_progress)


def check_index(index: str) -> None:
    """Raises ValueError for an unknown index, and for faiss where it is not installed."""
    if index not in INDEXES:
        raise ValueError(f"index={index!r} must be one of {', '.join(INDEXES)}: take one of them.")
    if index == "faiss" and find_spec("faiss") is None:
        raise ValueError("index='faiss' is not installed: pip install faiss-cpu, or take 'torch' or 'auto'.")


def usable_device(device: torch.device | str) -> torch.device:
    """The device; TypeError or ValueError for what is none, and for one that this machine does not have."""
    rule = "must be a device of this machine: give 'cpu', or one such as 'cuda'"
    if not isinstance(device, torch.device | str):
        raise TypeError(f"device={device!r} {rule}.")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # as torch says it, over several lines
        problem = str(error).strip().partition("\n")[0]
    raise ValueError(f"device={str(device)!r} {rule} ({problem}).")


def uses_faiss(index: str, device: torch.device | str) -> bool:
    """Whether an index of this kind is faiss's: `auto` is where it is installed and the device is the CPU."""
    return index == "faiss" or (
        index == "auto" and torch.device(device).type == "cpu" and find_spec("faiss") is not None
    )


class PassageIndex:
    """Passages to search. No (queries, passages) matrix of more than a block each is made.

    Args:
        passage_embeddings: (N, d) of finite numbers, on any device; not copied if float32. `Pieces` stay where they
            are, and each search reads them block by block.
        index: `faiss` (on the CPU), `torch`, or `auto`: faiss where it is installed and the device is the CPU.
        device: where torch multiplies; by default where the embeddings are.
        passage_block: passages that torch scores at once.
    """

    def __init__(
        self,
        passage_embeddings: torch.Tensor | Pieces,
        index: str = "auto",
        device: torch.device | str | None = None,
        passage_block: int = 32768,
    ):
        check_index(index)
        _check_size("passage_block", passage_block)
        _check_vectors("passage_embeddings", passage_embeddings)
        self.passages, self.passage_block = passage_embeddings, passage_block
        self.device = passage_embeddings.device if device is None else usable_device(device)
        if passage_embeddings.ndim != 2 or 0 in passage_embeddings.shape:
            shape = tuple(passage_embeddings.shape)
            raise ValueError(f"passage_embeddings of shape {shape} must be (N, d): give a passage or more.")
        self.largest_norm = max(float(_finite_norms("passage", block).max()) for _, block in self._blocks())
        self.uses_faiss = uses_faiss(index, self.device)
        self._array: Any = None
        if self.uses_faiss and isinstance(passage_embeddings, torch.Tensor):
            self._array = passage_embeddings.float().cpu().contiguous().numpy()

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        return zip(
            range(0, len(self.passages), self.passage_block), self.passages.split(self.passage_block), strict=True
        )

    def search(
        self, query_embeddings: torch.Tensor, k: int, query_block: int = 512, show_progress: bool = False
    ) -> _Best:
        """As `top_k_passages` says."""
        _check_size("k", k)
        _check_size("query_block", query_block)
        check_bool("show_progress", show_progress)
        _check_vectors("query_embeddings", query_embeddings)
        if query_embeddings.ndim != 2 or query_embeddings.shape[1] != self.passages.shape[1]:
            raise ValueError(
                f"query_embeddings of shape {tuple(query_embeddings.shape)} must be (Q, {self.passages.shape[1]}) for "
                f"passages of shape {tuple(self.passages.shape)}: embed both with one model."
            )
        k = min(k, len(self.passages))
        found = [(torch.zeros(0, k), torch.zeros(0, k, dtype=torch.long))]
        blocks = query_embeddings.split(query_block) if len(query_embeddings) else ()
        for queries in tqdm(blocks, desc="search", unit="block", disable=not show_progress):
            found.append(self._search_block(queries.float().cpu(), k))
        return torch.cat([scores for scores, _ in found]), torch.cat([ids for _, ids in found])

    def _search_block(self, queries: torch.Tensor, k: int) -> _Best:
        norms = _finite_norms("query", queries)
        fast, ids = self._candidates(queries, min(k + max(16, k // 8), len(self.passages)))
        ids = ids.sort(dim=1).values  # so that a stable sort by score leaves equal ones in this order
        scores, ids = _sort(self._rescore(queries, ids), ids, k)
        # What is no candidate scores at most as the last one does, and the error of a dot product.
        error = norms * self.largest_norm * _UNIT * (queries.shape[1] + 2)
        unsure = (scores[:, -1] <= fast.min(dim=1).values + error) & (fast.shape[1] < len(self.passages))
        if unsure.any():
            scores[unsure], ids[unsure] = self._search_in_float64(queries[unsure], k)
        return scores, ids

    def _candidates(self, queries: torch.Tensor, k: int) -> _Best:
        """The k best in float32, in any order."""
        if self._array is not None:
            return _nearest_by_faiss(queries, self._array, k)
        on_device = queries.to(self.device)
        best = on_device.new_zeros(len(queries), 0), on_device.new_zeros(len(queries), 0, dtype=torch.long)
        for start, block in self._blocks():
            scores, ids = self._best_of_block(queries, on_device, start, block, k)
            scores, ids = torch.cat([best[0], scores], dim=1), torch.cat([best[1], ids], dim=1)
            scores, columns = scores.topk(min(k, scores.shape[1]), dim=1, sorted=False)
            best = scores, ids.gather(1, columns)
        return best[0].cpu(), best[1].cpu()

    def _best_of_block(
        self, queries: torch.Tensor, on_device: torch.Tensor, start: int, block: torch.Tensor, k: int
    ) -> _Best:
        if self.uses_faiss:
            scores, ids = _nearest_by_faiss(queries, block.float().contiguous().numpy(), min(k, len(block)))
            return scores, ids + start
        with torch.autocast(self.device.type, enabled=False):  # the error bound is float32's
            scores = on_device @ block.to(self.device, torch.float32).T  # (queries, block)
        return scores, torch.arange(start, start + len(block), device=self.device).expand_as(scores)

    def _rescore(self, queries: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """(queries, candidates) float32 scores, computed in float64."""
        at_once = max(_RESCORED // (ids.shape[1] * queries.shape[1]), 1)
        parts = []
        for some, columns in zip(queries.split(at_once), ids.split(at_once), strict=True):
            passages = self.passages[columns.to(self.passages.device)].cpu().double()  # (some, candidates, d)
            parts.append((passages @ some.double()[:, :, None]).squeeze(2).float())
        return torch.cat(parts)

    def _search_in_float64(self, queries: torch.Tensor, k: int) -> _Best:
        best = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.long)
        for start, block in self._blocks():
            scores = (queries.double() @ block.cpu().double().T).float()
            ids = torch.arange(start, start + len(block)).expand_as(scores)
            best = _sort(torch.cat([best[0], scores], dim=1), torch.cat([best[1], ids], dim=1), k)
        return best


def _nearest_by_faiss(queries: torch.Tensor, passages: Any, k: int) -> _Best:
    import faiss

    scores, ids = faiss.knn(queries.numpy(), passages, k, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(scores), torch.from_numpy(ids)


def _sort(scores: torch.Tensor, ids: torch.Tensor, k: int) -> _Best:
    """The k best of each row, best first; equal scores stay in their order."""
    columns = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return scores.gather(1, columns), ids.gather(1, columns)


def _finite_norms(name: str, embeddings: torch.Tensor) -> torch.Tensor:
    norms = embeddings.float().norm(dim=1)
    if not torch.isfinite(norms).all():
        raise ValueError(
            f"{name}_embeddings must hold finite numbers alone: the model that made them diverged; take another."
        )
    return norms


def _check_vectors(name: str, value: Any) -> None:
    if isinstance(value, Pieces):
        return
    if not isinstance(value, torch.Tensor) or value.is_complex() or value.device.type == "meta":
        kind = f"{value.dtype} on {value.device}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor (n, d) of numbers, not {kind}: use torch.as_tensor.")


def _check_size(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1: give one.")
