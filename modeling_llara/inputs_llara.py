"""A batch as it is read, checked before any compute: shapes, types and devices, then the rows (one device sync)."""

from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedConfig

from .checks_llara import check_mask, generation_numbers, typed
from .configuration_llara import LlaraConfig
from .loss_llara import IGNORED_LABEL
from .masking_llara import Span, check_attention, find_span, find_streams, layout_error, two_stream_positions

INTEGERS = (torch.int64, torch.int32)


class Rows(NamedTuple):
    """Checked rows of a batch and where their prompts are; B rows of L tokens."""

    input_ids: torch.Tensor  # (B, L) int64
    mask: torch.Tensor  # (B, L) bool
    streams: torch.Tensor  # (B, L) which stream a token belongs to
    positions: torch.Tensor  # (B, L) at which position it stands
    spans: dict[str, Span]  # of the summarize and of the predict prompt
    labels: torch.Tensor | None  # (B, L), padding left out


def read_batch(
    config: LlaraConfig,
    backbone: PreTrainedConfig,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    labels: torch.Tensor | None,
    targets: dict[str, torch.Tensor | None],
) -> Rows:
    """The rows of a batch; TypeError or ValueError where a tensor or a row does not fit, or the backbone's attention.

    Args:
        backbone: the configuration of the backbone as it runs.
        targets: {"output_summarize_ids": (B, T), "output_predict_ids": (B, T)} of each prompt, or None.
    """
    check_attention(backbone)
    ids = check_shapes(input_ids, attention_mask, position_ids, labels, targets).long()
    mask = torch.ones_like(ids).bool() if attention_mask is None else attention_mask.bool()
    spans = {
        "summarize": find_span(ids, mask, config.summarize_prompt_ids, config.num_summary_tokens),
        "predict": find_span(ids, mask, config.predict_prompt_ids, config.num_predict_tokens),
    }
    streams = find_streams(ids.shape[1], spans["summarize"], spans["predict"])
    if config.predict_sees_summarize:
        streams = torch.zeros_like(streams)  # one stream: plain causal attention
    positions = two_stream_positions(mask, streams) if position_ids is None else position_ids
    check_rows(config, ids, mask if attention_mask is None else attention_mask, positions, labels, spans, targets)
    # A row's first token counts as little as padding does: what stands before it, if anything, is padding.
    predicted = mask & torch.nn.functional.pad(mask[:, :-1], (1, 0))
    kept = None if labels is None else labels.masked_fill(~predicted, IGNORED_LABEL)
    return Rows(ids, mask, streams, positions, spans, kept)


def check_shapes(
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    labels: torch.Tensor | None,
    targets: dict[str, torch.Tensor | None],
) -> torch.Tensor:
    """Give input_ids back; TypeError or ValueError unless all tensors fit: type, shape, device."""
    if input_ids is None:
        raise ValueError("input_ids is None but the prompts are found by their ids: pass input_ids.")
    _check_tensor("input_ids", input_ids, None, INTEGERS)
    if input_ids.numel() == 0:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}, an empty batch: pass at least one token.")
    masks = (*INTEGERS, torch.bool, torch.float32, torch.float16, torch.bfloat16, torch.uint8)
    for name, tensor, types in (
        ("attention_mask", attention_mask, masks),
        ("position_ids", position_ids, INTEGERS),
        ("labels", labels, INTEGERS),
        *((name, tensor, INTEGERS) for name, tensor in targets.items()),
    ):
        if tensor is not None:
            _check_tensor(name, tensor, input_ids, types)
            size = tensor.shape if name not in targets else tensor.shape[:1]
            if size != input_ids.shape[: len(size)]:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)} but input_ids {tuple(input_ids.shape)}: give it the same "
                    f"{'shape' if name not in targets else 'number of rows'}."
                )
    return input_ids


def _check_tensor(name: str, tensor: torch.Tensor, like: torch.Tensor | None, types: tuple[torch.dtype, ...]) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__} but must be a tensor: pass torch.tensor({name}).")
    if tensor.dtype not in types:
        raise TypeError(f"{name} has dtype {tensor.dtype} but must have one of {list(types)}: convert it.")
    if tensor.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)} but must be (batch, length): reshape it.")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device} but input_ids on {like.device}: move it there.")


def check_switches(**switches: object) -> None:
    """Raise TypeError unless each is True, False or None."""
    for name, value in switches.items():
        typed(name, value, bool | None)


