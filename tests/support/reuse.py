"""What the tests of `reuse_states` share: models of many families, and the mode written out slowly."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from modeling_srlm import SelfRetrievalLM
from tests.support.srlm import ByteCounter
from tests.support.tiny import VOCABULARY_SIZE, tiny_tokenizer

_SIZES = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
_SLIDES = {"sliding_window": 24}
_ALL_SLIDE = {"sliding_window": 100}  # in every layer, past the window of `SETTINGS` and into what is retrieved
# Family -> what it needs beside the sizes. Window and full attention alternate in Gemma; Phi rotates half of a head.
ROTARY = {
    "llama": {}, "qwen2": {}, "qwen3": {"head_dim": 8}, "mistral": _ALL_SLIDE, "gemma2": {"head_dim": 8, **_SLIDES},
    "gemma3_text": {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"], **_SLIDES},
    "phi": {}, "phi3": {}, "cohere2": _ALL_SLIDE, "glm": {"head_dim": 8},
}  # fmt: skip
REFUSED = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4}, "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_head": 4, "n_layer": 2}, "mamba": {}, "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "gemma3n_text": {
        "head_dim": 8, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_hidden_layers": 4,
        "vocab_size_per_layer_input": VOCABULARY_SIZE, "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "deepseek_v3": {
        "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
        "num_key_value_heads": 4, "first_k_dense_replace": 2,
    },
    "llama4_text": {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64},
    "qwen3_next": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "reuse_states": True, "context_window_size": 64, "chunk_size": 16, "key_num": 2, "num_sink_tokens": 4,
}  # fmt: skip


def backbone(family: str, **settings: object) -> PreTrainedModel:
    """A small random causal LM of a family, by transformers' name."""
    config = transformers.CONFIG_MAPPING[family](**{**_SIZES, **{**ROTARY, **REFUSED}[family], **settings})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def build(family: str = "llama", **settings: object) -> SelfRetrievalLM:
    """A model that reuses states, without a retriever unless one is given."""
    given = {"tokenizer": tiny_tokenizer(), **SETTINGS, **settings}
    return SelfRetrievalLM.from_components(backbone(family), **given)  # type: ignore[arg-type]


def build_endless(family: str = "llama", **settings: Any) -> SelfRetrievalLM:
    """The same with a retriever, and without a token that ends a text."""
    model = build(family, **{"retrieval_method": "bm25", "retriever": ByteCounter(), **settings})
    for part in (model, model.language_model):
        part.generation_config.eos_token_id, part.generation_config.pad_token_id = None, 2
    return model


def slow_logits(
    model: SelfRetrievalLM, ids: torch.Tensor, retrieve: Callable[[int, int], list[int]], block: int = 1
) -> torch.Tensor:
    """(length, V) logits of a text (length,), chunk by chunk, with a new cache for each of them.

    `retrieve(target, keys)`: the keys of a target chunk among the first so many chunks, in the order of their values.
    `block`: chunks whose states carry a gradient for each other; those of former blocks are constant.
    Keys are kept as they came, with their chunk's position; what a chunk attends to is put together anew.
    """
    config, backbone = model.config, model.language_model
    size, window, sinks = config.chunk_size, config.context_window_size, config.num_sink_tokens
    layers = backbone.config.num_hidden_layers
    kept: list[tuple[int, list[tuple[torch.Tensor, torch.Tensor]]]] = []  # of each chunk, its position and states
    logits = []
    for start in range(0, len(ids), size):
        chunk = start // size
        if chunk % block == 0:
            kept = [(place, [(keys.detach(), values.detach()) for keys, values in states]) for place, states in kept]
        first = max(start - window, 0)
        keys = retrieve(chunk, max(chunk - window // size - 1, 0)) if first else []
        values = dict.fromkeys(number for key in keys for number in (key, key + 1))
        parts = [(0, 0, sinks)] if first else []  # (chunk, from its token, to that one)
        parts += [(number, sinks if number == 0 else 0, size) for number in values]
        parts += [(number, 0, size) for number in range(first // size, chunk)]
        places = [sum(part[2] - part[1] for part in parts[:number]) for number in range(len(parts) + 1)]
        cache = DynamicCache()
        for layer in range(layers) if parts else ():
            states = [
                (
                    moved(
                        backbone, layer, kept[number][1][layer][0][:, :, begin:end], place - kept[number][0] - begin
                    ),
                    kept[number][1][layer][1][:, :, begin:end],
                )
                for place, (number, begin, end) in zip(places, parts, strict=False)
            ]
            cache.update(*(torch.cat(part, dim=-2) for part in zip(*states, strict=True)), layer)
        read = ids[None, start : start + size]
        position_ids = torch.arange(places[-1], places[-1] + read.shape[1])[None]
        logits.append(backbone(read, position_ids=position_ids, past_key_values=cache).logits[0])
        states = [(layer.keys[:, :, places[-1] :], layer.values[:, :, places[-1] :]) for layer in cache.layers]
        kept.append((places[-1], states))
    return torch.cat(logits)


def moved(backbone: PreTrainedModel, layer: int, keys: torch.Tensor, shift: int) -> torch.Tensor:
    """Keys `shift` positions further on, by the backbone's own embedding of that position."""
    kinds = getattr(backbone.config, "layer_types", None)
    args = (kinds[layer],) if backbone.config.model_type == "gemma3_text" else ()
    cos, sin = (part[0] for part in backbone.base_model.rotary_emb(keys, torch.tensor([[shift]]), *args))
    size = cos.shape[-1]
    turned, rest = keys[..., :size], keys[..., size:]
    other = torch.cat([-turned[..., size // 2 :], turned[..., : size // 2]], dim=-1)
    return torch.cat([turned * cos + other * sin, rest], dim=-1)
