"""In-context examples for training: other queries of the batch with their positives, put before a query.

As bge-en-icl trains (arXiv:2409.15700): a query sees none, a few or as many examples as there may be, drawn anew each
time, so that the embedding is good with and without. Passages stay as they are.
"""

import copy
import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderConfig
from modeling_biencoder.encoding_biencoder import prompt_affixes, tokenize

from ..data.sources import Row

Pair = tuple[str, str]
_LEAST_TEXT = 16  # tokens: an example of less tells nothing


@dataclass
class InContextExamples:
    """Gives the examples of a batch their `query_ids`, where `in_context` says what there is to make them of.

    `in_context` holds query, answer (the positive that was drawn), task (None: "default") and draw, which seeds the
    draw of the query's examples. A query's own text, texts equal to it and its positives never are its examples, nor
    is a query used twice. Prompts without `query_suffix` take none.

    Args:
        tokenizer, config: as for `tokenize`; config.max_length is the query's own, its examples come beside it.
        max_examples: the most for a query. fixed: always so many (as far as the batch has them), not 0 to so many.
        max_length: tokens that a query's examples take at most. Each is cut to an equal part of it; where that would
            leave less than 16 tokens of text, there are fewer examples.

    Raises ValueError where no prompt takes examples, or max_length has no room for one.
    """

    tokenizer: PreTrainedTokenizerBase
    config: BiEncoderConfig
    max_examples: int
    fixed: bool = False
    max_length: int = 256

    def __post_init__(self) -> None:
        tasks = [task for task, prompt in self.config.prompts.items() if prompt.get("query_suffix")]
        if not tasks:
            raise ValueError(
                f"max_examples={self.max_examples} needs a prompt with a query_suffix, which parts an example's query "
                f"from its answer: set prompts={{'default': instruction_prompt('...')}}, or a data set's instruction."
            )
        for task in tasks:
            if (least := self._frame(task) + _LEAST_TEXT) > self.max_length:
                raise ValueError(
                    f"examples_max_length={self.max_length} has no room for an example: with the prompt of task "
                    f"{task!r} and {_LEAST_TEXT} tokens of text it takes {least}; raise it to that or more."
                )
        positions = self.config.max_positions
        if positions is not None and self.config.max_length + self.max_length > positions:
            raise ValueError(
                f"examples_max_length={self.max_length} and the query's {self.config.max_length} tokens are more than "
                f"the backbone's {positions} positions: lower examples_max_length or query_max_length."
            )

    def __call__(self, examples: list[Row]) -> list[Row]:
        """The examples of a batch, each with `query_ids`."""
        return [
            {**example, "query_ids": self._query_ids(example, examples)} if "in_context" in example else example
            for example in examples
        ]

    def _query_ids(self, example: Row, batch: list[Row]) -> list[int]:
        own = example["in_context"]
        task = own["task"]
        suffix = prompt_affixes(self.config.prompts, "query", task)[1]
        pairs = self._fit(self._draw(example, batch), task) if suffix else []
        config = copy.copy(self.config)
        config.max_length += self._tokens_of(pairs, task)
        return tokenize([own["query"]], self.tokenizer, config, "query", task, pairs)[0]

    def _draw(self, example: Row, batch: list[Row]) -> list[Pair]:
        generator = random.Random(f"{example['in_context']['draw']}-examples")
        identity = example["identity"]
        taken = {identity["query"], *identity["positives"]}
        others: dict[int, Pair] = {}
        for other in batch:
            query, answer = other["identity"]["query"], other["identity"]["passage"][0]
            if query not in taken and answer not in taken:
                others.setdefault(query, (other["in_context"]["query"], other["in_context"]["answer"]))
        count = self.max_examples if self.fixed else generator.randint(0, self.max_examples)
        return generator.sample(list(others.values()), min(count, len(others)))

    def _fit(self, pairs: list[Pair], task: str | None) -> list[Pair]:
        """As many of the pairs as have room, each cut to its part of it."""
        frame = self._frame(task)
        longest = max((len(self._ids(query)) + len(self._ids(answer)) for query, answer in pairs), default=0)
        while pairs:
            room = self.max_length // len(pairs) - frame
            cut = [self._cut(pair, room) for pair in pairs] if room >= min(longest, _LEAST_TEXT) else []
            if cut and self._tokens_of(cut, task) <= self.max_length:
                return cut
            pairs = pairs[:-1]
        return []

    def _cut(self, pair: Pair, room: int) -> Pair:
        """Both texts within `room` tokens; the shorter one leaves its room to the other."""
        query, answer = (self._ids(text) for text in pair)
        for_query = max(room - len(answer), room // 2)
        kept = query[:for_query], answer[: room - min(len(query), for_query)]
        texts = [
            text if len(ids) == len(whole) else self._text(ids)
            for text, ids, whole in zip(pair, kept, (query, answer), strict=True)
        ]
        return texts[0], texts[1]

    def _frame(self, task: str | None) -> int:
        """Tokens of an example beside its texts: prompt and the blank line before the next."""
        prefix, suffix = prompt_affixes(self.config.prompts, "query", task)
        return len(self._ids(prefix)) + len(self._ids(suffix)) + len(self._ids("\n\n"))

    def _tokens_of(self, pairs: list[Pair], task: str | None) -> int:
        """Tokens by which the examples make the prompt longer."""
        with_pairs, without = (prompt_affixes(self.config.prompts, "query", task, some)[0] for some in (pairs, None))
        return len(self._ids(with_pairs)) - len(self._ids(without))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _text(self, ids: list[int]) -> str:
        # A character of several tokens may be cut in two: its first part is no text.
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)).rstrip("\ufffd")