def check_generation(size: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `generate`; TypeError or ValueError for counts and switches that are none, prompts under two
    names, and prompts, if any, that are no ids of a vocabulary of `size`."""
    kwargs = generation_numbers(kwargs)
    typed("generation_config", args[1] if len(args) > 1 else kwargs.get("generation_config"), GenerationConfig | None)
    if kwargs.get("labels") is not None:
        raise ValueError("generate has labels, which it does not score: leave them out, or call forward.")
    prompts = {"inputs": args[0] if args else kwargs.get("inputs")}
    prompts |= {name: kwargs.get(name) for name in ("input_ids", "inputs_embeds")}
    given = [name for name, value in prompts.items() if value is not None]
    if len(given) > 1 or given == ["inputs_embeds"]:
        raise ValueError(
            f"generate has {' and '.join(given)}, and takes input_ids alone: give the prompts' token ids."
        )
    ids, mask = prompts[given[0]] if given else None, kwargs.get("attention_mask")
    if ids is None:
        return kwargs
    check_shapes(ids, mask, None, None, {})
    if mask is not None:
        check_mask("attention_mask", mask)
    least, most = (int(number) for number in ids.aminmax())
    if least < 0 or most >= size:
        raise ValueError(
            f"input_ids holds {least if least < 0 else most}, which is not in 0..{size - 1}, the vocabulary: make "
            "them with the model's own tokenizer."
        )
    return kwargs


def check_rows(
    config: LlaraConfig,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    labels: torch.Tensor | None,
    spans: dict[str, Span],
    targets: dict[str, torch.Tensor | None],
) -> None:
    """Raise ValueError for the first row with a broken prompt, an id or position out of range, or a lost target."""
    size, limit = config.text_config.vocab_size, config.max_positions
    given, mask = mask, mask.bool()
    odd = "has an attention_mask that is not 1 at tokens and 0 at padding: give such a mask"
    checks = [
        (((given != 0) & (given != 1)).any(1), odd),
        (~mask.any(1), "has no token under its attention_mask: drop the row"),
        (((input_ids < 0) | (input_ids >= size)).any(1), f"has input_ids outside 0..{size - 1}, the vocabulary"),
        (((positions < 0) | (positions >= limit)).any(1), f"needs position_ids outside 0..{limit - 1}: shorten it"),
    ]
    if labels is not None:
        wrong = ((labels < 0) & (labels != IGNORED_LABEL)) | (labels >= size)
        checks.append((wrong.any(1), f"has labels that are neither {IGNORED_LABEL} nor in 0..{size - 1}"))
    for name, span in spans.items():
        advice = "build rows with build_row, which cuts the passage and keeps the prompts whole"
        checks.append((span.broken, f"holds special tokens of the {name} prompt, but not the prompt whole: {advice}"))
        ids = targets[f"output_{name}_ids"]
        if ids is not None:
            checks.append(((ids >= size).any(1), f"has output_{name}_ids outside 0..{size - 1}, the vocabulary"))
            ignored = torch.tensor(config.ignored_target_ids, dtype=ids.dtype, device=ids.device)
            wanted = ((ids >= 0) & ~torch.isin(ids, ignored)).any(1)
            missing = f"has output_{name}_ids but no {name} prompt: add the prompt, or give the row -100 as its ids"
            checks.append((wanted & ~span.present & ~span.broken, missing))
    order = "does not end with [summarize prompt | predict prompt] (either may be left out): reorder it"
    checks.append((layout_error(mask, spans["summarize"], spans["predict"]), order))
    failed = torch.stack([rows for rows, _ in checks]).cpu()  # the one sync
    for rows, (_, message) in zip(failed, checks, strict=True):
        if rows.any():
            raise ValueError(f"row {int(rows.long().argmax())} of the batch {message}.")


def check_vocabulary(config: LlaraConfig) -> None:
    """Raise ValueError where an id is not of the backbone's vocabulary, or no prompt has ids."""
    size = config.text_config.vocab_size
    for name in ("summarize_prompt_ids", "predict_prompt_ids", "ignored_target_ids", "prefix_ids"):
        if (largest := max([-1, *getattr(config, name)])) >= size:
            raise ValueError(
                f"{name} holds {largest}, and the backbone's vocabulary ends at {size - 1}: resize the backbone's "
                "embeddings first, or correct the ids."
            )
    if not config.summarize_prompt_ids and not config.predict_prompt_ids:
        raise ValueError(
            "summarize_prompt_ids and predict_prompt_ids are both empty: give them, or a tokenizer to from_backbone."
        )
