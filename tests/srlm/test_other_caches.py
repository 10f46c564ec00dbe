"""Generation on backbones that carry something else from token to token than keys and values, or nothing at all."""

import pytest
import torch
import transformers

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.cache_srlm import keeps_past
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer

SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": None,
    "pad_token_id": 2, "initializer_range": 0.2,
}  # fmt: skip
# (configuration, its own sizes, whether it goes on from a cache of transformers' general kind)
FAMILIES = {
    "bamba": ("BambaConfig", {"attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8}, True),
    "openai-gpt": ("OpenAIGPTConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048}, False),
    "rwkv": ("RwkvConfig", {"attention_hidden_size": 32}, False),
    "mamba": ("MambaConfig", {}, False),
    "minimax": (
        "MiniMaxConfig",
        {"head_dim": 8, "num_local_experts": 2, "layer_types": ["linear_attention", "full_attention"]},
        False,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_new_tokens_are_those_of_the_plain_pass(family):
    """In a window that holds the text, also across chunk boundaries and beside padding."""
    name, own, caches = FAMILIES[family]
    torch.manual_seed(0)
    backbone = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**SIZES, **own})).eval()
    assert keeps_past(backbone) is caches
    lm = SelfRetrievalLM.from_components(
        backbone, tiny_tokenizer(), retrieval_method="no", context_window_size=256, chunk_size=8
    )
    lm.generation_config.eos_token_id, lm.generation_config.pad_token_id = None, 2
    ids = random_ids(1, 28, seed=3)
    with torch.no_grad():
        wanted = ids
        for _ in range(8):
            wanted = torch.cat([wanted, backbone(wanted).logits[:, -1:].argmax(-1)], dim=1)
    found = lm.generate(ids, max_new_tokens=8, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(found.sequences, wanted)
    torch.testing.assert_close(torch.stack(found.logits, 1), backbone(wanted).logits[:, 27:-1], atol=1e-3, rtol=1e-3)
    if caches:
        padded = torch.nn.functional.pad(ids[:, 11:], (11, 0), value=2)
        batch = lm.generate(
            torch.cat([ids, padded]), attention_mask=torch.cat([ids, padded]).ne(2).long(), max_new_tokens=8
        )
        assert torch.equal(batch[:1], wanted)


def test_what_has_keys_and_values_alone_is_not_tried(monkeypatch):
    backbone = tiny_backbone("llama")

    def never(input_ids=None, past_key_values=None, **kwargs):
        raise AssertionError

    monkeypatch.setattr(backbone, "forward", never)
    assert keeps_past(backbone)
