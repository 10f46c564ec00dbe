"""The backbone at work: its last hidden states under the two-stream mask, and its logits at chosen rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .masking_llara import two_stream_mask, two_stream_positions
from .placement_llara import is_dispatched


def scale_logits(logits: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """What some families do to (..., V) logits behind the output embeddings: scale (Granite, Cohere), cap (Gemma)."""
    values = vars(config)
    if scale := values.get("logit_scale"):
        logits = logits * scale
    if divisor := values.get("logits_scaling"):
        logits = logits / divisor
    if cap := values.get("final_logit_softcapping"):
        logits = cap * torch.tanh(logits / cap)
    return logits


def logits_head(backbone: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """What maps (..., d) last hidden states to (..., V) logits as the backbone does: its head itself where it can."""
    head, config = backbone.get_output_embeddings(), backbone.config
    scaled = any(vars(config).get(name) for name in ("logit_scale", "logits_scaling", "final_logit_softcapping"))
    if not scaled and not is_dispatched(backbone):
        return head
    return lambda states: scale_logits(head(states).to(states.device), config)  # it may be on another device


def run_decoder(
    backbone: PreTrainedModel,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    streams: torch.Tensor,
    position_ids: torch.Tensor | None = None,
    **outputs: bool,
) -> Any:
    """The backbone without its head over (B, L) ids under the two-stream mask; gives a transformers base output."""
    positions = two_stream_positions(mask, streams) if position_ids is None else position_ids
    attention_mask = two_stream_mask(backbone.config, mask, streams, positions, backbone.dtype)
    decoder: nn.Module = backbone.base_model
    states = decoder(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False, **outputs
    )
    states.last_hidden_state = states.last_hidden_state.to(input_ids.device)  # the last layer may be on another one
    return states
