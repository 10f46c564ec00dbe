"""A row with both prompts is two rows with one prompt each: for every family, padding side and attention."""

import pytest
import torch
import transformers

from modeling_llara import LlaraForPreTraining, build_row
from tests.tiny import DECODERS, FAMILIES, random_ids, tiny_backbone, tiny_tokenizer

# Wider than a prompt, narrower than a row: the predict prompt sees the end of the passage through the window.
WINDOWED = {"mistral": {"sliding_window": 64}, "qwen": {"use_sliding_window": True, "sliding_window": 64,
                                                       "max_window_layers": 1}}  # fmt: skip


def adapted(family: str, attention: str = "sdpa", **config) -> LlaraForPreTraining:
    backbone = tiny_backbone(family, attn_implementation=attention, **config)
    return LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer())


def passage(length: int, seed: int = 0) -> list[int]:
    return (random_ids(length, seed=seed) % 250 + 3).tolist()  # below the prompts' special tokens


def batch(model, rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    padded = model.tokenizer.pad({"input_ids": rows}, padding_side=side, return_tensors="pt")
    return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}


@torch.no_grad()
def prompt_states(model, rows: list[list[int]], side: str) -> list[dict[str, torch.Tensor]]:
    """For each row the last hidden states at each prompt's special tokens, found by their ids."""
    inputs = batch(model, rows, side)
    states = model(**inputs, output_hidden_states=True).hidden_states[-1]
    specials = {"summarize": model.config.summarize_token_ids, "predict": model.config.predict_token_ids}
    return [
        {name: row[torch.isin(ids, torch.tensor(tokens))] for name, tokens in specials.items()}
        for row, ids in zip(states, inputs["input_ids"], strict=True)
    ]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("family", "config"), [*((name, {}) for name in DECODERS), *WINDOWED.items()],
    ids=[*DECODERS, *(f"{name}-window" for name in WINDOWED)],
)  # fmt: skip
def test_one_pass_is_two(family, config, attention):
    model = adapted(family, attention, **config)
    passages = [passage(60, 1), passage(23, 2), passage(31, 3)]
    choices = [(True, True), (True, False), (False, True)]  # a batch of every layout
    mixed = [
        build_row(model.config, ids, summarize=summarize, predict=predict)["input_ids"]
        for ids, (summarize, predict) in zip(passages, choices, strict=True)
    ]
    both_sides = [prompt_states(model, mixed, side) for side in ("left", "right")]
    for ids, (summarize, predict), left, right in zip(passages, choices, *both_sides, strict=True):
        for name, wanted in (("summarize", summarize), ("predict", predict)):
            if wanted:
                row = build_row(model.config, ids, summarize=name == "summarize", predict=name == "predict")
                # The backbone itself, on one unpadded row with its own causal mask.
                with torch.no_grad():
                    alone = model.backbone.base_model(torch.tensor([row["input_ids"]])).last_hidden_state[0, -8:]
                assert alone.std() > 0.1
                torch.testing.assert_close(left[name], alone, rtol=0, atol=1e-5)
                torch.testing.assert_close(right[name], alone, rtol=0, atol=1e-5)
            else:
                assert len(left[name]) == len(right[name]) == 0


def test_streams_would_differ_without_mask_and_positions():
    """The equality above is not for free: plain causal attention over both prompts gives something else."""
    model = adapted("gpt2")
    row = torch.tensor([build_row(model.config, passage(30))["input_ids"]])
    with torch.no_grad():
        plain = model.backbone.base_model(row).last_hidden_state
        ours = model(row, output_hidden_states=True).hidden_states[-1]
    assert (plain[0, -8:] - ours[0, -8:]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "settings"),
    [("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 16}), ("GraniteConfig", {"logits_scaling": 4.0}),
     ("CohereConfig", {"logit_scale": 0.5}), ("Gemma2Config", {"head_dim": 8, "final_logit_softcapping": 2.0}),
     ("GPTNeoXConfig", {})],
)  # fmt: skip
def test_logits_are_the_backbones_own(name, settings):
    sizes = {**FAMILIES["llama"][1], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = getattr(transformers, name)(**{**sizes, "initializer_range": 0.2, **settings})
    backbone = transformers.AutoModelForCausalLM.from_config(config).eval()
    model = LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer())
    ids = torch.tensor([passage(30)])
    with torch.no_grad():
        torch.testing.assert_close(model(ids, output_logits=True).logits, backbone(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"), [("BertConfig", "not causal"), ("BloomConfig", "4-D attention mask"),
                          ("MambaConfig", "4-D attention mask"), ("Qwen3NextConfig", "linear_attention")],
)  # fmt: skip
def test_backbones_that_cannot_serve(name, message):
    sizes = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, name)(**sizes, num_key_value_heads=2, intermediate_size=64)
    backbone = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match=message):
        LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer())


def test_flash_attention_is_refused():
    model = adapted("llama")
    model.backbone.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"flash_attention_2.*attn_implementation='sdpa'"):
        model(torch.tensor([passage(5)]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_any_number_of_special_tokens(family):
    backbone = tiny_backbone(family)
    model = LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer(), num_summary_tokens=3, num_predict_tokens=1)
    both = build_row(model.config, passage(20))["input_ids"]
    states = prompt_states(model, [both], "left")[0]
    assert states["summarize"].shape[0] == 3
    alone = prompt_states(model, [build_row(model.config, passage(20), summarize=False)["input_ids"]], "left")[0]
    torch.testing.assert_close(states["predict"], alone["predict"], rtol=0, atol=1e-5)
