"""The language model's feedback on retrieval: how likely is each target chunk under each single candidate key?

Recomputed, each candidate is read before the window, once for all targets of a block. With `reuse_states` the text
streams by once, and at each target chunk the target alone is read, once for each candidate, behind states that are
there: those of the candidate's value and of the window. Each target can have candidates of its own: with
`reuse_states` that is cheaper, and recomputed it costs what all of a block's together cost.
"""

from collections.abc import Sequence

import torch

from .attended_srlm import AttendedStates
from .chunking_srlm import Block, split_rows
from .inputs_srlm import check_candidates
from .oracle_srlm import score_keys
from .output_srlm import Row
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
    streams = plan.config.reuse_states
    rows = [StreamedRow(plan, 0, one) if streams else Row(one, plan.cut(one), 0) for one in documents]
    tried = _share_out(candidates, rows)
    scores = torch.full(tried.shape, float("-inf"))
    for row, keys, own in zip(rows, tried, scores, strict=True):
        numbers, into = keys[: len(row.targets)].tolist(), own[: len(row.targets)]
        if isinstance(row, StreamedRow):
            _score_streamed(plan, row, numbers, into)
        else:
            _score_recomputed(plan, row, numbers, into)
    return scores


def _share_out(candidates: torch.Tensor | None, rows: Sequence[Row]) -> torch.Tensor:
    """(B, n_target, c): what is tried at each target, -1 for nothing; every key where there are no candidates."""
    height = max(len(row.targets) for row in rows)
    if candidates is None:
        candidates = torch.arange(max((block.num_keys for row in rows for block in row.blocks), default=0))
        candidates = candidates.expand(len(rows), -1)
    if candidates.ndim == 2:
        candidates = candidates[:, None].expand(-1, height, -1)
    if candidates.shape[1] != height:
        raise ValueError(
            f"candidates has keys for {candidates.shape[1]} target chunks, and the labels make {height}; give (B, "
            "n_target, c), -1 at the end of a row with fewer targets, or (B, c) to try the same at each target."
        )
    return candidates


def _known(block: Block, keys: Sequence[int]) -> torch.Tensor:
    """Which of these are keys of a block."""
    return torch.tensor([0 <= key < block.num_keys for key in keys], dtype=torch.bool)


def _score_recomputed(plan: Plan, row: Row, tried: Sequence[Sequence[int]], scores: torch.Tensor) -> None:
    """Writes into `scores` (n_target, c); a pass over a key serves all targets of a block."""
    done = 0
    for block in row.blocks:
        targets = slice(done, done := done + len(block.targets))
        keys = sorted({key for own in tried[targets] for key in own if 0 <= key < block.num_keys})
        found = score_keys(plan, row.document, block, keys)
        columns = {key: column for column, key in enumerate(keys)}
        for own, into, likelihoods in zip(tried[targets], scores[targets], found, strict=True):
            into[_known(block, own)] = likelihoods[[columns[key] for key in own if key in columns]]


def _score_streamed(plan: Plan, row: StreamedRow, tried: Sequence[Sequence[int]], scores: torch.Tensor) -> None:
    """The same where states are reused. A target's first token is predicted before the target begins, so that its
    likelihood is that of the stream, whatever the candidate."""
    for block, keys, own in zip(row.blocks, tried, scores, strict=True):
        own[_known(block, keys)] = 0
    trial = _Trial(plan, row, tried, scores)
    with evaluating(plan.language_model):
        for item, logits in run_reusing(plan, [row], trial.try_before):
            first = item.targets % plan.config.chunk_size == 0
            losses = token_losses(logits[first], row.document.labels[item.targets[first]])
            for token, loss in zip(item.targets[first].tolist(), losses.tolist(), strict=True):
                scores[token // plan.config.chunk_size - row.first_target] -= loss


class _Trial:
    """The candidates of one text, tried at its target chunks while the text streams by.

    Args:
        tried: numbers of chunks for each target. scores: (n_target, c) to which log-likelihoods are added.
    """

    def __init__(self, plan: Plan, row: StreamedRow, tried: Sequence[Sequence[int]], scores: torch.Tensor):
        self.plan, self.row, self.tried, self.scores = plan, row, tried, scores
        self.behind: _BehindCandidates | None = None

    def try_before(self, stream: Stream, chunk: int) -> None:
        """Tries them at the chunk that the stream is about to read, if it is a target."""
        size, number = self.plan.config.chunk_size, chunk - self.row.first_target
        predicted = self.row.predicted(chunk)
        scored = predicted[predicted < (chunk + 1) * size]
        if number < 0 or not len(scored):
            return
        tried = self.tried[number]
        known = _known(self.row.blocks[number], tried).nonzero().flatten()
        if not len(known):
            return
        if self.behind is None:
            self.behind = _BehindCandidates(stream, min(self.plan.config.chunk_batch_size, len(tried)))
        for places in known.split(self.plan.config.chunk_batch_size):
            keys = [tried[place] for place in places.tolist()]
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
        wanted, shown = min(stream.window_beside(1) // stream.size, row.complete), window // stream.size
        lacked = row.complete - wanted, row.complete - shown
        for number, key in enumerate(keys):
            beside = stream.window_of(row, *lacked) if shown < wanted else []
            attended.put_before(number, [*stream.lead_of(row, (key,)), *beside])
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
