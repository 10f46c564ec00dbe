"""Adapters on embeddings and heads that are tied: merged, saved and loaded, the model's outputs stay."""

import pytest
import torch
from peft import LoraConfig

from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.srlm import build as build_srlm
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers import add_adapter, merge_adapter

EMBEDDINGS = {"llama": "embed_tokens", "gpt2": "wte"}
# Settings of a LoRA whose merged embeddings and head stay the same, or do not.
TIED = {
    "neither": {},
    "rows": {"trainable_token_indices": [5, 6]},
    "both whole, tied": {"modules_to_save": ["embeddings"], "ensure_weight_tying": True},
}
UNTIED = {
    "embeddings whole": {"modules_to_save": ["embeddings"]},
    "head whole": {"modules_to_save": ["lm_head"]},
    "both whole": {"modules_to_save": ["embeddings", "lm_head"]},
    "LoRA on embeddings": {"target_modules": ["q_proj", "c_attn", "embeddings"]},
    "LoRA on head": {"target_modules": ["q_proj", "c_attn", "lm_head"]},
    "LoRA on head, rows of both": {
        "target_modules": ["q_proj", "c_attn", "lm_head"],
        "trainable_token_indices": [5, 6],
    },
    "LoRA on both": {"target_modules": ["q_proj", "c_attn", "embeddings", "lm_head"]},
}


def llara(family, tied=True):
    backbone = tiny_backbone(family, tie_word_embeddings=tied)
    return LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer()).eval()


def adapted(make, family, settings):
    model = make(family, tie_word_embeddings=True) if make is build_srlm else make(family)
    names = {
        key: [EMBEDDINGS[family] if name == "embeddings" else name for name in value]
        for key, value in settings.items()
        if key in ("modules_to_save", "target_modules")
    }
    add_adapter(model, LoraConfig(r=4, **{"target_modules": ["q_proj", "c_attn"], **settings, **names}))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in [one for one in model.parameters() if one.requires_grad]:
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model.eval()


def outputs(model):
    ids = 3 + random_ids(2, 96, seed=4) % 200  # without LLaRA's own tokens
    with torch.no_grad():
        return model(ids, labels=ids).loss if isinstance(model, SelfRetrievalLM) else model(ids).logits


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", EMBEDDINGS)
@pytest.mark.parametrize("make", quick_first([build_srlm, llara]))
@pytest.mark.parametrize("case", [*TIED, *UNTIED])
def test_a_merge_over_tied_embeddings_is_exact(tmp_path, make, family, case):
    model = adapted(make, family, {**TIED, **UNTIED}[case])
    expected = outputs(model)
    merged = merge_adapter(model)
    torch.testing.assert_close(outputs(merged), expected, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(loaded), expected, rtol=0, atol=1e-5)
    stays_tied = case in TIED and (family, case) != ("gpt2", "both whole, tied")  # peft does not tie GPT-2's
    for one in (merged, loaded):
        assert (one.get_output_embeddings().weight is one.get_input_embeddings().weight) == stays_tied
        assert one.config.tie_word_embeddings == one.config.text_config.tie_word_embeddings == stays_tied
