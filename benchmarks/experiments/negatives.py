"""What the retriever experiment learns from: pairs, and the same with negatives, drawn, mined or scored by the LM."""

import argparse
import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from modeling_biencoder import BiEncoderModel
from trainers import mine_hard_negatives
from trainers.data.sources import Row
from trainers.demo.feedback import add_teacher_scores
from trainers.demo.pretrained import load_lm
from trainers.embedded.corpus import CodePair

from .packages import package_pairs
from .records import Records

NEGATIVES = 3
# A passage nearly as close as the positive is too often right.
MINING: dict[str, Any] = {"rank_from": 2, "rank_to": 50, "relative_margin": 0.05, "num_negatives": NEGATIVES}
RANDOM, MINED = "random negatives", "mined negatives"
DISTILLED = f"{MINED}, distilled"


class Corpus:
    """Pairs to measure on, of which the first `queries` are asked, and pairs to learn from; read when asked for."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.queries = options, options.queries

    @property
    def measured(self) -> Sequence[CodePair]:
        """Of the split that the options name."""
        return package_pairs(self.options.split)[: self.options.passages]

    @property
    def learned(self) -> Sequence[CodePair]:
        """Of all packages that nothing is measured on; reading them takes minutes."""
        return package_pairs("train")


class TrainingRows:
    """Rows of the pairs that are learned from; what takes long is kept in the experiment's folder."""

    def __init__(self, corpus: Corpus, options: argparse.Namespace):
        self.corpus, self.options = corpus, options

    @cached_property
    def pairs(self) -> list[Row]:
        """Without negatives."""
        return [
            {"query": one.query, "pos": [one.passage], "neg": []} for one in self.corpus.learned[: self.options.pairs]
        ]

    def with_one_negative(self, miner: BiEncoderModel) -> dict[str, list[Row]]:
        """Random and mined: the same pairs, each with one negative; drawn where none is mined."""
        generator = random.Random(0)
        passages = [row["pos"][0] for row in self.pairs]
        mined = {
            (row["query"], row["pos"][0]): row["neg"]
            for row in self._mined(self.pairs, passages, miner, "mined-at-start.jsonl")
        }
        drawn = [{**row, "neg": [_other(passages, row, generator)]} for row in self.pairs]
        hard = []
        for row in drawn:
            found = mined.get((row["query"], row["pos"][0]), row["neg"])
            hard.append({**row, "neg": [generator.choice(found)]})
        return {RANDOM: drawn, MINED: hard}

    def with_several(self, miner: BiEncoderModel) -> dict[str, list[Row]]:
        """Random, mined and distilled: further pairs for which enough negatives are mined."""
        options = self.options
        passages = [one.passage for one in self.corpus.learned[: options.pairs + options.rows]]
        further = self.corpus.learned[options.pairs : options.pairs + options.rows]
        rows: list[Row] = [{"query": one.query, "pos": [one.passage]} for one in further]
        mined = self._mined(rows, passages, miner, "mined.jsonl")
        kept: list[Row] = [
            {name: row[name] for name in ("query", "pos", "neg")} for row in mined if len(row["neg"]) == NEGATIVES
        ]
        generator = random.Random(0)
        drawn = [{**row, "neg": generator.sample(passages, NEGATIVES)} for row in kept]
        return {RANDOM: drawn, MINED: kept, DISTILLED: self._taught(kept)}

    def _mined(self, rows: Sequence[Row], passages: Sequence[str], miner: BiEncoderModel, file: str) -> list[Row]:
        place = str(self.options.output / file)
        return list(mine_hard_negatives(rows, passages, miner.eval(), place, seed=0, overwrite=True, **MINING))

    def _taught(self, rows: Sequence[Row]) -> list[Row]:
        """With the language model's scores."""
        scores = Records(self.options.output / "scores.jsonl")
        lm = None if all(scores.known(row) for row in rows) else load_lm()

        def teach(row: Row) -> Row:
            (found,) = add_teacher_scores(lm, [dict(row)])  # type: ignore[arg-type]
            return {"teacher_scores": found["teacher_scores"]}

        return [scores.once(row, lambda row=row: teach(row)) for row in rows]  # type: ignore[misc]


def _other(passages: Sequence[str], row: Row, generator: random.Random) -> str:
    """A passage that is not the row's own."""
    found = row["pos"][0]
    while found in row["pos"]:
        found = generator.choice(passages)
    return found
