"""The language model's feedback on retrieval: how likely is each target chunk under each single candidate key?

Recomputed, each candidate is read before the window, once for all targets of a block. With `reuse_states` the text
streams by once, and at each target chunk the target alone is read, once for each candidate, behind states that are
there: those of the candidate's value and of the window.
"""

from collections.abc import Sequence

import torch

from .attended_srlm import AttendedStates
from .chunking_srlm import Block, Document, split_rows
from .inputs_srlm import check_candidates
from .oracle_srlm import score_keys
from .planning_srlm import Plan
from .reuse_srlm import StreamedRow, run_reusing
from .scoring_srlm import evaluating, token_losses
from .stream_srlm import Stream, read_behind


def score_candidates(
    plan: Plan,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    candidates: torch.Tensor | None,
) -> torch.Tensor:
    """(B, n_target, n_candidate) as `SelfRetrievalLM.score_candidates` describes them; the tensors are checked."""
    documents = split_rows(input_ids, attention_mask, labels, plan.config.chunk_size)
    check_candidates(candidates, len(documents))
    score = _score_streamed if plan.config.reuse_states else _score_document
    rows = [
        score(plan, document, None if candidates is None else candidates[number].tolist())
        for number, document in enumerate(documents)
    ]
    height, width = (max(row.shape[axis] for row in rows) for axis in (0, 1))
    result = torch.full((len(rows), height, width), float("-inf"))
    for number, row in enumerate(rows):
        result[number, : row.shape[0], : row.shape[1]] = row
    return result


def _score_document(plan: Plan, document: Document, candidates: list[int] | None) -> torch.Tensor:
    blocks = plan.cut(document)
    columns = _columns(blocks, candidates)
    scores = [_score_block(plan, document, block, columns) for block in blocks]
    return torch.cat(scores) if scores else torch.empty(0, len(columns))


def _columns(blocks: Sequence[Block], candidates: list[int] | None) -> list[int]:
    return list(range(max((block.num_keys for block in blocks), default=0))) if candidates is None else candidates


def _known(block: Block, columns: list[int]) -> torch.Tensor:
    """Which of the candidates are keys of a block."""
    return torch.tensor([0 <= key < block.num_keys for key in columns], dtype=torch.bool)


def _score_block(plan: Plan, document: Document, block: Block, columns: list[int]) -> torch.Tensor:
    known = _known(block, columns)
    keys = [key for key in columns if 0 <= key < block.num_keys]
    scores = torch.full((len(block.targets), len(columns)), float("-inf"))
    scores[:, known] = score_keys(plan, document, block, keys)
    return scores


def _score_streamed(plan: Plan, document: Document, candidates: list[int] | None) -> torch.Tensor:
    """The same where states are reused. A target's first token is predicted before the target begins, so that its
    likelihood is that of the stream, whatever the candidate."""
    row = StreamedRow(plan, 0, document)
    columns = _columns(row.blocks, candidates)
    scores = torch.full((len(row.blocks), len(columns)), float("-inf"))
    for block, own in zip(row.blocks, scores, strict=True):
        own[_known(block, columns)] = 0
    tried = _TriedCandidates(plan, row, columns, scores)
    with evaluating(plan.language_model):
        for item, logits in run_reusing(plan, [row], tried.try_before):
            first = item.targets % plan.config.chunk_size == 0
            losses = token_losses(logits[first], row.document.labels[item.targets[first]])
            for token, loss in zip(item.targets[first].tolist(), losses.tolist(), strict=True):
                scores[token // plan.config.chunk_size - row.first_target] -= loss
    return scores


class _TriedCandidates:
    """The candidates of one text, tried at each of its target chunks while the text streams by.

    Args:
        columns: numbers of chunks. scores: (n_target, n_candidate) to which log-likelihoods are added.
    """

    def __init__(self, plan: Plan, row: StreamedRow, columns: list[int], scores: torch.Tensor):
        self.plan, self.row, self.columns, self.scores = plan, row, columns, scores
        self.behind: _BehindCandidates | None = None

    def try_before(self, stream: Stream, chunk: int) -> None:
        """Tries them at the chunk that the stream is about to read, if it is a target."""
        size, number = self.plan.config.chunk_size, chunk - self.row.first_target
        predicted = self.row.predicted(chunk)
        scored = predicted[predicted < (chunk + 1) * size]
        if number < 0 or not len(scored):
            return
        known = _known(self.row.blocks[number], self.columns).nonzero().flatten()
        if not len(known):
            return
        if self.behind is None:
            self.behind = _BehindCandidates(stream, min(self.plan.config.chunk_batch_size, len(self.columns)))
        for places in known.split(self.plan.config.chunk_batch_size):
            keys = [self.columns[place] for place in places.tolist()]
            self.scores[number, places] += self._likelihoods(self.behind, stream, chunk, keys, scored)

    def _likelihoods(
        self, behind: "_BehindCandidates", stream: Stream, chunk: int, keys: list[int], scored: torch.Tensor
    ) -> torch.Tensor:
        """(n_key,) sums over the tokens of index `scored`, which are all in this chunk."""
        document = self.row.document
        columns = scored - chunk * document.chunk_size - 1
        ids = document.chunks(chunk, chunk + 1)[: int(columns[-1]) + 1].expand(len(keys), -1)
        logits, _ = read_behind(self.plan, behind.attend(stream, keys), ids, columns)
        labels = document.labels[scored]
        return torch.stack([-token_losses(row, labels).sum() for row in logits]).cpu()


class _BehindCandidates:
    """Rows behind one text that streams by, each of which attends to the sinks, one value and the text's window.

    All rows hold the states of the window, in the order of the stream's own columns; of these only those that have
    come since the last time are copied.
    """

    def __init__(self, stream: Stream, rows: int):
        self.lead = stream.sinks + 2 * stream.size  # the most tokens before the window, and columns more than there
        own, window = stream.attended.lead + self.lead, stream.attended.window
        self.attended = AttendedStates(stream.groups, rows, own, window, stream.size)
        self.copied: tuple[tuple[int, int], int] = (0, 0), 0  # where the stream's first token would be; up to where

    def attend(self, stream: Stream, keys: Sequence[int]) -> AttendedStates:
        """A row for each key, about to read what the stream reads next."""
        (row,), source, attended = stream.rows, stream.attended, self.attended
        window = min(row.window, stream.window_beside(1))
        self._copy(source, row.length, window)
        attended.rows, attended.end = len(keys), source.end + self.lead
        attended.starts[: len(keys)] = [attended.end - window] * len(keys)
        attended.positions[: len(keys)] = [source.positions[0]] * len(keys)
        for number, key in enumerate(keys):
            attended.put_before(number, stream.lead_of(row, (key,)))
        return attended

    def _copy(self, source: AttendedStates, length: int, window: int) -> None:
        end = source.end
        place, start = (end - length, end - source.positions[0]), end - window
        if place == self.copied[0]:  # else the window was moved
            start = max(start, self.copied[1])
        for group, theirs in zip(self.attended.memory, source.memory, strict=True):
            for memory, states in zip(group, theirs, strict=True):
                memory[:, :, :, start + self.lead : end + self.lead] = states[:, :1, :, start:end]
        self.copied = place, end
