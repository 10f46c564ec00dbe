"""A small random base model of every family that the bi-encoder names, by transformers' own names."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel

SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
WINDOW = 3
_SLIDES = {"sliding_window": WINDOW}
_SOME_LAYERS_SLIDE = {**_SLIDES, "use_sliding_window": True, "max_window_layers": 1}
# What a family needs beside SIZES, for a small model, and for layers that slide a window where it has them.
SPECIAL = {
    "codegen": {"rotary_dim": 4},
    "cohere2": _SLIDES,
    "deepseek_v3": {
        **_EXPERTS, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
        "v_head_dim": 8, "num_key_value_heads": 4, "first_k_dense_replace": 1,
    },
    "exaone4": _SLIDES,
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, **_SLIDES},
    "gemma3_text": {"head_dim": 8, **_SLIDES},
    "gpt_oss": {**_EXPERTS, "head_dim": 8, **_SLIDES},
    "gptj": {"rotary_dim": 4},
    "mistral": _SLIDES,
    "mixtral": _EXPERTS,
    "olmo3": _SLIDES,
    "olmoe": _EXPERTS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi3": _SLIDES,
    "phimoe": _EXPERTS,
    "qwen2": _SOME_LAYERS_SLIDE,
    "qwen2_moe": _EXPERTS,
    "qwen3": {**_SOME_LAYERS_SLIDE, "head_dim": 8},
    "qwen3_moe": _EXPERTS,
    "starcoder2": _SLIDES,
    "xglm": {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 64},
}  # fmt: skip


def backbone(family: str, attention: str = "sdpa", **settings: object) -> PreTrainedModel:
    """A random base model with large weights; skips what this transformers lacks."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    config = CONFIG_MAPPING[family](**{**SIZES, **SPECIAL.get(family, {}), **settings})
    try:
        model = AutoModel.from_config(config, attn_implementation=attention).eval()
    except ValueError as error:  # transformers' own refusal
        pytest.skip(f"{family} has no {attention} attention: {error}")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return model
