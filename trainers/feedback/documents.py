"""A language model's feedback on long documents: which earlier chunk makes the next one likely?

Each target chunk of a document becomes a row for the bi-encoder: the chunk before it is the query, the chunks that it
may look back at are the candidates (Zhang et al., 2023, arXiv 2310.07554).
"""

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from modeling_srlm.chunking_srlm import chunks_without_keys
from modeling_srlm.planning_srlm import Plan
from modeling_srlm.tokenizers_srlm import text_ids

from ..data.faithful import placed
from ..data.sources import Row, text_field
from .candidates import SOME, Candidates, check_dense, choose_candidates
from .rows import DECIMALS

# With kept states a document is read once for so many blocks of targets; a part that was interrupted is done again.
BLOCKS_A_READING = 32


class Cut(NamedTuple):
    """Documents are cut before token `end`; the last `scored` tokens before it are the targets."""

    document: int
    end: int
    scored: int


def least_tokens(config: SelfRetrievalConfig) -> int:
    """Tokens that it takes for two keys: a single candidate teaches nothing."""
    window = config.context_window_size // config.chunk_size
    # Where states are reused the window ends where the target begins, and so one chunk before.
    chunks = chunks_without_keys(window, config.integrate_method == "replace") + 2 + int(config.reuse_states)
    return chunks * config.chunk_size


def check_lengths(config: SelfRetrievalConfig, document_length: int | None, lengths: Iterable[int]) -> None:
    """ValueError where nothing is long enough to look back: the length that counts, or all documents' lengths."""
    least = least_tokens(config)
    window = f"a window of {config.context_window_size} with chunks of {config.chunk_size}"
    if document_length is not None and document_length < least:
        raise ValueError(
            f"document_length is {document_length} tokens; {window} has two keys from {least} tokens on. Give more "
            "tokens, or a smaller window."
        )
    longest = 0
    for length in lengths:  # of many documents not all have to be read, as a rule
        longest = max(longest, length)
        if longest >= least:
            return
    raise ValueError(
        f"the longest document has {longest} tokens; {window} has two keys from {least} tokens on. Give longer "
        "documents, or a smaller window."
    )


def count_document(row: Row, number: int, tokenizer: Any) -> int:
    """The tokens of a document, the row `number` of its data."""
    return len(text_ids(tokenizer, [text_field(row, "text", number)])[0])


