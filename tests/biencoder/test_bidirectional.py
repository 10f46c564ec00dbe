"""`bidirectional=True`: proven by what a later token changes, on every family that is named as able to."""

import copy
from functools import partial

import pytest
import torch
from peft import LoraConfig
from transformers import CONFIG_MAPPING

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.backbone_biencoder import BIDIRECTIONAL_DECODERS as DECODERS
from tests.support.decoders import WINDOW, backbone
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers import add_adapter

USUAL = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2", "opt")  # the others are tested as slow


def biencoder(family: str, bidirectional: bool = True, attention: str = "sdpa", **settings) -> BiEncoderModel:
    return BiEncoderModel.from_backbone(
        backbone(family, attention, **settings), tiny_tokenizer(), pooling="cls", bidirectional=bidirectional
    )


def rows_that_differ_late(position: int = 2) -> torch.Tensor:
    """(2, 7) ids, alike but for one late token, which a window of 3 around the first one (`cls`) still holds."""
    ids = random_ids(1, 7).repeat(2, 1)
    ids[1, position] = ids[0, position] % 500 + 5
    return ids


@torch.no_grad()
def change(model: BiEncoderModel, ids: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """How far apart the embeddings of two rows are."""
    first, second = model(ids, mask).embeddings
    return (first - second).abs().max().item()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "family", [family if family in USUAL else pytest.param(family, marks=pytest.mark.slow) for family in DECODERS]
)
def test_a_later_token_changes_the_first_state_and_padding_none(family: str, attention: str) -> None:
    ids = rows_that_differ_late()
    padded = torch.tensor([[1] * 6 + [0]] * 2)
    causal, open_ = biencoder(family, False, attention), biencoder(family, True, attention)
    for mask in (None, padded):
        assert change(causal, ids, mask) < 1e-6
        assert change(open_, ids, mask) > 1e-3
    bare = open_(ids[:, :6]).embeddings
    left = torch.cat([random_ids(2, 3, seed=5), ids[:, :6]], dim=1)
    right = torch.cat([ids[:, :6], random_ids(2, 3, seed=6)], dim=1)
    zeros, ones = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 6, dtype=torch.int64)
    for rows, mask in ((left, torch.cat([zeros, ones], 1)), (right, torch.cat([ones, zeros], 1))):
        torch.testing.assert_close(open_(rows, mask).embeddings, bare, rtol=0, atol=1e-5)


def test_a_sliding_layer_looks_as_far_ahead_as_behind() -> None:
    model = biencoder("mistral", num_hidden_layers=1)
    reach = [change(model, rows_that_differ_late(position)) > 1e-3 for position in range(1, 7)]
    assert reach[0] and reach[1] and not any(reach[WINDOW:])
    wide = biencoder("mistral", num_hidden_layers=1, sliding_window=None)
    assert all(change(wide, rows_that_differ_late(position)) > 1e-3 for position in range(1, 7))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "mixtral"])
def test_it_survives_saving_and_an_adapter_on_top(family: str, tmp_path) -> None:
    ids, model = rows_that_differ_late(), biencoder(family)
    model.save_pretrained(tmp_path / "repo")
    again = BiEncoderModel.from_pretrained(tmp_path / "repo")
    assert torch.equal(again(ids).embeddings, model(ids).embeddings)
    assert change(BiEncoderModel.from_pretrained(tmp_path / "repo", attn_implementation="eager"), ids) > 1e-3
    add_adapter(again, LoraConfig(r=4, init_lora_weights=False))
    assert change(again, ids) > 1e-3
    assert (again(ids).embeddings - model(ids).embeddings).abs().max() > 1e-3


def keep_output(kept: list[torch.Tensor], module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
    """A forward hook that lets the output's gradient be read."""
    output.requires_grad_().retain_grad()
    kept.append(output)


def test_it_can_be_changed_where_a_saved_model_is_loaded(tmp_path) -> None:
    """As `lookback finetune --model repo --bidirectional true` does."""
    ids = rows_that_differ_late()
    for saved in (False, True):
        biencoder("qwen2", saved).save_pretrained(tmp_path / str(saved))
        changed = BiEncoderModel.from_pretrained(tmp_path / str(saved), bidirectional=not saved)
        assert (change(changed, ids) > 1e-3) == changed.config.bidirectional == (not saved)
    with pytest.raises(ValueError, match="pooling='men'"):
        BiEncoderModel.from_pretrained(tmp_path / "True", pooling="men")


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_gradient_checkpointing_sees_both_ways_too(family: str, adapted: bool) -> None:
    ids, gradients = rows_that_differ_late(), []
    for checkpointing in (False, True):
        model = biencoder(family)
        if adapted:
            torch.manual_seed(0)
            add_adapter(model, LoraConfig(r=4, init_lora_weights=False))
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        embedded: list[torch.Tensor] = []
        model.get_input_embeddings().register_forward_hook(partial(keep_output, embedded))
        model.embed(ids)[:, 0].sum().backward()
        gradients.append([embedded[0].grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert gradients[0][0][:, 2].abs().max() > 1e-4  # the first state hears of a later token
    torch.testing.assert_close(*gradients)


def test_bert_is_bidirectional_either_way() -> None:
    ids = rows_that_differ_late()
    models = [
        BiEncoderModel.from_backbone(tiny_backbone("bert"), pooling="cls", bidirectional=flag)
        for flag in (False, True)
    ]
    assert min(change(model, ids) for model in models) > 1e-3
    assert torch.equal(models[0](ids).embeddings, models[1](ids).embeddings)


@pytest.mark.parametrize("family", ["gpt_neo", "stablelm", "mamba", "mpt"])
def test_a_family_that_would_stay_causal_or_fail_is_refused(family: str) -> None:
    config = CONFIG_MAPPING[family]()
    with pytest.raises(ValueError, match=rf"not known to take effect on a '{family}' backbone"):
        BiEncoderConfig(text_config=config, bidirectional=True)
    assert not BiEncoderConfig(text_config=copy.deepcopy(config)).bidirectional


def test_the_reason_for_refusing_still_holds() -> None:
    """GPT-Neo is causal with is_causal=False: once transformers changes that, it belongs on the list."""
    ids = rows_that_differ_late()
    settings = {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW, "is_causal": False}
    with torch.no_grad():
        states = backbone("gpt_neo", "eager", **settings)(ids).last_hidden_state
    assert torch.equal(states[0, :2], states[1, :2])
