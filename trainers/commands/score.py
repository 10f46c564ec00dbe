"""`lookback score`: a language model's own feedback, as `teacher_scores` of training rows for the bi-encoder, or a
teacher's: a cross-encoder or another bi-encoder (`--teacher`).

Query rows: how likely is the answer behind each candidate and the query? Documents (`--task document`): how likely is
each chunk when an earlier one is looked back at? Several processes share the work under `torchrun` or `accelerate
launch`, and an interrupted run goes on where it was, given the same command. The result does not depend on either, to
the last digit where every process has as many threads (OMP_NUM_THREADS).
"""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM

from ..data.documents import document_table
from ..data.faithful import ParsedRows, load_faithful_rows, placed
from ..data.sources import Row, text_field
from ..feedback.candidates import Candidates, check_dense
from ..feedback.documents import (
    DocumentFeedback,
    check_lengths,
    count_document,
    least_tokens,
)
from ..feedback.formats import place_space, read_question
from ..feedback.rows import RowFeedback, check_length
from ..feedback.settings import DOCUMENT, ScoreArguments
from ..feedback.teachers import TeacherFeedback, load_teacher, read_for_teacher
from ..jobs.parts import PartFiles
from ..jobs.processes import on_main_process, start_processes
from ..jobs.shards import Shards
from ..models.components import max_positions
from ..models.identity import retriever_settings, srlm_settings
from ..models.load import load_srlm
from .loading import DtypeArguments, EmbedderArguments, KeptStatesArguments
from .parsing import parse_arguments

Feedback = RowFeedback | DocumentFeedback | TeacherFeedback


# The repo's own target size and limit mean nothing for rows, and might not fit their window: each is read in one pass.
OF_ROWS = {"target_size": None, "store_limit": None, "reuse_states": False}


def load_scorer(
    arguments: ScoreArguments,
    loading: EmbedderArguments,
    kept: KeptStatesArguments,
    precision: DtypeArguments,
    rows: Sequence[Row],
) -> SelfRetrievalLM:
    """The language model in eval mode, its window and batches set for the task; the rows fit it."""
    names = ("context_window_size", "chunk_size", "target_size", "add_bos")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    # Recomputed, nothing is retrieved here: in a document a single key's value comes before the window. Where states
    # are reused, the document is read as always, with the best key of each chunk.
    method = {"retrieval_method": "bm25" if arguments.task == DOCUMENT else "no", "key_num": 1}
    of_task = kept.settings() if arguments.task == DOCUMENT else OF_ROWS
    settings = {**method, "chunk_batch_size": arguments.batch_size, **of_task, **given}
    for name in ("pooling", "preset"):
        if (value := getattr(loading, name)) is not None:
            raise ValueError(f"--{name}={value!r} is for a bi-encoder as --teacher: leave it out, or name one.")
    where = {**loading.places(), **precision.keywords()}
    lm = load_srlm(arguments.model, settings, check=partial(check_fit, arguments, rows), **where)
    set_window(arguments, lm.config)
    return lm.eval()


def set_window(arguments: ScoreArguments, config: SelfRetrievalConfig) -> None:
    """Of rows, the window that is not given, as large as the positions allow."""
    if arguments.task != DOCUMENT and arguments.context_window_size is None:
        # A chunk less than there are positions leaves room for a token put before the input.
        room = min(2048, max_positions(config.text_config) - config.chunk_size)
        config.context_window_size = room // config.chunk_size * config.chunk_size
    config.check()


def check_fit(arguments: ScoreArguments, rows: Sequence[Row], config: SelfRetrievalConfig, tokenizer: Any) -> None:
    """ValueError, before weights are read, for a row that the window cannot hold, and for documents too short.

    Without a tokenizer, as that comes with the weights, for a `document_length` alone.
    """
    set_window(arguments, config)
    if arguments.task == DOCUMENT:
        check_dense(candidates_of(arguments), config.retriever_config is not None)
        counts = (count_document(row, number, tokenizer) for number, row in enumerate(rows))
        check_lengths(config, arguments.document_length, counts if tokenizer else [least_tokens(config)])
        return
    for number in range(len(rows)) if tokenizer else ():
        with placed(rows):
            question = read_question(rows[number], number, arguments.task, arguments.target, arguments.seed)
            check_length(place_space(question, tokenizer), number, tokenizer, config.context_window_size)


def read_data(arguments: ScoreArguments) -> Sequence[Row]:
    """The rows or documents; ValueError, with the row, for one that no model could score."""
    if arguments.task == DOCUMENT:
        documents = ParsedRows(document_table(arguments.data))
        for number in range(len(documents)):
            with placed(documents):
                text_field(documents[number], "text", number)
        return documents
    rows = load_faithful_rows(arguments.data)
    for number in range(len(rows)):
        with placed(rows):
            if arguments.teacher is None:
                read_question(rows[number], number, arguments.task, arguments.target, arguments.seed)
            else:
                read_for_teacher(rows[number], number)
    return rows


def candidates_of(arguments: ScoreArguments) -> Candidates | None:
    """Keys of documents that are tried; None for all."""
    if arguments.candidates == "all":
        return None
    return Candidates(arguments.bm25_candidates, arguments.random_candidates, arguments.dense_candidates)


