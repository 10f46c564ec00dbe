"""Two streams in one row: where the prompts are, what may see what, and at which position each token stands.

A row is `[passage | summarize prompt | predict prompt]`. The predict prompt does not see the summarize prompt and
starts at the position at which that one starts, so that one pass gives what two rows with one prompt each would.
"""

from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

SUMMARIZE, PREDICT = 1, 2  # stream numbers; 0 is the passage, which both prompts see
ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention")


class Span(NamedTuple):
    """One prompt in each row of a batch (B rows): where it is, and whether it is there at all."""

    start: torch.Tensor  # (B,) index of the prompt's first token; meaningless where not present
    end: torch.Tensor  # (B,) index of its last token
    present: torch.Tensor  # (B,) bool
    broken: torch.Tensor  # (B,) bool: special tokens are there, but not the whole prompt exactly once

    def special_token_indices(self, count: int) -> torch.Tensor:
        """(B, count) indices of the special tokens; 0 and up in rows without the prompt, to be ignored there."""
        offsets = torch.arange(1 - count, 1, device=self.end.device)
        return (self.end[:, None] + offsets).clamp(min=0)


def find_span(input_ids: torch.Tensor, mask: torch.Tensor, prompt_ids: list[int], count: int) -> Span:
    """Locate a prompt by its `count` special tokens (its last ids) in (B, L) ids under a (B, L) bool padding mask."""
    rows, length = input_ids.shape
    if not prompt_ids:
        nowhere = torch.zeros(rows, dtype=torch.long, device=input_ids.device)
        return Span(nowhere, nowhere, nowhere.bool(), nowhere.bool())
    ids = input_ids.masked_fill(~mask, -1)  # special tokens under padding are not there
    prompt = torch.tensor(prompt_ids, device=input_ids.device)
    found = (ids[..., None] == prompt[-count:]).any(-1).sum(1)  # special tokens per row, (B,)
    last = ids == prompt[-1]
    present, end = last.any(1), last.long().argmax(1)
    start = end - len(prompt_ids) + 1
    indices = (start[:, None] + torch.arange(len(prompt_ids), device=ids.device)).clamp(0, length - 1)
    whole = (ids.gather(1, indices) == prompt).all(1) & (start >= 0) & (found == count)
    return Span(start, end, present, torch.where(present, ~whole, found > 0))


def layout_error(mask: torch.Tensor, summarize: Span, predict: Span) -> torch.Tensor:
    """(B,) bool: the prompts do not end the row, or the predict prompt does not follow the summarize prompt."""
    indices = torch.arange(mask.shape[1], device=mask.device)
    row_end = (indices * mask).amax(1)
    both = summarize.present & predict.present
    prompt_end = torch.where(predict.present, predict.end, summarize.end)
    trailing = (summarize.present | predict.present) & (prompt_end != row_end)
    return trailing | (both & (predict.start != summarize.end + 1))


def find_streams(length: int, summarize: Span, predict: Span) -> torch.Tensor:
    """(B, L) stream number of each token: 0 passage, 1 summarize prompt, 2 predict prompt."""
    indices = torch.arange(length, device=summarize.start.device)
    streams = torch.zeros(len(summarize.start), length, dtype=torch.long, device=indices.device)
    for number, span in ((SUMMARIZE, summarize), (PREDICT, predict)):
        inside = (indices >= span.start[:, None]) & (indices <= span.end[:, None]) & span.present[:, None]
        streams = streams.masked_fill(inside, number)
    return streams


def two_stream_positions(mask: torch.Tensor, streams: torch.Tensor) -> torch.Tensor:
    """(B, L) positions: counted over real tokens from 0, the predict prompt from where the summarize prompt starts."""
    positions = mask.long().cumsum(1) - 1
    skipped = (streams == SUMMARIZE).sum(1, keepdim=True)
    return (positions - skipped * (streams == PREDICT)).clamp(min=0)


def two_stream_mask(
    config: PreTrainedConfig, mask: torch.Tensor, streams: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype
) -> object:
    """The backbone's own attention mask (float, bool or block mask, as its attention implementation wants it).

    Args:
        config: the backbone's configuration; its attention implementation decides the mask's form.
        mask: (B, L) bool, True at real tokens. streams, positions: (B, L).
        dtype: of the backbone's activations, for the additive form.

    Returns: one mask, or for a backbone with several kinds of layers a dictionary of one mask for each kind.

    Raises:
        ValueError: for an attention implementation that takes no custom mask, or layers without attention.
    """
    check_attention(config)
    # Only the shape, dtype and device of the embeddings are read; (B, L, 1) saves a lookup.
    embeds = torch.empty(*mask.shape, 1, dtype=dtype, device=mask.device)
    settings: dict[str, Any] = {
        "config": config,
        "inputs_embeds": embeds,
        "attention_mask": mask,
        "past_key_values": None,
    }

    def streams_apart(batch: int, head: int, query: int, key: int) -> torch.Tensor:
        return (streams[batch, query] != PREDICT) | (streams[batch, key] != SUMMARIZE)

    def window_by_position(batch: int, head: int, query: int, key: int) -> torch.Tensor:
        # transformers' window counts indices, in which the predict prompt is further from the passage than it stands.
        return (key <= query) & (positions[batch, query] - positions[batch, key] < config.sliding_window)

    def full() -> object:
        return create_causal_mask(**settings, and_mask_function=streams_apart)

    def sliding() -> object:
        return create_sliding_window_causal_mask(
            **settings, and_mask_function=streams_apart, or_mask_function=window_by_position
        )

    makers = {"full_attention": full, "sliding_attention": sliding}
    values = vars(config)
    if values.get("layer_types"):
        return {kind: makers[kind]() for kind in set(values["layer_types"])}
    return full() if values.get("sliding_window") is None else sliding()


def check_implementation(implementation: str | None) -> None:
    """Raise ValueError for an attention implementation that takes no custom mask; None is transformers' choice."""
    if implementation not in (None, *ATTENTION_IMPLEMENTATIONS):
        raise ValueError(
            f"attention implementation {implementation!r} takes no custom mask, which the two prompts in one row "
            "need: load the backbone with attn_implementation='sdpa' (or 'eager', or 'flex_attention' on a GPU)."
        )


def check_attention(config: PreTrainedConfig) -> None:
    """Raise ValueError when the backbone's attention cannot take the two-stream mask."""
    check_implementation(config._attn_implementation)
    kinds = set(vars(config).get("layer_types") or ())
    if unknown := sorted(kinds - {"full_attention", "sliding_attention"}):
        raise ValueError(
            f"backbone type {config.model_type!r} has layers of the kinds {unknown}, in which the predict prompt "
            "cannot be kept from seeing the summarize prompt: use a backbone with full or sliding attention only."
        )
    values = vars(config)
    window, positions = values.get("window_size") or 0, values.get("max_position_embeddings") or 0
    if "local" in (values.get("attention_layers") or ()) and window < positions:
        raise ValueError(
            f"backbone type {config.model_type!r} has layers of the kind 'local', with a window of {window} tokens "
            f"that counts padding and the other prompt, and rows of up to {positions}: use a backbone with full or "
            "sliding attention, such as Llama, Mistral or GPT-2."
        )
