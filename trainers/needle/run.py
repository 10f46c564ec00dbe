"""A needle test from beginning to end: by one process or several, with a file that is gone on with, or in memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from hub_cards.travelling.checks import check_bool, typed
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.configuration_srlm import RETRIEVER_METHODS

from ..data.sources import Row
from ..jobs.parts import PartFiles, check_output, differing
from ..jobs.processes import on_main_process, place, shared
from ..models.identity import retriever_settings, srlm_settings
from .haystack import read_texts
from .measure import NeedleTest, digest_of
from .results import NeedleResults, cell_of, read_results
from .settings import Cell, NeedleSettings, shown_length

Work = tuple[Cell, int]  # a cell, and the number of the sample


def needle_test(
    model: SelfRetrievalLM,
    texts: Iterable[str] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
    **settings: Any,
) -> NeedleResults:
    """Hides numbers in long texts, asks for them, and counts the right answers by length, depth and way of reading.

    Args:
        model: on its device. Its `retrieval_method` is that of the method for the time, its other settings hold.
        texts: what the long texts are made of, in order; default: the standard library's code. They must hold as many
            tokens as the longest text.
        output: a .json file that keeps every answer as it comes. What it holds of the same settings is not computed
            again, and stays; an interrupted test goes on.
        settings: fields of [`NeedleSettings`]: lengths, depths, keys, one_text, samples, methods, max_new_tokens,
            plain_prompt, seed.

    Raises ValueError or TypeError for what does not fit, before the model answers.
    """
    checked = NeedleSettings(**settings)
    for name, value in {"overwrite": overwrite, "show_progress": show_progress}.items():
        check_bool(name, value)
    if typed("output", output, str | Path | None) is not None:
        check_output(str(output), ".json")
    test = NeedleTest(model, read_texts(None, checked.seed) if texts is None else texts, checked)
    return run_test(test, output, overwrite, show_progress)


def run_test(
    test: NeedleTest,
    output: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
    about: dict[str, Any] | None = None,
) -> NeedleResults:
    """The test's results, on every process; those that are in `output` from before among them.

    Args:
        about: names of model and data, for the file.
    """
    work, together = test.work(), test.of_one_text
    if output is None:
        results = NeedleResults(answer_settings(test), impossible=test.impossible, about=about or {})
        one = _Progress(test, work, show_progress).of
        by_text = [work[start : start + together] for start in range(0, len(work), together)]
        results.answers = [row for rows in shared(by_text, lambda text: [*map(one, text)]) for row in rows]
        return results
    state = PartialState()
    parts = PartFiles(output)
    known, done = on_main_process(state, lambda: _start(test, parts, work, overwrite))
    left = [group for group, one in enumerate(work) if group not in done and one not in known]
    progress = _Progress(test, [work[group] for group in left], show_progress)
    texts = list(dict.fromkeys(group // together for group in left))[state.process_index :: state.num_processes]
    for group in [group for group in left if group // together in texts]:
        parts.append(state.process_index, group, [progress.of(work[group])])
    state.wait_for_everyone()
    groups = [group for group, one in enumerate(work) if one not in known]
    on_main_process(state, lambda: _finish(test, parts, groups, about or {}))
    return read_results(output)


def answer_settings(test: NeedleTest) -> dict[str, Any]:
    """Whatever an answer depends on beside its cell, its number and the texts."""
    of_model = srlm_settings(test.model)
    del of_model["retrieval_method"], of_model["chunk_batch_size"]  # each cell's own; of speed alone
    retriever: Any = test.model.retriever
    if hasattr(retriever, "parameters") and not {*RETRIEVER_METHODS}.isdisjoint(test.settings.methods):
        of_model |= retriever_settings(retriever)
    asked = test.settings  # a model's settings have a seed, too
    ours = {"max_new_tokens": asked.max_new_tokens, "plain_prompt": asked.plain_prompt, "seed of the test": asked.seed}
    one_text = {"one_text": True, "depths": asked.depths} if asked.one_text else {}
    return {**ours, **one_text, **of_model}


def _start(test: NeedleTest, parts: PartFiles, work: list[Work], overwrite: bool) -> tuple[set[Work], set[int]]:
    """What an earlier test's output holds of the work, and the groups that an interrupted one did."""
    settings = answer_settings(test)
    known: set[Work] = set()
    if overwrite:
        parts.output.unlink(missing_ok=True)  # else it would be in the way of going on with this test
    if parts.output.exists():
        before = read_results(parts.output)
        if differences := differing(before.settings, settings):
            raise ValueError(
                f"{parts.output} holds a test of another kind: {differences}. Name another output, or give "
                "--overwrite."
            )
        digests = {(cell_of(row), row["sample"]): row["prompt"] for row in before.answers}
        known = set(work) & set(digests)
        asked = known | _of_each_length(digests, _longest(work))
        same = all(digest_of(test.tasks.make(*one)) == digests[one] for one in asked)
        if not same or before.texts != _texts(test, before.texts.get("length")):
            raise ValueError(
                f"{parts.output} holds answers about other texts: name another output, or give --overwrite."
            )
    grid = {name: getattr(test.settings, name) for name in ("lengths", "depths", "keys", "methods", "samples")}
    texts = {
        "sha256 of a prompt": digest_of(test.tasks.make(*work[-1])),
        "sha256 of the texts": test.tasks.haystack.digest(_longest(work)),
    }
    return known, parts.open({**grid, **settings, **texts}, overwrite, extends=True)


def _longest(work: list[Work]) -> int:
    return max(cell.length for cell, _ in work)


def _texts(test: NeedleTest, length: int | None) -> dict[str, Any]:
    """See `NeedleResults`."""
    return {} if length is None else {"length": length, "sha256": test.tasks.haystack.digest(length)}


def _of_each_length(done: Iterable[Work], longest: int) -> set[Work]:
    """One of the answers of each length for which the texts were read, and of the shortest in any case."""
    one = {cell.length: (cell, sample) for cell, sample in done}
    return {work for length, work in one.items() if length <= max(longest, min(one))}


def _finish(test: NeedleTest, parts: PartFiles, groups: list[int], about: dict[str, Any]) -> None:
    """Adds the answers to those that the output holds."""
    there = parts.output.exists()
    results = read_results(parts.output) if there else NeedleResults(answer_settings(test))
    rows: dict[Work, Row] = {(cell_of(row), row["sample"]): row for row in results.answers}
    rows |= {(cell_of(row), row["sample"]): row for row in parts.rows(groups)}
    results.answers = list(rows.values())
    results.settings |= answer_settings(test)
    results.impossible |= test.impossible
    results.about = about
    results.texts = _texts(test, max(results.texts.get("length", 0), _longest(test.work())))
    results.write(parts.output)
    parts.remove()


class _Progress:
    """A bar over the tokens that the language model reads."""

    def __init__(self, test: NeedleTest, work: list[Work], shown: bool):
        self.test, total = test, sum(test.tokens_read(cell) for cell, _ in work)
        hidden = not shown or place()[0] > 0
        self.bar = tqdm(total=total, desc="Needles", unit="token", unit_scale=True, disable=hidden)

    def of(self, one: Work) -> Row:
        """The answer to a task."""
        cell, sample = one
        self.bar.set_postfix_str(f"{cell.method}, {shown_length(cell.length)}")
        row = self.test.answer(cell, sample)
        read = self.test.tokens_read(cell) * place()[1]  # the others do as much meanwhile
        self.bar.update(min(read, self.bar.total - self.bar.n))
        return row
