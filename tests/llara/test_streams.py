"""A row with both prompts is two rows with one prompt each: for every family, padding side and attention."""

import pytest
import torch
import transformers
from transformers import masking_utils
from transformers.integrations import flex_attention as flex

from modeling_llara import LlaraForPreTraining, build_row
from modeling_llara.inputs_llara import read_batch
from modeling_llara.masking_llara import two_stream_mask
from tests.support.tiny import DECODERS, FAMILIES, random_ids, tiny_backbone, tiny_tokenizer

# Wider than a prompt, narrower than a row: the predict prompt sees the end of the passage through the window.
WINDOWED = {"mistral": {"sliding_window": 64}, "qwen": {"use_sliding_window": True, "sliding_window": 64,
                                                       "max_window_layers": 1}}  # fmt: skip


FLEXIBLE = tuple(family for family in DECODERS if family != "gpt2")  # transformers offers GPT-2 no FlexAttention
LAYOUTS = {
    "mixed": [(True, True), (True, False), (False, True)],
    "both": [(True, True)] * 3,
    "summarize alone": [(True, False)] * 3,
    "predict alone": [(False, True)] * 3,
}
PROMPTS = ("summarize", "predict")


def adapted(family: str, attention: str = "sdpa", counts: tuple[int, int] = (8, 8), **config) -> LlaraForPreTraining:
    backbone = tiny_backbone(family, attn_implementation=attention, **config)
    return LlaraForPreTraining.from_backbone(
        backbone, tiny_tokenizer(), num_summary_tokens=counts[0], num_predict_tokens=counts[1]
    )


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


def assert_one_pass_is_two(model, layouts: dict[str, list[tuple[bool, bool]]] = LAYOUTS) -> None:
    """The states at the special tokens, in batches of every layout, are the backbone's own on one row each."""
    passages = [passage(60, 1), passage(23, 2), passage(31, 3)]
    alone = [{name: states_alone(model, ids, name) for name in PROMPTS} for ids in passages]
    for layout in layouts.values():
        rows = [
            build_row(model.config, ids, summarize=summarize, predict=predict)["input_ids"]
            for ids, (summarize, predict) in zip(passages, layout, strict=True)
        ]
        for side in ("left", "right"):
            for found, wanted, there in zip(prompt_states(model, rows, side), alone, layout, strict=True):
                for name, present in zip(PROMPTS, there, strict=True):
                    if present:
                        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-5)
                    else:
                        assert len(found[name]) == 0


@torch.no_grad()
def states_alone(model, ids: list[int], name: str) -> torch.Tensor:
    """(special tokens, d): the backbone itself, on one unpadded row with one prompt and its own causal mask."""
    row = build_row(model.config, ids, summarize=name == "summarize", predict=name == "predict")["input_ids"]
    count = model.config.num_summary_tokens if name == "summarize" else model.config.num_predict_tokens
    implementation = model.backbone.config._attn_implementation
    model.backbone.set_attn_implementation("eager")
    states = model.backbone.base_model(torch.tensor([row])).last_hidden_state[0, -count:]
    model.backbone.set_attn_implementation(implementation)
    assert states.std() > 0.1
    return states


@pytest.mark.cases(2)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("family", "config"), [*((name, {}) for name in DECODERS), *WINDOWED.items()],
    ids=[*DECODERS, *(f"{name}-window" for name in WINDOWED)],
)  # fmt: skip
def test_one_pass_is_two(family, config, attention):
    assert_one_pass_is_two(adapted(family, attention, **config))


@pytest.mark.cases(2)
@pytest.mark.parametrize("counts", [(1, 1), (3, 1), (2, 8)])
@pytest.mark.parametrize("family", DECODERS)
def test_any_number_of_special_tokens(family, counts):
    model = adapted(family, counts=counts)
    states = prompt_states(model, [build_row(model.config, passage(20))["input_ids"]], "left")[0]
    assert (len(states["summarize"]), len(states["predict"])) == counts
    assert_one_pass_is_two(model, {"mixed": LAYOUTS["mixed"]})


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


