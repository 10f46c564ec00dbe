"""Gradients with `reuse_states`: against the plain pass, and the mode written out slowly under autograd."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_srlm import SelfRetrievalLM
from tests.support.reuse import build, slow_logits
from tests.support.srlm import ByteCounter
from tests.support.tiny import random_ids

FAMILIES = ["llama", "qwen3", "mistral", "gemma3_text", "phi", "qwen2", "gemma2"]
BLOCK = {"target_size": 48}  # three chunks


def last(target: int, keys: int) -> list[int]:
    """What "recent" retrieves with k = 2, as in the text."""
    return [key for key in (keys - 2, keys - 1) if key >= 0]


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Those of every weight that trains, by name."""
    model.zero_grad()
    loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}
    assert max(one.abs().max() for one in found.values()) > 1e-2
    return found


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    largest = max(one.abs().max() for one in wanted.values())
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert (found[name] - one).abs().max() <= tolerance * largest, name


def slow_loss(
    model: SelfRetrievalLM, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean loss of all labelled tokens of a batch, row by row."""
    block = model.config.target_size // model.config.chunk_size
    losses = []
    for row, own in zip(ids, labels, strict=True):
        real = torch.ones_like(row).bool() if mask is None else mask[len(losses)].bool()
        logits = slow_logits(model, row[real], last, block)
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], own[real][1:], reduction="sum"))
    return sum(losses) / (labels[:, 1:] != -100).sum()


def with_lora(model: SelfRetrievalLM) -> SelfRetrievalLM:
    """The same with adapters that do something, whose weights alone train."""
    names = ["q_proj", "k_proj", "v_proj", "dense", "o_proj"]
    targets = [name for name in names if any(part.endswith(name) for part, _ in model.named_modules())]
    torch.manual_seed(1)
    get_peft_model(model, LoraConfig(r=4, lora_alpha=32, target_modules=targets, init_lora_weights=False))
    return model


@pytest.mark.parametrize("family", FAMILIES[:5])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_in_one_block_it_is_the_gradient_of_the_plain_pass(family, checkpointing):
    model = build(family, retrieval_method="no", context_window_size=256, target_size=240).train()
    ids = random_ids(2, 150)
    if checkpointing:
        model.gradient_checkpointing_enable()
    found = gradients(model, model(ids, labels=ids).loss)
    model.eval()
    logits = model.language_model(ids).logits
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert_same(found, gradients(model, plain), 1e-5)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_gradient_of_the_mode_written_out_slowly(family, adapted):
    model = build(family, retrieval_method="recent", **BLOCK)
    model = (with_lora(model) if adapted else model).train()
    ids = random_ids(1, 330)
    labels = ids.masked_fill(torch.arange(330) < 190, -100)  # from the middle of a block on
    loss = model(ids, labels=labels).loss
    found = gradients(model, loss)
    slow = slow_loss(model, ids, labels)
    torch.testing.assert_close(loss, slow, atol=1e-5, rtol=1e-5)
    assert_same(found, gradients(model, slow))
