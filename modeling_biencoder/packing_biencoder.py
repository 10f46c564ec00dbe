"""Rows of unequal length read as one row without padding, in which each row's tokens attend to their own row alone.

On a CPU attention goes row by row, and all else (the linear layers, which are most of the work) over the tokens that
there are. With FlashAttention the backbone's own attention is told where rows begin, as transformers' packed rows tell
it. Which families take it is named here, each verified by tests/biencoder/test_packing.py; the others, and whatever
this cannot do, read padded rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

# Families whose attention gets what the backbone is called with, and whose positions can be given, by
# `config.model_type`.
DECODERS = (
    "apertus", "arcee", "biogpt", "bitnet", "cohere", "cohere2", "diffllama", "ernie4_5", "exaone4", "gemma",
    "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "llama", "ministral3", "mistral",
    "olmo", "olmo2", "olmo3", "opt", "persimmon", "phi", "phi3", "qwen2", "qwen3", "seed_oss", "smollm3", "starcoder2",
)  # fmt: skip
_FROM_PADDING = ("camembert", "roberta", "xlm-roberta")  # positions begin behind that of padding
ENCODERS = ("albert", "bert", "distilbert", "electra", "ernie", "nomic_bert", *_FROM_PADDING)
_BY_ROW = "lookback_row_by_row"
_FLASH = "flash_attention"
_ALONE = {"input_ids", "attention_mask"}


@dataclass
class PackedRows:
    """Rows in one: what attention is told of them, and tells of itself."""

    lengths: list[int]
    causal: bool
    attended: bool = False


def can_pack(model: Any, rows: Mapping[str, Any]) -> bool:
    """Whether a bi-encoder's backbone reads these rows without their padding, and there is some.

    Args:
        rows: what the backbone is called with; `input_ids` and `attention_mask` (batch, length), padded on the right.
    """
    if rows.keys() != _ALONE or torch.compiler.is_compiling():
        return False
    config, backbone = model.backbone.config.get_text_config(), model.backbone
    attention = str(config._attn_implementation)
    if attention == "sdpa":
        able = rows["input_ids"].device.type == "cpu"
    else:
        able = attention.startswith(_FLASH) and not model.config.bidirectional
    # A layer that is run again for its gradient would not find the attention that it had at first.
    again = torch.is_grad_enabled() and _computes_again(backbone)
    compiled = backbone._compiled_call_impl is not None or hasattr(backbone, "_orig_mod")
    if not able or again or compiled or config.model_type not in DECODERS + ENCODERS:
        return False
    lengths = (rows["attention_mask"] != 0).sum(dim=1)
    least, longest = int(lengths.min()), int(lengths.max())
    window = getattr(config, "sliding_window", None)
    return 0 < least < rows["input_ids"].shape[1] and (window is None or longest <= window)


def _computes_again(backbone: Any) -> bool:
    renamed = "is_activation_checkpointing"  # by newer versions of transformers
    return getattr(backbone, renamed if hasattr(type(backbone), renamed) else "is_gradient_checkpointing", False)


def read_packed(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(batch, length) tokens, padded on the right -> (batch, length, d) last states, 0 at padding."""
    config, backbone = model.backbone.config.get_text_config(), model.backbone
    real = attention_mask != 0
    positions = _positions(input_ids, config)[real]
    packed: dict[str, Any] = {"input_ids": input_ids[real][None], "position_ids": positions[None]}
    lengths = real.sum(dim=1)
    if config._attn_implementation == "sdpa":
        causal = config.model_type in DECODERS and not model.config.bidirectional
        rows = PackedRows(lengths.tolist(), causal)
        states = _read_by_row(backbone, config, packed_rows=rows, **packed)
        if not rows.attended:  # by layers with another configuration: each token has seen the other rows
            return backbone(input_ids=input_ids, attention_mask=attention_mask)[0]
    else:
        states = backbone(**packed, **_starts(lengths))[0]
    padded = states.new_zeros(*real.shape, states.shape[-1])
    padded[real] = states[0]
    return padded


def _positions(input_ids: torch.Tensor, config: Any) -> torch.Tensor:
    """(batch, length) as the backbone counts them where it is not told."""
    if config.model_type in _FROM_PADDING:  # a token that is the padding's in a text has no place of its own
        counted = input_ids != config.pad_token_id
        return counted.cumsum(dim=1) * counted + config.pad_token_id
    return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)


def _starts(lengths: torch.Tensor) -> dict[str, Any]:
    """Where rows begin, as transformers' FlashAttention takes it."""
    starts = F.pad(lengths.cumsum(dim=0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    ends = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts}
    return {**ends, "max_length_q": longest, "max_length_k": longest, "use_cache": False}


def _read_by_row(backbone: Any, config: Any, **packed: Any) -> torch.Tensor:
    configured = config._attn_implementation
    config._attn_implementation = _BY_ROW
    try:
        return backbone(**packed)[0]
    finally:
        config._attn_implementation = configured


def _attend_by_row(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed_rows: PackedRows,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, tokens, size) -> (1, tokens, heads, size), as transformers' attention functions."""
    packed_rows.attended = True
    rows = zip(*(states.split(packed_rows.lengths, dim=2) for states in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    shared: dict[str, Any] = {
        "dropout_p": dropout, "scale": scaling, "is_causal": packed_rows.causal, "enable_gqa": grouped
    }  # fmt: skip
    attended = [F.scaled_dot_product_attention(*row, **shared) for row in rows]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_BY_ROW, _attend_by_row)
AttentionMaskInterface.register(_BY_ROW, lambda *args, **kwargs: None)