def make_feedback(
    arguments: ScoreArguments, rows: Sequence[Row], lm: SelfRetrievalLM, show_progress: bool
) -> RowFeedback | DocumentFeedback:
    """The task of the arguments, its data checked."""
    mean, seed = arguments.score == "mean", arguments.seed
    if arguments.task == DOCUMENT:
        return DocumentFeedback(
            lm, rows, arguments.cuts, arguments.document_length, candidates_of(arguments), mean, seed, show_progress
        )
    return RowFeedback(lm, rows, arguments.task, arguments.target, mean, seed, show_progress)


def run_settings(arguments: ScoreArguments, revision: str | None, feedback: Feedback) -> dict[str, Any]:
    """Whatever the scores depend on: an interrupted run goes on only if all of it is as it was."""
    left_out = {"data", "output", "overwrite"}
    asked = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in left_out}
    of_model = _settings_of_model(feedback)
    return {**asked, "revision": revision, **of_model, "sha256 of the data": feedback.digest}


def _settings_of_model(feedback: Feedback) -> dict[str, Any]:
    if isinstance(feedback, TeacherFeedback):
        return feedback.teacher.settings()
    settings = srlm_settings(feedback.lm)
    if isinstance(feedback, DocumentFeedback) and feedback.candidates is not None and feedback.candidates.dense:
        settings |= retriever_settings(feedback.lm.retriever)
    return settings


def start_feedback(
    arguments: ScoreArguments,
    loading: EmbedderArguments,
    kept: KeptStatesArguments,
    precision: DtypeArguments,
    state: PartialState,
) -> Feedback:
    """The feedback of the arguments, its model on the process's device, its data checked."""
    check_kept(arguments, kept)
    rows = read_data(arguments)
    if arguments.teacher is None:
        lm = load_scorer(arguments, loading, kept, precision, rows).to(state.device)
        return make_feedback(arguments, rows, lm, state.is_main_process)
    where = {**loading.keywords(), **precision.keywords()}
    teacher = load_teacher(arguments.teacher, arguments.batch_size, state.device, **where)
    return TeacherFeedback(teacher, rows, state.is_main_process)


def check_kept(arguments: ScoreArguments, kept: KeptStatesArguments) -> None:
    """ValueError for a setting of kept states where no document streams by."""
    for name, value in kept.settings().items():
        if arguments.task != DOCUMENT or arguments.teacher is not None:
            raise ValueError(
                f"--{name}={value!r} is for --task {DOCUMENT} and the language model's own feedback, as rows are read "
                "in one pass each: leave it out."
            )


ARGUMENTS = (ScoreArguments, EmbedderArguments, DtypeArguments, KeptStatesArguments)
EXAMPLES = r"""
# query rows with passages and answers
lookback score --task qa --data rows.jsonl --output scored.jsonl
# documents: rows are made from them
lookback score --task document --data folder --model runs/srlm --output scored.jsonl
# by a cross-encoder; the same line on any number of machines that see the folder
lookback score --teacher runs/reranker --data rows.jsonl --output /shared/scored.jsonl --num_shards 64
"""


def main(argv: list[str]) -> None:
    """Scores, writes the rows and prints how many there are."""
    arguments, loading, precision, kept = parse_arguments(argv, ARGUMENTS, "score", __doc__)
    state = start_processes()
    feedback = start_feedback(arguments, loading, kept, precision, state)
    settings = run_settings(arguments, loading.revision, feedback)
    began = time.perf_counter()
    write = write_shared if arguments.num_shards is None else write_sharded
    count, resumed = write(arguments, settings, feedback, state)
    if state.is_main_process:
        print(f"{count:,} rows in {arguments.output}, {time.perf_counter() - began:.1f} s of scoring{resumed}")


def write_shared(
    arguments: ScoreArguments, settings: dict[str, Any], feedback: Feedback, state: PartialState
) -> tuple[int, str]:
    """The rows are scored by the processes of one launcher, and written; their number, and what was there before."""
    parts = PartFiles(arguments.output)
    done = on_main_process(state, lambda: parts.open(settings, arguments.overwrite))
    left = [group for group in range(feedback.num_groups) if group not in done]
    score_share(state, feedback, parts, left)
    state.wait_for_everyone()
    count = on_main_process(state, lambda: parts.join(feedback.num_groups))
    return count, f", {len(done)} of {feedback.num_groups} groups by an earlier run" if done else ""


def write_sharded(
    arguments: ScoreArguments, settings: dict[str, Any], feedback: Feedback, state: PartialState
) -> tuple[int, str]:
    """The same by all who started this command."""
    shards = Shards(arguments.output, int(arguments.num_shards or 0))
    shards.check(feedback.num_groups)
    shards.open(settings)
    count = shards.write_rows(feedback.num_groups, feedback.score, "Scoring" if state.is_main_process else None)
    shards.remove()
    return count, ""


def score_share(state: PartialState, feedback: Feedback, parts: PartFiles, groups: list[int]) -> None:
    """Scores this process's share of the groups, each written as soon as it is done."""
    share = groups[state.process_index :: state.num_processes]
    description = f"Scoring, process 1 of {state.num_processes}"
    for group in tqdm(share, desc=description, unit="group", disable=not state.is_main_process):
        parts.append(state.process_index, group, feedback.score(group))
