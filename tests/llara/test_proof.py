"""What is proved of a backbone that LLaRA takes: which families fit, and what is said of those that do not."""

import pytest
import torch
import transformers

from modeling_llara import LlaraConfig, LlaraForPreTraining
from modeling_llara.proof_llara import check_backbone
from tests.support.tiny import FAMILIES, tiny_backbone, tiny_tokenizer

SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SEQ2SEQ = {
    "vocab_size": 512, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
    "max_position_embeddings": 512, "dropout": 0.0, "is_decoder": True, "is_encoder_decoder": False,
}  # fmt: skip
NEO = {
    "vocab_size": 512, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 512,
    "attention_types": [[["global", "local"], 1]],
}  # fmt: skip
MPT = {"vocab_size": 512, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}
BY_INDEX = "counts a token's place by its index"


def causal_lm(name: str, sizes: dict, dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SPECIAL, **sizes)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.mark.cases(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "sizes"),
    [("BartConfig", {**SEQ2SEQ, "init_std": 0.2}), ("PegasusConfig", {**SEQ2SEQ, "init_std": 0.2}),
     ("MptConfig", {**MPT, "initializer_range": 0.2})],
)  # fmt: skip
def test_a_backbone_that_swallows_positions(name, sizes, dtype):
    """In it padding on the left, or a prompt in between, moves what stands behind."""
    with pytest.raises(ValueError, match=BY_INDEX):
        LlaraForPreTraining.from_backbone(causal_lm(name, sizes, dtype), tiny_tokenizer())


def test_as_transformers_draws_the_weights():
    """Of small random weights, too, where attention hardly differs from word to word."""
    with pytest.raises(ValueError, match=BY_INDEX):
        check_backbone(causal_lm("BartConfig", SEQ2SEQ))


@pytest.mark.parametrize("window", [4, 64, 511])
def test_local_windows_that_rows_exceed(window):
    with pytest.raises(ValueError, match=rf"'local', with a window of {window} tokens"):
        LlaraForPreTraining.from_backbone(causal_lm("GPTNeoConfig", {**NEO, "window_size": window}), tiny_tokenizer())


def test_local_windows_as_long_as_any_row():
    check_backbone(causal_lm("GPTNeoConfig", {**NEO, "window_size": 512}))
    check_backbone(causal_lm("GPTNeoConfig", {**NEO, "window_size": 4, "attention_types": [[["global"], 2]]}))


@pytest.mark.cases(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("scale", [0.02, 0.2])
def test_families_that_fit(family, dtype, scale):
    check_backbone(tiny_backbone(family, **{"init_std" if family == "opt" else "initializer_range": scale}).to(dtype))


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", ["MistralConfig", "Gemma2Config", "Gemma3TextConfig", "Starcoder2Config"])
@pytest.mark.parametrize("window", [3, 12, 64])
def test_windows_that_masks_are_made_from_fit(name, window):
    """Also one that is shorter than a prompt."""
    sizes = {**FAMILIES["llama"][1], "sliding_window": window, "initializer_range": 0.2}
    check_backbone(causal_lm(name, sizes | ({"head_dim": 8} if "Gemma" in name else {})))


def test_a_language_model_that_is_a_part_is_refused_by_name():
    text = {**FAMILIES["llama"][1], "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes = {"text_config": text, "vision_config": {**vision, "image_size": 28, "patch_size": 14}}
    with pytest.raises(ValueError, match=r"Gemma3ForConditionalGeneration.*'gemma3_text'.*as a causal LM"):
        LlaraForPreTraining.from_backbone(causal_lm("Gemma3Config", sizes), tiny_tokenizer())


def test_positions_under_another_name():
    """Whisper's decoder takes positions, and has a name of its own for how many."""
    sizes = {
        "vocab_size": 512,
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
    }
    backbone = causal_lm("WhisperConfig", {**sizes, "max_target_positions": 96})
    model = LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer())
    assert model(torch.full((1, 96), 3), output_logits=True).logits.isfinite().all()
    with pytest.raises(ValueError, match=r"outside 0\.\.95"):
        model(torch.full((1, 97), 3))
    assert LlaraConfig(text_config=transformers.MptConfig()).max_positions > 10**9  # which names none


def test_a_mixture_of_experts_in_half_precision():
    """Rounding may send a token to another expert."""
    sizes = {**FAMILIES["llama"][1], "num_local_experts": 4, "num_experts_per_tok": 2}
    check_backbone(causal_lm("MixtralConfig", sizes, torch.bfloat16))


def test_a_window_that_the_layers_do_not_heed():
    sizes = {**FAMILIES["llama"][1], "ffn_dim": 64, "max_position_embeddings": 64, "initializer_range": 0.2}
    del sizes["intermediate_size"]
    backbone = causal_lm("MoshiConfig", {**sizes, "sliding_window": 8})
    with pytest.raises(
        ValueError, match=r"'moshi' has sliding_window=8 .* look further.*sliding_window to its max_pos"
    ):
        LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer())
    backbone.config.sliding_window = 64  # as long as any row
    ids = torch.arange(3, 43)[None]
    prompts = {"summarize_prompt_ids": [*range(100, 108)], "predict_prompt_ids": [*range(110, 118)]}
    model = LlaraForPreTraining.from_backbone(backbone, **prompts)
    torch.testing.assert_close(model(ids, output_logits=True).logits, backbone(ids).logits, atol=1e-4, rtol=1e-4)
