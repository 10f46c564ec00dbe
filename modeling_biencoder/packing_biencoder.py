"""Rows of unequal length read as one row without padding, in which each row's tokens attend to their own row alone.

On a CPU attention goes row by row, and all else (the linear layers, which are most of the work) over the tokens that
there are. With FlashAttention the backbone's own attention is told where rows begin, as transformers' packed rows tell
it. Which families take it is named here, each verified by tests/biencoder/test_packing.py; the others, and whatever
this cannot do, read padded rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .backbone_biencoder import is_own_code, sees_both_ways

# Families whose attention gets what the backbone is called with, and whose positions can be given, by
# `config.model_type`.
DECODERS = (
    "apertus", "arcee", "biogpt", "bitnet", "cohere", "cohere2", "diffllama", "ernie4_5", "exaone4", "gemma",
    "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "llama", "ministral3", "mistral",
    "olmo", "olmo2", "olmo3", "opt", "persimmon", "phi", "phi3", "qwen2", "qwen3", "seed_oss", "smollm3", "starcoder2",
)  # fmt: skip
_FROM_PADDING = ("camembert", "roberta", "xlm-roberta")  # positions begin behind that of padding
ENCODERS = ("albert", "bert", "distilbert", "electra", "ernie", "nomic_bert", *_FROM_PADDING)
_SDPA, _FLASH = "sdpa", "flash_attention"
_ALONE = {"input_ids", "attention_mask"}


@dataclass
class PackedRows:
    """Rows in one: what attention is told of them, and tells of itself."""

    lengths: list[int]
    causal: bool
    attended: int = 0  # layers that have gone by it


def can_pack(model: Any, rows: Mapping[str, Any]) -> bool:
    """Whether a bi-encoder's backbone reads these rows without their padding, and there is some.

    Args:
        rows: what the backbone is called with; `input_ids` and `attention_mask` (batch, length), padded on the right.
    """
    if rows.keys() != _ALONE or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    config, backbone = model.backbone.config.get_text_config(), model.backbone
    if str(config._attn_implementation) == _SDPA:
        able = rows["input_ids"].device.type == "cpu"
    else:
        able = str(config._attn_implementation).startswith(_FLASH) and not sees_both_ways(model)
    if not able or not _is_known(backbone, config) or _goes_by_rows(backbone):
        return False
    lengths = (rows["attention_mask"] != 0).sum(dim=1)
    least, longest = int(lengths.min()), int(lengths.max())
    window = getattr(config, "sliding_window", None)
    return 0 < least < rows["input_ids"].shape[1] and (window is None or longest <= window)


def _is_known(backbone: Any, config: Any) -> bool:
    """Whether a backbone attends as the families that are named do."""
    compiled = backbone._compiled_call_impl is not None or hasattr(backbone, "_orig_mod")
    turned = "is_decoder" if config.model_type in ENCODERS else "use_bidirectional_attention"
    named = config.model_type in DECODERS + ENCODERS and not getattr(config, turned, False)
    return named and is_own_code(backbone) and not compiled


def _goes_by_rows(backbone: Any) -> bool:
    """Whether something beside attention goes by rows: NEFTune's noise by their length, PEFT's `adapter_names`."""
    if backbone.training and hasattr(backbone.get_input_embeddings(), "neftune_noise_alpha"):
        return True
    return any(module._forward_pre_hooks and hasattr(module, "lora_A") for module in backbone.modules())


def read_packed(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(batch, length) tokens, padded on the right -> (batch, length, d) last states, 0 at padding."""
    config, backbone = model.backbone.config.get_text_config(), model.backbone
    real = attention_mask != 0
    positions = _positions(input_ids, config)[real]
    packed: dict[str, Any] = {"input_ids": input_ids[real][None], "position_ids": positions[None]}
    lengths = real.sum(dim=1)
    if config._attn_implementation == _SDPA:
        attend_by_rows()
        rows = PackedRows(lengths.tolist(), config.model_type in DECODERS and not sees_both_ways(model))
        mask = real.new_ones(1, 1, 1, 1)  # one that nobody reads, or the backbone makes one of all pairs of tokens
        states = backbone(**packed, attention_mask=mask, packed_rows=rows)[0]
        if rows.attended < config.num_hidden_layers:  # some are configured otherwise: tokens have seen other rows
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


def attend_by_rows() -> None:
    """Lets transformers' "sdpa" go row by row where it is called with `packed_rows`, once for all copies of this code.

    Not a name of its own in the backbone's configuration: a layer that is run again for its gradient, one with a copy
    of the configuration, and another thread find what is there at that time.
    """
    plain = ALL_ATTENTION_FUNCTIONS[_SDPA]
    if getattr(plain, "takes_packed_rows", False):
        return

    @wraps(plain)
    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any,
        packed_rows: PackedRows | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        if packed_rows is None:
            return plain(module, query, key, value, *args, **kwargs)
        return _attend_by_row(query, key, value, packed_rows, **kwargs)

    attend.takes_packed_rows = True  # type: ignore[attr-defined]
    AttentionInterface.register(_SDPA, attend)


def _attend_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed_rows: PackedRows,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(1, heads, tokens, size) -> (1, tokens, heads, size), as transformers' attention functions."""
    packed_rows.attended += 1
    rows = zip(*(states.split(packed_rows.lengths, dim=2) for states in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    shared: dict[str, Any] = {
        "dropout_p": dropout, "scale": scaling, "is_causal": packed_rows.causal, "enable_gqa": grouped
    }  # fmt: skip
    attended = [F.scaled_dot_product_attention(*row, **shared) for row in rows]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None
