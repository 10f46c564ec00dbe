"""Documents that go through the language model once, with `reuse_states`: a loss, or all logits."""

from collections.abc import Callable, Iterator

import torch

from .assembly_srlm import ModelInput
from .chunking_srlm import Document, on_own_grid, split_rows
from .output_srlm import Row
from .planning_srlm import Plan
from .retrieval_srlm import arrange
from .selection_srlm import KeySelector, StateSelector, make_selector
from .stream_srlm import Stream


class StreamedRow(Row):
    """A document on the grid that begins with its first token, and what its targets retrieve.

    `length`: its tokens, without those that fill its last chunk. `shift`: 1 where the row begins with the BOS token
    that stands before every text, and that is no part of the document then. `prompt`: of a row that was generated, the
    tokens of its prompt, whose end asked for what the chunk that it stands in retrieves.
    """

    def __init__(self, plan: Plan, number: int, document: Document, prompt: int | None = None):
        bos = plan.layout.bos
        self.shift = int(
            bos is not None and len(document.tokens) > 0 and bool(document.tokens[0] == bos.to(document.tokens))
        )
        self.prompt = None if prompt is None or not plan.has_queries else prompt - self.shift
        cut = document._replace(tokens=document.tokens[self.shift :], labels=document.labels[self.shift :])
        self.number, self.length = number, len(cut.tokens)
        size = plan.config.chunk_size
        filled = on_own_grid(cut)
        self.scored = (cut.labels != -100).nonzero().flatten()
        if not self.shift:
            self.scored = self.scored[self.scored > 0]  # nothing of the document predicts its first token
        self.passes = -(-(self.length - 1) // size) if self.length > 1 else self.length * self.shift
        count = len(filled.tokens) // size
        labelled = (cut.labels != -100).nonzero().flatten()
        first = int(labelled[0]) // size if len(labelled) else count
        super().__init__(filled, [plan.stream_block(target) for target in range(first, count)], plan.config.key_num)
        self.first_target = first
        self.bounds = torch.searchsorted(
            self.scored.cpu(), torch.arange(self.passes + 1) * size + 1, right=False
        ).tolist()
        if self.bounds:
            self.bounds[0] = 0  # the BOS token predicts the document's first one

    def predicted(self, chunk: int) -> torch.Tensor:
        """Indices of the scored tokens that the tokens of a chunk predict."""
        return self.scored[self.bounds[chunk] : self.bounds[chunk + 1]]

    def question(self, chunk: int) -> torch.Tensor | None:
        """The prompt's last tokens, as many as a chunk has, if it ends in this one."""
        size = self.document.chunk_size
        if self.prompt is None or (self.prompt - 1) // size != chunk:
            return None
        return self.document.tokens[max(self.prompt - size, 0) : self.prompt]


Watch = Callable[[Stream, int], None]


def run_reusing(
    plan: Plan, rows: list[StreamedRow], watch: Watch | None = None, settle: Callable[[], None] | None = None
) -> Iterator[tuple[ModelInput, torch.Tensor]]:
    """Each row's scored tokens with their logits (m, V), chunk by chunk; rows of similar length share passes.

    Where a gradient can be taken it goes through the block that the tokens lie in.

    Args:
        watch: called with (stream, chunk) before a chunk is read, when all is there that it attends to.
        settle: called before a block begins: nothing that comes has a gradient by what was yielded before.
    """
    order = sorted((row for row in rows if row.passes), key=lambda row: -row.passes)
    for start in range(0, len(order), plan.config.chunk_batch_size):
        yield from _run_together(plan, order[start : start + plan.config.chunk_batch_size], watch, settle)


def streamed_rows(
    plan: Plan,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    prompt_length: int | None,
) -> list[StreamedRow]:
    """The rows of (B, L) tensors; `prompt_length`: of rows that were generated, the columns of their prompts."""
    documents = split_rows(input_ids, attention_mask, labels, plan.config.chunk_size)
    prompts: list[int | None] = [prompt_length] * len(documents)
    if prompt_length is not None and attention_mask is not None:
        prompts = attention_mask[:, :prompt_length].bool().sum(dim=1).tolist()
    return [StreamedRow(plan, *row) for row in zip(range(len(documents)), documents, prompts, strict=True)]


def _run_together(
    plan: Plan, rows: list[StreamedRow], watch: Watch | None, settle: Callable[[], None] | None
) -> Iterator[tuple[ModelInput, torch.Tensor]]:
    """Rows, the longest first, of which each leaves the batch where it ends."""
    keeps = watch is not None or plan.config.retrieval_method != "no"
    stream = Stream(plan, [row.document.tokens for row in rows], keeps)
    selectors = [_selector(plan, row) for row in rows]
    size, states = plan.config.chunk_size, isinstance(selectors[0], StateSelector)
    block = plan.target_size // size
    for chunk in range(rows[0].passes):
        if chunk % block == 0:
            if settle is not None:
                settle()
            stream.attended.begin_block(_takes_gradient(plan, rows, chunk, chunk + block))
        active = [row for row in rows if row.passes > chunk]
        stream.attended.rows, places = len(active), range(len(active))
        stream.begin(places, [_select(plan, *pair, chunk) for pair in zip(active, selectors, strict=False)])
        asking = [place for place in places if states and chunk and active[place].question(chunk) is not None]
        if watch is not None:
            watch(stream, chunk)
        ids = torch.stack([row.document.chunks(chunk, chunk + 1) for row in active])
        before = 0
        if chunk == 0 and stream.head is not None:
            ids, before = torch.cat([stream.head.to(ids).expand(len(ids), 1), ids], dim=1), 1
        targets = [row.predicted(chunk) for row in active]
        columns = [target - chunk * size - 1 + before for target in targets]
        kept = torch.unique(torch.cat(columns))
        if asking:  # by states that have to be read first
            with torch.no_grad():
                _, hidden = stream.read(ids, 1, states)
            _ask(plan, stream, asking, active, selectors, hidden)
        logits, hidden = stream.read(ids, kept if len(kept) else 1, states)
        for place, (row, scored, column) in enumerate(zip(active, targets, columns, strict=True)):
            if hidden is not None:
                selectors[place].learn(hidden[place, before:])  # type: ignore[attr-defined]
            if len(scored):
                own = logits[place] if len(column) == len(kept) else logits[place, torch.searchsorted(kept, column)]
                yield ModelInput(row.number, ids[place], column, scored), own
        stream.end(places)


def _takes_gradient(plan: Plan, rows: list[StreamedRow], start: int, end: int) -> bool:
    """Whether the chunks start..end-1 predict a scored token of a row, and a gradient is wanted."""
    if not torch.is_grad_enabled() or not any(weight.requires_grad for weight in plan.language_model.parameters()):
        return False
    return any(row.bounds[min(end, row.passes)] > row.bounds[min(start, row.passes)] for row in rows)


def _selector(plan: Plan, row: StreamedRow) -> KeySelector:
    selector = make_selector(plan)
    if plan.config.retrieval_method != "no":
        selector.prepare(row.document, [plan.stream_block(target) for target in range(1, row.passes)])
    return selector


def _ask(
    plan: Plan,
    stream: Stream,
    places: list[int],
    rows: list[StreamedRow],
    selectors: list[KeySelector],
    hidden: torch.Tensor,
) -> None:
    """Takes the chunk that was just read back, so that it is read again behind what the prompts' ends ask for."""
    size = plan.config.chunk_size
    chunk = stream.rows[0].complete
    stream.take_back(size)
    retrieved = []
    for place in places:
        states = hidden[place, : (rows[place].prompt or 0) - chunk * size]
        query = selectors[place].mean_with(states)  # type: ignore[attr-defined]
        retrieved.append(_select(plan, rows[place], selectors[place], chunk, query))
    stream.begin(places, retrieved)


def _select(
    plan: Plan, row: StreamedRow, selector: KeySelector, chunk: int, query: torch.Tensor | None = None
) -> tuple[int, ...]:
    """The keys whose values a row's chunk attends to, in their order."""
    block = plan.stream_block(chunk)
    if not block.num_keys or plan.config.retrieval_method == "no":
        return ()
    if query is None and not isinstance(selector, StateSelector):
        query = row.question(chunk)
    indices, scores = selector.select(block, [chunk], query)
    if chunk >= row.first_target:
        row.keep_selection(block, indices, scores)
    return arrange(indices[0].tolist(), plan.config.order_method)
