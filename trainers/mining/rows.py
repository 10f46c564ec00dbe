"""Rows to mine negatives for: what may never become one, and what comes out."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from tqdm.auto import tqdm

from ..biencoder.rows import normalize_row
from ..data.faithful import placed
from ..data.sources import Row
from .corpus import Corpus, KeyTable, text_key
from .filters import draw, passing
from .retrievers import Found, Query, Retriever
from .settings import MiningSettings

DECIMALS = 6  # what float32 is good for
# Aligned with candidates that are others afterwards.
_OLD_SCORES = ("teacher_scores", "pos_scores", "neg_scores", "neg_score")


class QueryRows:
    """Rows with query, positives and negatives, read by number; the positives of equal queries belong to each.

    Raises ValueError with the row number for a row that does not load, all rows being read here.
    """

    def __init__(self, rows: Sequence[Row], show_progress: bool = False):
        self.rows = rows
        digest, keys = hashlib.sha256(), []
        for number in tqdm(range(len(rows)), desc="Checking the rows", unit="row", disable=not show_progress):
            with placed(rows):
                keys.append(text_key(self[number]["query"]))
            digest.update(json.dumps(rows[number], sort_keys=True, default=str).encode())
        self.digest, self._queries = digest.hexdigest(), KeyTable(keys)
        self._positives = lru_cache(maxsize=4096)(self._read_positives)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return normalize_row(self.rows[number], number)

    def forbidden(self, number: int) -> frozenset[int]:
        """The keys of texts that are no negatives of row `number`: its query, and every positive of an equal query."""
        return self._positives(text_key(self[number]["query"]))

    def _read_positives(self, query: int) -> frozenset[int]:
        same = self._queries.find(query)
        return frozenset([query, *(text_key(text) for number in same for text in self[number]["pos"])])


class RowMiner:
    """Mines negatives for rows in groups, numbered from 0; a group's result depends on nothing but its rows."""

    def __init__(self, rows: QueryRows, corpus: Corpus, retriever: Retriever, settings: MiningSettings):
        self.rows, self.corpus, self.retriever, self.settings = rows, corpus, retriever, settings

    def mine(self, group: int) -> list[Row]:
        """The group's rows with their negatives; those without any are left out unless they are to be kept."""
        size = self.settings.block_size
        numbers = range(group * size, min((group + 1) * size, len(self.rows)))
        rows = [self._with_existing(number) for number in numbers]
        queries = [self._query(number, row) for number, row in zip(numbers, rows, strict=True)]
        found = self.retriever.search(queries, self.settings.rank_to)
        mined = [self._finish(*parts) for parts in zip(numbers, rows, found, strict=True)]
        return [row for row in mined if row["neg"] or self.settings.keep_empty]

    def _with_existing(self, number: int) -> Row:
        """The normalized row with those negatives that stay."""
        row, seen, kept = self.rows[number], set(self.rows.forbidden(number)), []
        for text in row["neg"] if self.settings.existing == "keep" else []:
            if text_key(text) not in seen:
                seen.add(text_key(text))
                kept.append(text)
        return {**row, "neg": kept}

    def _query(self, number: int, row: Row) -> Query:
        left_out = self.corpus.same_as(self.rows.forbidden(number) | {text_key(text) for text in row["neg"]})
        scored: list[str] = []
        if self.settings.scores or self.settings.has_margin:
            scored = [*row["pos"], *(row["neg"] if self.settings.scores else [])]
        return Query(row["query"], row["task"], left_out, scored)

    def _finish(self, number: int, row: Row, found: Found) -> Row:
        settings, positives = self.settings, len(row["pos"])
        chosen = self._choose(number, found, positives, settings.num_negatives - len(row["neg"]))
        kept: dict[str, Any] = {name: value for name, value in self.rows.rows[number].items()}
        kept = {name: value for name, value in kept.items() if name not in _OLD_SCORES}
        negatives = row["neg"] + [self.corpus.texts[found.ids[place]] for place in chosen]
        result = {**kept, "pos": row["pos"], "neg": negatives}
        if settings.scores:
            mined = [found.scores[place] for place in chosen]
            result["pos_scores"] = _rounded(found.text_scores[:positives])
            result["neg_scores"] = _rounded(found.text_scores[positives:] + mined)
        return result

    def _choose(self, number: int, found: Found, positives: int, wanted: int) -> list[int]:
        """The places in `found` of the negatives."""
        settings = self.settings
        ranks = range(settings.rank_from, min(settings.rank_to, len(found.ids)))
        stays = passing(
            torch.tensor(found.scores[settings.rank_from : settings.rank_to]),
            torch.tensor(found.text_scores[:positives]),
            settings.min_score,
            settings.max_score,
            settings.margin,
            settings.relative_margin,
        )
        candidates = [rank for rank, good in zip(ranks, stays.tolist(), strict=True) if good]
        return draw(candidates, max(wanted, 0), settings.sampling, settings.seed, number)


def _rounded(scores: Sequence[float]) -> list[float]:
    return [round(score, DECIMALS) for score in scores]
