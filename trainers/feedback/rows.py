"""A language model's feedback on the candidates of query rows: which of them makes the answer likely?"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.tokenizers_srlm import text_ids

from ..data.faithful import placed
from ..data.sources import Row, RowError
from .formats import Question, count_tokens, place_space, read_question

# A group of rows is scored as a whole, its prompts sorted by length, whatever the process and wherever a run was
# interrupted: so its batches, and with them the last digits of its scores, are always the same.
BATCHES_A_GROUP = 8
DECIMALS = 6  # what float32 is good for


def score_questions(lm: SelfRetrievalLM, questions: Sequence[Question], mean: bool) -> list[list[float]]:
    """For each question the log-likelihood in nats of the scored text behind each candidate, in their order.

    `mean` gives the mean over the text's tokens, otherwise it is the sum. A candidate that does not fit the window is
    cut at its end.
    """
    prompts = [prompt for question in questions for prompt in fit_prompts(lm, question)]
    scored = [question.scored for question in questions for _ in question.candidates]
    scores = iter(lm.score_continuations(prompts, scored).tolist())
    result = []
    for question in questions:
        tokens = count_tokens(question.scored, lm.tokenizer) if mean else 1
        result.append([round(next(scores) / tokens, DECIMALS) for _ in question.candidates])
    return result


def fit_prompts(lm: SelfRetrievalLM, question: Question) -> list[str]:
    """The prompts of a question, candidates cut so that prompt and scored text fit the model's window."""
    window, tokenizer = lm.config.context_window_size, lm.tokenizer
    whole = [question.prompt(candidate) for candidate in question.candidates]
    lengths = _lengths([prompt + question.scored for prompt in whole], tokenizer)
    return [
        prompt if length <= window else question.prompt(_cut(candidate, length - window, question, window, tokenizer))
        for prompt, length, candidate in zip(whole, lengths, question.candidates, strict=True)
    ]


def _lengths(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [len(ids) for ids in text_ids(tokenizer, texts)]


def _cut(candidate: str, excess: int, question: Question, window: int, tokenizer: PreTrainedTokenizerBase) -> str:
    (ids,) = text_ids(tokenizer, [candidate])
    while excess > 0:  # text that was cut may take more tokens than were left of it
        ids = ids[: max(len(ids) - excess, 0)]
        (candidate,) = tokenizer.batch_decode([ids])
        candidate = candidate.rstrip("\ufffd")  # half of a character
        (length,) = _lengths([question.prompt(candidate) + question.scored], tokenizer)
        excess = length - window
    return candidate


def check_length(question: Question, number: int, tokenizer: PreTrainedTokenizerBase, window: int) -> None:
    """RowError for a question of which the window cannot hold what is never cut."""
    (length,) = _lengths([question.prompt("") + question.scored], tokenizer)
    if length > window:
        raise RowError(
            number,
            f"query and scored text take {length} tokens without any candidate; the window has {window}, and only "
            "candidates are cut. Enlarge --context_window_size, or leave the row out.",
        )


def group_rows(sizes: Sequence[int], least: int) -> list[range]:
    """Consecutive rows, as few as make up `least` candidates.

    >>> group_rows([3, 3, 9, 1], least=6)
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    groups, start, total = [], 0, 0
    for number, size in enumerate(sizes):
        total += size
        if total >= least or number == len(sizes) - 1:
            groups.append(range(start, number + 1))
            start, total = number + 1, 0
    return groups


class GroupedRows(ABC):
    """Rows that are scored in groups, numbered from 0.

    Args:
        least: a group has that many candidates or more, the last one excepted.

    Raises ValueError with the row number for a row that cannot be scored, all rows being read here.
    """

    def __init__(self, rows: Sequence[Row], least: int, show_progress: bool = False):
        self.rows = rows
        digest, sizes = hashlib.sha256(), []
        for number in tqdm(range(len(rows)), desc="Checking the rows", unit="row", disable=not show_progress):
            with placed(rows):
                sizes.append(self._count(number))
            digest.update(json.dumps(rows[number], sort_keys=True, default=str).encode())
        self.digest = digest.hexdigest()
        self.groups = group_rows(sizes, least)
        self.num_groups = len(self.groups)

    @abstractmethod
    def _count(self, number: int) -> int:
        """Candidates of a row, which is checked."""

    @abstractmethod
    def _scores(self, numbers: Sequence[int]) -> list[list[float]]:
        """Of each of the rows the scores of its candidates."""

    def score(self, group: int) -> list[Row]:
        """The rows of a group, each with `teacher_scores`: one a candidate, positives first, or one a turn."""
        numbers = self.groups[group]
        found = list(zip(numbers, self._scores(numbers), strict=True))
        for number, scores in found:
            if not all(map(math.isfinite, scores)):
                raise RowError(number, f"the teacher's scores are {scores}, and must be finite: take another teacher.")
        return [{**self.rows[number], "teacher_scores": scores} for number, scores in found]


class RowFeedback(GroupedRows):
    """Rows scored by a language model.

    Args:
        task, target, seed: as `read_question` has them. mean: as `score_questions` has it.
    """

    def __init__(
        self,
        lm: SelfRetrievalLM,
        rows: Sequence[Row],
        task: str | None = None,
        target: str = "answer",
        mean: bool = True,
        seed: int = 0,
        show_progress: bool = False,
    ):
        self.lm, self.mean = lm, mean
        self.task, self.target, self.seed = task, target, seed
        super().__init__(rows, BATCHES_A_GROUP * lm.config.chunk_batch_size, show_progress)

    def _question(self, number: int) -> Question:
        question = read_question(self.rows[number], number, self.task, self.target, self.seed)
        return place_space(question, self.lm.tokenizer)

    def _count(self, number: int) -> int:
        question = self._question(number)
        check_length(question, number, self.lm.tokenizer, self.lm.config.context_window_size)
        return len(question.candidates)

    def _scores(self, numbers: Sequence[int]) -> list[list[float]]:
        return score_questions(self.lm, [self._question(number) for number in numbers], self.mean)
