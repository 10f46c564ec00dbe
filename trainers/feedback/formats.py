"""Query/candidate rows as the questions that a language model is asked: what stands before the text it must predict.

The formats and their prompts are those of LLM-Embedder's training data (Zhang et al., 2023, arXiv 2310.07554).
"""

import random
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from modeling_srlm.tokenizers_srlm import text_ids

from ..data.sources import Row, RowError, optional_text, text_field, text_fields

TARGETS = ("answer", "query")


class Prompt(NamedTuple):
    """What stands before the candidate, the query and the answer; `strips`: white space around the three is cut."""

    before_candidate: str
    before_query: str
    before_answer: str
    strips: bool = False


_KNOWLEDGE = Prompt("Knowledge: ", "\n\nQuestion: ", "\n\nAnswer: ", strips=True)
PROMPTS = {
    "qa": _KNOWLEDGE,
    "convsearch": _KNOWLEDGE,
    "icl": Prompt("", "\n", "\n"),
    "chat": Prompt("", "\nSpeaker 1: ", "\nSpeaker 2: "),
    # Pieces of one document. An optional `context` stands between candidate and query.
    "lrlm": Prompt("", "", ""),
}


class Question(NamedTuple):
    """`head + candidate + tail` is a prompt, one for each candidate; `scored` is the text predicted behind it."""

    candidates: list[str]
    head: str
    tail: str
    scored: str

    def prompt(self, candidate: str) -> str:
        return self.head + candidate + self.tail


def read_question(row: Row, number: int, task: str | None, target: str, seed: int) -> Question:
    """The question of a row: its candidates are `pos` and then `neg`, or the turns of `history`.

    Args:
        task: the format; None takes the row's field `task`.
        target: "answer" scores one of `answers`, of several one drawn by (seed, row number), behind candidate and
            query; "query" scores the query behind the candidate (Sachan et al., 2022, arXiv 2204.07496).

    Raises ValueError with the row number for an unknown format and for what is missing, mistyped or blank.
    """
    prompt = _find_prompt(row, number, task)
    candidates = read_candidates(row, number)
    query, middle = (
        text_field(row, "query", number),
        (optional_text(row, "context", number) or "") + prompt.before_query,
    )
    if target == "query":
        scored = query
    else:
        scored = random.Random(f"{seed}-{number}").choice(_answers(row, number))
        middle += (query.strip() if prompt.strips else query) + prompt.before_answer
    if prompt.strips:
        candidates, scored = [candidate.strip() for candidate in candidates], scored.strip()
    return Question(candidates, prompt.before_candidate, middle, scored)


def _find_prompt(row: Row, number: int, task: str | None) -> Prompt:
    name = row.get("task") if task is None else task
    if isinstance(name, str) and name in PROMPTS:
        return PROMPTS[name]
    if name == "tool":
        raise RowError(
            number,
            "rows of the task 'tool' have no answer for a language model to "
            "score: train on them as they are, by their positives.",
        )
    raise RowError(
        number,
        f"field 'task' is {name!r}; it must be one of {', '.join(PROMPTS)}. Give "
        f"--task to name the format of all rows.",
    )


def read_candidates(row: Row, number: int) -> list[str]:
    """`pos` and then `neg`, or the turns of `history`; ValueError with the row number where there are none."""
    named = [*text_fields(row, "pos", number), *text_fields(row, "neg", number)]
    candidates = named or text_fields(row, "history", number)
    if not candidates:
        raise RowError(number, "there are no candidates; 'pos' and 'neg', or 'history', must hold texts.")
    return candidates


def _answers(row: Row, number: int) -> list[str]:
    answers = text_fields(row, "answers", number)
    if not answers:
        raise RowError(
            number,
            "field 'answers' is missing or empty; it must be a list of texts. Rows "
            "without an answer can be scored by how well a candidate predicts the query: --target query.",
        )
    return answers


def place_space(question: Question, tokenizer: PreTrainedTokenizerBase) -> Question:
    """The same text, the space before `scored` on the side where counting the tokens of `scored` alone counts right.

    A byte-level tokenizer makes the space a part of the next token; a SentencePiece one puts it there by itself.
    """
    if not question.tail.endswith(" "):
        return question
    bare = question._replace(tail=question.tail[:-1], scored=" " + question.scored)
    right = count_tokens(bare.tail + bare.scored, tokenizer) - count_tokens(bare.tail, tokenizer)
    return bare if count_tokens(bare.scored, tokenizer) == right else question


def count_tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a text alone, without special tokens."""
    return len(text_ids(tokenizer, [text])[0])