@pytest.mark.cases(1)
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


def test_flash_attention_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"flash_attention_3.*attn_implementation='sdpa'"):
        LlaraForPreTraining.from_backbone(tmp_path, attn_implementation="flash_attention_3")
    model = adapted("llama")
    model.backbone.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match=r"flash_attention_2.*attn_implementation='sdpa'"):
        model(torch.tensor([passage(5)]))


@pytest.fixture
def uncompiled_flex(monkeypatch):
    """FlexAttention without compiling, which takes most of a minute; it is given the same block mask."""
    monkeypatch.setattr(flex.WrappedFlexAttention, "__call__", lambda self: flex.flex_attention)
    monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    make = masking_utils.create_block_mask
    monkeypatch.setattr(masking_utils, "create_block_mask", lambda **kw: make(**{**kw, "_compile": False}))


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("family", "config"), [*((name, {}) for name in FLEXIBLE), *WINDOWED.items()],
    ids=[*FLEXIBLE, *(f"{name}-window" for name in WINDOWED)],
)  # fmt: skip
def test_one_pass_is_two_under_flex_attention(family, config, uncompiled_flex):
    assert_one_pass_is_two(adapted(family, "flex_attention", **config), {"mixed": LAYOUTS["mixed"]})


@pytest.mark.slow
def test_one_pass_is_two_in_a_compiled_kernel():
    """On the CPU the forward pass alone; the compiled backward pass needs a GPU."""
    assert_one_pass_is_two(adapted("llama", "flex_attention"), {"mixed": LAYOUTS["mixed"]})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's compiled backward pass runs on GPUs alone")
def test_gradients_under_compiled_flex_attention():
    losses = []
    for attention in ("sdpa", "flex_attention"):
        model = adapted("llama", attention).to("cuda")
        ids = torch.tensor([build_row(model.config, passage(60))["input_ids"]], device="cuda")
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append((loss.detach(), model.get_input_embeddings().weight.grad))
    torch.testing.assert_close(*losses, rtol=0, atol=1e-4)


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", ["llama", *WINDOWED])
@pytest.mark.parametrize("side", ["left", "right"])
def test_block_mask_is_the_dense_mask(name, side, uncompiled_flex):
    """Entry by entry, on rows longer than a block of 128: what a GPU's kernel reads is what sdpa is given."""
    model = adapted(name, **WINDOWED.get(name, {}))
    rows = [
        build_row(model.config, passage(150, 1))["input_ids"],
        build_row(model.config, passage(70, 2))["input_ids"],
    ]
    inputs = batch(model, rows, side)
    targets = dict.fromkeys(("output_summarize_ids", "output_predict_ids"))
    _, mask, streams, positions, *_ = read_batch(
        model.config, model.backbone.config, inputs["input_ids"], inputs["attention_mask"], None, None, targets
    )
    masks = []
    for attention in ("sdpa", "flex_attention"):
        model.backbone.config._attn_implementation = attention
        made = two_stream_mask(model.backbone.config, mask, streams, positions, torch.float32)
        masks.append(made if isinstance(made, dict) else {"only": made})
    size = mask.shape[1]
    indices = (torch.arange(2).view(2, 1, 1, 1), torch.tensor(0), torch.arange(size)[:, None], torch.arange(size))
    real = mask[:, None, :, None]  # what padding sees is nobody's business
    for kind, dense in masks[0].items():
        block = masks[1][kind]
        assert torch.equal(block.mask_mod(*indices) & real, dense & real), kind
        computed = block.to_dense()  # (2, 1, blocks, blocks): which blocks a kernel visits
        blocks = computed.repeat_interleave(128, 2).repeat_interleave(128, 3)[:, :, :size, :size].bool()
        assert not (dense & real & ~blocks).any()
        assert (~dense & blocks).any()  # blocks in part: the kernel must read the mask within them
