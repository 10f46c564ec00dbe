"""Hard negatives for rows of query and positives: passages that a retriever ranks high and that are not positives."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from hub_cards.travelling.checks import check_bool, typed
from modeling_biencoder import BiEncoderModel

from ..data.faithful import faithful_rows, load_faithful_rows
from ..data.sources import Row, RowSource
from ..jobs.parts import PartFiles
from ..jobs.processes import on_main_process, start_processes
from ..models.identity import encoding_settings
from ..models.kind import LateModel
from ..models.load import load_biencoder
from ..retrieval.embeddings import EmbeddingFiles, check_embeddings, check_encoder
from .corpus import Corpus, CorpusSource, corpus_of_rows, load_corpus
from .retrievers import BM25Retriever, DenseRetriever, FusedRetriever, Retriever
from .rows import QueryRows, RowMiner
from .settings import MiningSettings


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
    miner = RowMiner(table, passages, build_retriever(checked, passages, loaded, None, show_progress), checked)
    groups = tqdm(range(_num_groups(table, checked)), desc="Mining", unit="group", disable=not show_progress)
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
) -> Mined:
    """`mine_hard_negatives` into a file: every process calls it, its model on its device; an interrupted run goes on
    where it was.

    The file does not depend on either, to the last digit where every process has as many threads.

    Args:
        model: or a function that gives it, called when all data were read.
    """
    settings.check_model(model is not None)
    if model is not None and not isinstance(model, LateModel):
        model.encode([], task=settings.task)  # an unknown task is an error now
    state = start_processes()
    show = show_progress and state.is_main_process
    table, passages = _read(faithful_rows(rows), corpus, settings, show)
    loaded: Any = model() if isinstance(model, LateModel) else model
    parts, groups = PartFiles(output), _num_groups(table, settings)
    run = _run_settings(settings, table, passages, loaded)
    done = on_main_process(state, lambda: parts.open(run, overwrite))
    if left := [group for group in range(groups) if group not in done]:
        retriever = build_retriever(settings, passages, loaded, parts.folder, show, state)
        miner = RowMiner(table, passages, retriever, settings)
        share = left[state.process_index :: state.num_processes]
        for group in tqdm(share, desc=f"Mining, process 1 of {state.num_processes}", unit="group", disable=not show):
            parts.append(state.process_index, group, miner.mine(group))
    state.wait_for_everyone()
    count = on_main_process(state, lambda: parts.join(groups))
    short, empty = on_main_process(state, lambda: _count_short(output, settings.num_negatives))
    return Mined(count, short, len(table) - count + empty, groups, len(done))


def build_retriever(
    settings: MiningSettings,
    corpus: Corpus,
    model: BiEncoderModel | None,
    folder: Path | None = None,
    show_progress: bool = False,
    state: PartialState | None = None,
) -> Retriever:
    """The retriever of the settings. `folder` keeps the corpus's embeddings, which the processes then share."""
    if model is None:
        return BM25Retriever(corpus, show_progress)
    embeddings = _embed(settings, corpus, model, folder, show_progress, state)
    dense = DenseRetriever(model, corpus, embeddings, settings.index, settings.task, settings.batch_size)
    return dense if settings.retriever == "dense" else FusedRetriever(BM25Retriever(corpus, show_progress), dense)


def _embed(
    settings: MiningSettings,
    corpus: Corpus,
    model: BiEncoderModel,
    folder: Path | None,
    show_progress: bool,
    state: PartialState | None,
) -> torch.Tensor:
    if folder is None or state is None:
        found = model.encode(
            corpus.texts, "passage", settings.task, batch_size=settings.batch_size, show_progress=show_progress
        )
        return check_embeddings(found, len(corpus))
    files = EmbeddingFiles(folder, corpus.texts, settings.batch_size)
    files.fill(model, settings.task, state.process_index, state.num_processes)
    state.wait_for_everyone()
    return files.load(model.config.hidden_size)


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


def _num_groups(rows: QueryRows, settings: MiningSettings) -> int:
    return -(-len(rows) // settings.block_size)


def _run_settings(
    settings: MiningSettings, rows: QueryRows, corpus: Corpus, model: BiEncoderModel | None
) -> dict[str, Any]:
    """Whatever the negatives depend on: an interrupted run goes on only if all of it is as it was."""
    digests = {"sha256 of the data": rows.digest, "sha256 of the corpus": corpus.digest}
    if model is not None:
        digests |= encoding_settings(model)
    # Every index finds the same.
    asked = {name: value for name, value in dataclasses.asdict(settings).items() if name != "index"}
    return {**asked, **digests}


def _count_short(output: str | Path, asked: int) -> tuple[int, int]:
    """(rows with some but fewer negatives than asked, rows without any) of a written file."""
    with Path(output).open(encoding="utf-8") as lines:
        counts = [len(json.loads(line)["neg"]) for line in lines]
    return sum(0 < count < asked for count in counts), sum(count == 0 for count in counts)
