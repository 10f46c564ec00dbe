"""What goes through the model: how many rows of how many tokens in one micro-batch, and what is scored of them."""

from dataclasses import dataclass, replace
from typing import Any

# What a plan is asked for, or the training arguments of the system, whose names are the same.
Batches = Any
Texts = Any


@dataclass(frozen=True)
class Rows:
    """Rows of one length, which the head reads at `scored` positions each."""

    name: str
    count: int
    length: int
    scored: int = 0

    @property
    def tokens(self) -> int:
        """Of all of them."""
        return self.count * self.length


@dataclass(frozen=True)
class Shapes:
    """A micro-batch of a system.

    Attributes:
        rows: all that goes through the backbone.
        at_once: of these, what is kept for the backward pass at one time.
        again: rows that are embedded a second time, as `sub_batch_size` asks for.
        words: LLaRA: special tokens of both prompts, whose logits name a bag of words.
    """

    rows: tuple[Rows, ...]
    at_once: tuple[Rows, ...]
    again: tuple[Rows, ...] = ()
    words: int = 0

    @property
    def tokens(self) -> int:
        """That go through the backbone, each pass over it counted once."""
        return sum(one.tokens for one in self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(one.length for one in self.rows)


def biencoder_shapes(config: Any, training: Batches, texts: Texts) -> Shapes:
    """Queries, and `train_group_size` passages for each; `sub_batch_size` of them at a time."""
    batch = training.per_device_train_batch_size
    longest = texts.passage_max_length or config.max_length
    query = texts.query_max_length or config.max_length
    rows = (Rows("queries", batch, query), Rows("passages", batch * (texts.train_group_size or 8), longest))
    part = texts.sub_batch_size
    if part is None:
        return Shapes(rows, rows)
    # Activations of the last part of the passages are kept; every other part is embedded again (subbatch_biencoder).
    last = min(part, rows[1].count)
    again = (rows[0], replace(rows[1], count=rows[1].count - (rows[1].count % part or last)))
    most = max((replace(rows[0], count=min(part, batch)), replace(rows[1], count=last)), key=lambda one: one.tokens)
    return Shapes(rows, (most,), again)


def llara_shapes(config: Any, training: Batches, texts: Texts) -> Shapes:
    """Rows `[passage | summarize prompt | predict prompt]`, the passage's tokens scored."""
    length = texts.max_length or 512
    prompts = len(config.summarize_prompt_ids) + len(config.predict_prompt_ids)
    if length <= prompts + 1:
        raise ValueError(f"--max_length={length} must be more than both prompts' {prompts} tokens: raise it.")
    rows = (
        Rows(
            "passages", training.per_device_train_batch_size, length, length - prompts - max(len(config.prefix_ids), 1)
        ),
    )
    return Shapes(rows, rows, words=config.num_summary_tokens + config.num_predict_tokens)


def srlm_shapes(config: Any, training: Batches, texts: Texts) -> Shapes:
    """For each target chunk of a document an input `[values | window up to the target]`.

    At most so many: targets that retrieve the same share an input.
    """
    window, chunk, keys = config.context_window_size, config.chunk_size, config.key_num
    document, target = texts.document_length or 4096, texts.target_size or config.target_size
    target = target or min(512 // chunk * chunk, config.max_target_size)
    if target % chunk or target > config.max_target_size or target >= document:
        raise ValueError(
            f"--target_size={target} must be a multiple of chunk_size={chunk}, at most {config.max_target_size} and "
            f"less than document_length={document}: give another."
        )
    count, batch, values = target // chunk, training.per_device_train_batch_size, 2 * keys * chunk
    keys_there = document // chunk > window // chunk + (-1 if config.integrate_method == "replace" else 1)
    if config.retrieval_method == "no" or not keys_there:
        rows: tuple[Rows, ...] = (Rows("documents", batch, min(window, document), target),)
        return Shapes(rows, rows)
    before = window - target + (0 if config.integrate_method == "replace" else values)
    rows = tuple(Rows("inputs", batch, before + number * chunk, chunk) for number in range(1, count + 1))
    return Shapes(rows, rows)


SHAPES = {"biencoder": biencoder_shapes, "llara": llara_shapes, "srlm": srlm_shapes}
