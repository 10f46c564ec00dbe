"""Hard negatives for rows of query and positives: passages that a retriever ranks high and that are not positives."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from hub_cards.travelling.checks import check_bool, typed
from modeling_biencoder import BiEncoderModel

from ..data.faithful import faithful_rows, load_faithful_rows
from ..data.sources import Row, RowSource
from ..jobs.parts import PartFiles
from ..jobs.processes import on_main_process, start_processes
from ..jobs.shards import Shards
from ..models.identity import dtype_settings, encoding_settings
from ..models.kind import LateModel
from ..models.load import load_biencoder
from ..retrieval.embeddings import check_encoder
from .corpus import Corpus, CorpusSource, corpus_of_rows, load_corpus
from .rows import QueryRows
from .settings import MiningSettings
from .work import MiningWork


class Mined(NamedTuple):
    """What was written: rows, those of them with fewer negatives than asked, rows without any; and resumed groups."""

    rows: int
    short: int
    empty: int
    groups: int
    resumed: int


def mine_hard_negatives(
    rows: RowSource,
    corpus: CorpusSource | None = None,
    model: BiEncoderModel | str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
    **settings: Any,
) -> Sequence[Row]:
    """The rows with hard negatives as `neg`, their other fields kept (scores of old candidates are not).

    Args:
        rows: with `query` and `pos` (see `normalize_row`): a path, a Hub id, a list or a `datasets.Dataset`.
        corpus: where negatives come from (see `load_corpus`); by default all positives and negatives of the rows.
        model: the bi-encoder (on its device), or its Hub id or folder; needed for the retrievers `dense` (the default)
            and `both`.
        output: a .jsonl file to write, through parts that survive an interruption and that several processes share;
            the rows are then read from it. Without it they are made in memory, by this process alone.
        settings: fields of [`MiningSettings`]: retriever, rank_from and rank_to, num_negatives, sampling, seed,
            min_score, max_score, margin, relative_margin, existing, scores, keep_empty, index, task, batch_size,
            block_size.

    A negative is never a positive of an equal query, the query itself, or another of the row's negatives, whatever
    their white space. A row keeps the negatives there are if they are fewer than asked; one without any is left out,
    unless `keep_empty`. Raises ValueError or TypeError for what does not fit, before the search starts.

    >>> rows = [{"query": "blue bird", "pos": ["a bluebird"]}, {"query": "fish", "pos": ["a blue fish"]}]
    >>> mine_hard_negatives(rows, retriever="bm25", rank_from=0, show_progress=False)
    [{'query': 'blue bird', 'pos': ['a bluebird'], 'neg': ['a blue fish']}]
    """
    checked = MiningSettings(**settings)
    checked.check_model(model is not None)
    for name, value in {"overwrite": overwrite, "show_progress": show_progress}.items():
        check_bool(name, value)
    typed("output", output, str | Path | None)
    if model is not None and not isinstance(model, str | Path):
        check_encoder(model)
    late: Any = partial(_load, str(model), checked) if isinstance(model, str | Path) else model
    if output is not None:
        written = mine_to_file(rows, corpus, late, checked, output, overwrite, show_progress)
        return load_faithful_rows(str(output)) if written.rows else []
    table, passages = _read(faithful_rows(rows), corpus, checked, show_progress)
    loaded = late() if isinstance(late, LateModel) else late
    work = MiningWork(table, passages, loaded, checked, None, show_progress)
    miner = work.miner(work.embedded())
    groups = tqdm(range(work.num_groups), desc="Mining", unit="group", disable=not show_progress)
    return [row for group in groups for row in miner.mine(group)]


def _load(source: str, settings: MiningSettings) -> BiEncoderModel:
    loaded: Any = load_biencoder(source, check=settings.check_task)
    return loaded.to(start_processes().device)


def mine_to_file(
    rows: RowSource,
    corpus: CorpusSource | None,
    model: BiEncoderModel | LateModel | None,
    settings: MiningSettings,
    output: str | Path,
    overwrite: bool = False,
    show_progress: bool = True,
    num_shards: int | None = None,
) -> Mined:
    """`mine_hard_negatives` into a file: every process calls it, its model on its device; an interrupted run goes on
    where it was.

    The file does not depend on either, to the last digit where every process has as many threads.

    Args:
        model: or a function that gives it, called when all data were read.
        num_shards: share the work with whoever calls this with the same settings and output: see `jobs.shards`.
    """
    settings.check_model(model is not None)
    if model is not None and not isinstance(model, LateModel):
        model.encode([], task=settings.task)  # an unknown task is an error now
    state = start_processes()
    show = show_progress and state.is_main_process
    table, passages = _read(faithful_rows(rows), corpus, settings, show)
    loaded: Any = model() if isinstance(model, LateModel) else model
    work = MiningWork(table, passages, loaded, settings, state, show)
    run = _run_settings(settings, table, passages, loaded)
    if num_shards is None:
        count, resumed = work.share(PartFiles(output), run, overwrite)
    else:
        count, resumed = work.share_in_shards(Shards(output, num_shards), run), 0
    short, empty = on_main_process(state, lambda: _count_short(output, settings.num_negatives))
    return Mined(count, short, len(table) - count + empty, work.num_groups, resumed)


def _read(
    rows: Sequence[Row], corpus: CorpusSource | None, settings: MiningSettings, show_progress: bool
) -> tuple[QueryRows, Corpus]:
    table = QueryRows(rows, show_progress)
    passages = corpus_of_rows(rows, show_progress) if corpus is None else load_corpus(corpus, show_progress)
    if len(passages) <= settings.rank_from:
        raise ValueError(
            f"The corpus has {len(passages)} different passages, and rank_from={settings.rank_from} skips them all: "
            f"lower rank_from, or give a larger corpus."
        )
    return table, passages


def _run_settings(
    settings: MiningSettings, rows: QueryRows, corpus: Corpus, model: BiEncoderModel | None
) -> dict[str, Any]:
    """Whatever the negatives depend on: an interrupted run goes on only if all of it is as it was."""
    digests = {"sha256 of the data": rows.digest, "sha256 of the corpus": corpus.digest}
    if model is not None:
        digests |= encoding_settings(model) | dtype_settings(model)
    # Every index finds the same.
    asked = {name: value for name, value in dataclasses.asdict(settings).items() if name != "index"}
    return {**asked, **digests}


def _count_short(output: str | Path, asked: int) -> tuple[int, int]:
    """(rows with some but fewer negatives than asked, rows without any) of a written file."""
    with Path(output).open(encoding="utf-8") as lines:
        counts = [len(json.loads(line)["neg"]) for line in lines]
    return sum(0 < count < asked for count in counts), sum(count == 0 for count in counts)
