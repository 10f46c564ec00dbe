"""The needle test itself: every task is read and answered by every method, and an answer is right or not.

Where several processes run, each answers its share. With an output every answer is kept as soon as it is there.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from transformers import GenerationConfig

from hub_cards.travelling.checks import typed
from modeling_srlm import SelfRetrievalLM
from modeling_srlm.planning_srlm import check_components

from ..data.sources import Row
from .haystack import Haystack
from .settings import ALONE, Cell, NeedleSettings, shown_length
from .tasks import Task, TaskMaker


class NeedleTexts:
    """The texts of a test and their questions: what there is of it before the model's weights.

    Attributes:
        cells: those of the settings that the model can do.
        impossible: {cell: why it cannot be done}.
        tasks: makes the task of a cell.

    Raises ValueError, before a text is read, where nothing can be done; for texts that are too short; and for a length
    without room for the needles.
    """

    def __init__(self, config: Any, tokenizer: Any, texts: Iterable[str], settings: NeedleSettings):
        reasons = {cell: _why_not(cell, config.text_config) for cell in settings.cells()}
        self.impossible = {cell: reason for cell, reason in reasons.items() if reason is not None}
        self.cells = [cell for cell, reason in reasons.items() if reason is None]
        if not self.cells:
            cell, reason = next(iter(self.impossible.items()))
            raise ValueError(
                f"--lengths {shown_length(cell.length)} is {reason}: give a shorter one, or --methods with a window."
            )
        chat = tokenizer.chat_template is not None and not settings.plain_prompt
        haystack = Haystack.of(texts, tokenizer, max(cell.length for cell in self.cells))
        shared = settings.depths if settings.one_text else ()
        bos = config.bos_id if config.add_bos else None
        self.tasks = TaskMaker(haystack, tokenizer, chat, settings.max_new_tokens, settings.seed, shared, bos)
        most = max(cell.keys for cell in self.cells)
        for length in settings.sizes:
            self.tasks.make(Cell("", length, settings.depths[0], most), 0)  # says what has no room


def _why_not(cell: Cell, config: Any) -> str | None:
    positions = getattr(config, "max_position_embeddings", None)  # families without a limit name none
    if cell.method == ALONE and positions is not None and cell.length > positions:
        return f"longer than the {positions:,} positions of the model alone"
    return None


class NeedleTest:
    """A model before texts of the settings' lengths.

    Args:
        texts: what the long texts are made of, or these as they are made already.

    Attributes:
        cells, impossible, tasks: as [`NeedleTexts`] has them.

    Raises ValueError, before a text is read, for a method whose retriever is missing; and as `NeedleTexts` does.
    """

    def __init__(self, model: SelfRetrievalLM, texts: Iterable[str] | NeedleTexts, settings: NeedleSettings):
        self.model, self.settings = typed("model", model, SelfRetrievalLM).eval(), settings
        _check_methods(model, settings.methods)
        made = texts if isinstance(texts, NeedleTexts) else NeedleTexts(model.config, model.tokenizer, texts, settings)
        self.cells, self.impossible, self.tasks = made.cells, made.impossible, made.tasks

    @property
    def of_one_text(self) -> int:
        """So many tasks, one behind the other, have the same text."""
        return len(self.settings.depths) if self.settings.one_text else 1

    def work(self) -> list[tuple[Cell, int]]:
        """Cells with the numbers of their tasks, in the order in which they are answered: of one text together."""
        samples = range(self.settings.samples)
        if not self.settings.one_text:
            return [(cell, sample) for cell in self.cells for sample in samples]
        depths = self.settings.depths
        texts = [(cell, sample) for cell in self.cells if cell.depth == depths[0] for sample in samples]
        return [(cell._replace(depth=depth), sample) for cell, sample in texts for depth in depths]

    def tokens_read(self, cell: Cell) -> int:
        """About how many tokens the language model reads for an answer, which is what takes time."""
        config = self.model.config
        if cell.method == ALONE:
            return cell.length
        if getattr(config, "reuse_states", False):
            return cell.length // self.of_one_text
        read = min(cell.length, config.context_window_size + config.key_num * config.value_size)
        return read + cell.length * (cell.method == "self")

    @torch.no_grad()
    def answer(self, cell: Cell, sample: int) -> Row:
        """What the model says to one task.

        Returns cell and sample with `key`, `value`, the `answer`, whether that is `correct` (has the value in it, as
        RULER counts: also in a longer number), and `seen`: whether the needle stood before the model as a whole when
        it began to answer, None where that is not known.
        """
        task = self.tasks.make(cell, sample)
        ids = task.prompt[None].to(self.model.device)
        if cell.method == ALONE:
            new = self._generate(self.model.language_model, ids)
            seen: bool | None = True
        else:
            configured = self.model.config.retrieval_method
            self.model.config.retrieval_method = cell.method
            try:
                new = self._generate(self.model, ids)
            finally:
                self.model.config.retrieval_method = configured
            seen = stood_there(new.past_key_values, task, self.model.config.chunk_size)
        answer = self.model.tokenizer.decode(new.sequences[0, ids.shape[1] :], skip_special_tokens=True)
        return {
            **cell._asdict(), "sample": sample, "key": task.key, "value": task.value, "answer": answer,
            "correct": task.value in answer, "seen": seen, "prompt": digest_of(task),
        }  # fmt: skip

    def _generate(self, model: Any, ids: torch.Tensor) -> Any:
        """The likeliest token each time, whatever the model's repo says of its answers."""
        own = self.model.generation_config
        ends, padding = own.eos_token_id, own.pad_token_id
        if padding is None:  # of a single row there is none, and transformers says so each time
            padding = ends[0] if isinstance(ends, list) else ends
        asked = GenerationConfig(
            max_new_tokens=self.settings.max_new_tokens, bos_token_id=own.bos_token_id, eos_token_id=ends,
            pad_token_id=padding, return_dict_in_generate=True,
        )  # fmt: skip
        configured, model.generation_config = model.generation_config, asked  # from which generate fills in the rest
        try:
            return model.generate(ids, attention_mask=torch.ones_like(ids))
        finally:
            model.generation_config = configured


def _check_methods(model: SelfRetrievalLM, methods: Iterable[str]) -> None:
    configured = model.config.retrieval_method
    try:
        for method in methods:
            if method != ALONE:
                model.config.retrieval_method = method
                check_components(model)
    finally:
        model.config.retrieval_method = configured


def stood_there(state: Any, task: Task, chunk_size: int) -> bool | None:
    """Whether the whole needle is in the window or the values with which an answer began; None where no one says.

    Args:
        state: the cache that `SelfRetrievalLM.generate` returned, of one row.
    """
    inputs = getattr(state, "inputs", None)
    if not inputs:
        return None
    keys, window = inputs[0]
    start, end = task.needle
    padding = -len(task.prompt) % chunk_size
    values = {chunk for key in keys for chunk in (key, key + 1)}
    return all(place >= window or (place + padding) // chunk_size in values for place in range(start, end))


def digest_of(task: Task) -> str:
    """What another prompt does not have."""
    return hashlib.sha256(task.prompt.numpy().tobytes()).hexdigest()[:16]