def score_prefix(
    lm: SelfRetrievalLM,
    tokens: torch.Tensor,
    candidates: Candidates | None,
    generator: random.Random,
    scale: float = 1.0,
    scored: int | None = None,
) -> list[Row]:
    """Rows (query, pos, neg, teacher_scores) of the target chunks at the end of a document.

    Args:
        tokens: (length,) ids, `least_tokens` or more.
        candidates: None tries every key.
        scale: factor on the scores, which are log-likelihoods in nats, summed over the target chunk.
        scored: tokens at the end that are targets, whole chunks; by default `target_size`, the most that one window
            can score. With `reuse_states` there may be more.

    The best candidate is the positive. Chunks of white space alone are left out. With `reuse_states` each target has
    its own window, and so the first ones have fewer candidates; those with fewer than two are left out.
    """
    plan, config = Plan.of_candidates(lm), lm.config
    if config.reuse_states and config.add_bos:  # it would be no part of the text, and the grid begin behind it
        while len(tokens) and tokens[len(tokens) % config.chunk_size] == config.bos_id:
            tokens = tokens[len(tokens) % config.chunk_size + 1 :]
    chunks = tokens[len(tokens) % config.chunk_size :].view(-1, config.chunk_size)
    scored = scored or plan.target_size
    targets = range(len(chunks) - scored // config.chunk_size, len(chunks))
    counts = [plan.num_keys(target, len(chunks)) for target in targets]
    width = 2 if config.add_key_continuation else 1
    queries, keys = chunks[targets[0] - 1 : -1], [chunks[i : i + width].flatten() for i in range(max(counts))]
    tried = choose_candidates(lm, queries, keys, counts, candidates, generator)
    some = sorted({key for own in tried for key in own})
    decoded = lm.tokenizer.batch_decode([keys[key].tolist() for key in some], skip_special_tokens=True)
    texts = {key: text for key, text in zip(some, decoded, strict=True) if text.strip()}
    tried = [[key for key in own if key in texts] for own in tried]
    if max(map(len, tried)) < 2:
        return []
    input_ids = chunks.reshape(1, -1).to(lm.device)
    labels = input_ids.clone()
    labels[:, :-scored] = -100
    numbers = pad_sequence([torch.tensor(own, dtype=torch.long) for own in tried], True, padding_value=-1)
    found = lm.score_candidates(input_ids, labels=labels, candidates=numbers[None])[0]
    if found.isnan().any():
        raise ValueError("the language model's scores are NaN: its weights are damaged, or its precision too small.")
    scores = (found * scale).tolist()
    query_texts = lm.tokenizer.batch_decode(queries, skip_special_tokens=True)
    rows = [
        _best_first(query, [texts[key] for key in own], row[: len(own)])
        for query, own, row in zip(query_texts, tried, scores, strict=True)
        if query.strip() and own
    ]
    return [row for row in rows if row["neg"]]


def _best_first(query: str, texts: list[str], scores: list[float]) -> Row:
    keys = [i for i, score in enumerate(scores) if score > -math.inf]  # of this target
    best = max(keys, key=scores.__getitem__, default=0)
    order = [best, *(i for i in keys if i != best)]
    teacher_scores = [round(scores[i], DECIMALS) for i in order]
    return {
        "query": query,
        "pos": [texts[best]],
        "neg": [texts[i] for i in order[1:]],
        "teacher_scores": teacher_scores,
    }


class DocumentFeedback:
    """Scores documents in groups, numbered from 0; a group is one cut of a document.

    Args:
        documents: rows with `text`.
        cuts: cuts a document, at random places; None cuts behind every block of targets that has keys.
        document_length: most tokens before a cut that count; None takes all.
        candidates: None tries every key.
        mean: scores are means over a chunk's tokens, otherwise sums.

    Raises ValueError for rows without text, and where no document is long enough to look back.
    """

    def __init__(
        self,
        lm: SelfRetrievalLM,
        documents: datasets.Dataset | Sequence[Row],
        cuts: int | None = None,
        document_length: int | None = None,
        candidates: Candidates | None = SOME,
        mean: bool = True,
        seed: int = 0,
        show_progress: bool = False,
    ):
        self.lm, self.documents, self.seed = lm, documents, seed
        self.document_length, self.candidates = document_length, candidates
        check_dense(candidates, lm.retriever is not None)
        self.plan = Plan.of_candidates(lm)
        self.scale = 1 / lm.config.chunk_size if mean else 1.0
        self._tokens: tuple[int, torch.Tensor] = (-1, torch.empty(0))
        check_lengths(lm.config, document_length, [least_tokens(lm.config)])
        digest, lengths = hashlib.sha256(), []
        for number in tqdm(
            range(len(documents)), desc="Reading documents", unit="document", disable=not show_progress
        ):
            digest.update(self._text(number).encode() + b"\0")
            lengths.append(len(self._ids(number)))
        check_lengths(lm.config, document_length, lengths)
        self.digest = digest.hexdigest()
        self.groups = [cut for i, length in enumerate(lengths) for cut in self._cuts(i, length, cuts)]
        self.num_groups = len(self.groups)

    def _text(self, number: int) -> str:
        with placed(self.documents):
            return text_field(self.documents[number], "text", number)

    def _ids(self, number: int) -> torch.Tensor:
        if self._tokens[0] != number:
            (ids,) = text_ids(self.lm.tokenizer, [self._text(number)])
            self._tokens = (number, torch.tensor(ids))
        return self._tokens[1]

    def _cuts(self, document: int, length: int, cuts: int | None) -> list[Cut]:
        shortest = least_tokens(self.lm.config)
        if cuts is None:
            if length < shortest:
                return []
            most = self._most_scored(length)
            ends = range(length, shortest - 1, -most)
            return [Cut(document, end, min(most, self._most_scored(end))) for end in reversed(ends)]
        places = range(shortest, length + 1)
        drawn = random.Random(f"{self.seed}-{document}").sample(places, min(cuts, len(places)))
        return [Cut(document, end, self.plan.target_size) for end in sorted(drawn)]

    def _most_scored(self, end: int) -> int:
        """Tokens before a cut that are targets: recomputed, a block; with kept states all that have two keys, up to
        `BLOCKS_A_READING`."""
        block, size = self.plan.target_size, self.lm.config.chunk_size
        if not self.lm.config.reuse_states:
            return block
        read = end if self.document_length is None else min(end, self.document_length)
        room = (read - least_tokens(self.lm.config)) // size + 1
        return min(room * size, BLOCKS_A_READING * block)

    def score(self, group: int) -> list[Row]:
        """The rows of one cut (see `score_prefix`)."""
        document, end, scored = self.groups[group]
        start = 0 if self.document_length is None else max(0, end - self.document_length)
        generator = random.Random(f"{self.seed}-{document}-{end}")
        return score_prefix(self.lm, self._ids(document)[start:end], self.candidates, generator, self.scale, scored)
