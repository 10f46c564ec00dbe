"""Gradients with `reuse_states`: against the plain pass, and the mode written out slowly under autograd."""

import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model

from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.reuse import build, slow_logits
from tests.support.srlm import ByteCounter
from tests.support.tiny import random_ids

OTHERS = ("mistral", "phi", "qwen2", "gemma2")
FAMILIES = ["llama", "qwen3", "gemma3_text", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)]
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


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", FAMILIES)
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


@pytest.mark.cases(2)
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


METHODS = ("no", "random", "bm25", "self", "dense", "hybrid")


@pytest.mark.parametrize("settings", quick_first([
    {"retrieval_method": "recent", "add_bos": True, "store_dtype": "int8", "store_limit": 160},
    {"retrieval_method": "bm25", "integrate_method": "replace", "key_num": 1, "target_size": 16},
    *({"retrieval_method": method} for method in METHODS),
]))  # fmt: skip
def test_the_rest_of_the_batch_changes_no_gradient(settings):
    """Rows that are padded on either side, and end in different blocks, weigh by their labels."""
    model = build(**{**BLOCK, "retriever": ByteCounter(), **settings}).train()
    ids, mask = random_ids(3, 230), torch.ones(3, 230, dtype=torch.long)
    mask[0, :37] = 0
    mask[1, 150:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[2, :100] = -100
    parts = [(ids[row, real][None], labels[row, real][None]) for row, real in enumerate(mask.bool())]
    outputs = [model(own, labels=own_labels) for own, own_labels in parts]
    counts = [output.num_scored_tokens for output in outputs]
    weighed = sum(output.loss * count for output, count in zip(outputs, counts, strict=True)) / sum(counts)
    wanted = gradients(model, weighed)
    for size in (1, 3):
        model.config.chunk_batch_size = size
        loss = model(ids, mask, labels).loss
        torch.testing.assert_close(loss, weighed, atol=1e-5, rtol=1e-5)
        assert_same(gradients(model, loss), wanted)
    with torch.no_grad():
        assert abs(model.eval()(ids, mask, labels).loss - weighed) < 1e-5


def test_rows_of_a_batch_are_the_slow_gradient_too():
    model = build(retrieval_method="recent", **BLOCK).train()
    ids, mask = random_ids(2, 200), torch.ones(2, 200, dtype=torch.long)
    mask[1, :60] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, 60] = -100  # a row's first token, which nothing predicts
    assert_same(gradients(model, model(ids, mask, labels).loss), gradients(model, slow_loss(model, ids, labels, mask)))


def test_a_graph_that_is_kept_gives_the_same_gradient_and_logits_have_one():
    model = build(retrieval_method="bm25", **BLOCK).train()
    ids = random_ids(1, 200)
    loss = model(ids, labels=ids).loss
    found = gradients(model, 3 * loss)
    model.settles_blocks = False
    assert_same(found, gradients(model, 3 * model(ids, labels=ids).loss), 1e-6)
    model.settles_blocks = True
    for logits in (model(ids, labels=ids, output_logits=True).logits, model.eval()(ids).logits):
        by_hand = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        assert_same(found, gradients(model, 3 * by_hand), 1e-6)


def test_a_hook_on_a_gradient_is_called_once():
    model = build(retrieval_method="bm25", **BLOCK).train()
    name, ids, seen = "language_model.model.layers.0.mlp.down_proj.weight", random_ids(1, 200), []
    wanted = gradients(model, model(ids, labels=ids).loss)
    model.get_parameter(name).register_hook(lambda gradient: seen.append(gradient) or gradient * 0.5)
    assert_same(gradients(model, model(ids, labels=ids).loss), {**wanted, name: wanted[name] / 2}, 1e-6)
    assert len(seen) == 1


def kept_bytes(model: SelfRetrievalLM, ids: torch.Tensor) -> int:
    """The most memory that graphs hold at once, in a forward pass and its backward pass."""
    held: dict[int, tuple[weakref.ref, int]] = {}
    most = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal most
        copy = tensor.clone()  # which the graph alone holds
        held[id(copy)] = weakref.ref(copy), copy.nbytes
        most = max(most, sum(size for reference, size in held.values() if reference() is not None))
        return copy

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, labels=ids).loss.backward()
    return most


@pytest.mark.parametrize("checkpointing", quick_first([True, False]))
def test_the_graph_does_not_grow_with_the_text(checkpointing):
    model = build(retrieval_method="bm25", **BLOCK).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    short, long = (kept_bytes(model, random_ids(1, length)) for length in (192, 384))
    assert long < 1.1 * short
    model.settles_blocks = False
    assert kept_bytes(model, random_ids(1, 384)) > 1.5 * short


def test_dropout_is_drawn_again_the_same_where_a_pass_is_computed_again():
    model = build("phi", retrieval_method="recent", **BLOCK).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.3
    ids = random_ids(1, 200)
    found = []
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        torch.manual_seed(3)
        found.append(gradients(model, model(ids, labels=ids).loss))
    assert_same(*found, 1e-5)
    torch.manual_seed(4)
    other = gradients(model, model(ids, labels=ids).loss)
    assert max((other[name] - one).abs().max() for name, one in found[0].items()) > 1e-3


def test_weights_in_half_precision_and_autocast_train():
    model = build(retrieval_method="bm25", **BLOCK).train()
    ids = random_ids(1, 200)
    exact = gradients(model, model(ids, labels=ids).loss)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    assert loss.dtype == torch.float32
    assert_same(gradients(model, loss), exact, 0.1)
    assert model._proven.groups[0].dtype == torch.float32
    model.to(torch.bfloat16)
    half = gradients(model, model(ids, labels=ids).loss)
    assert_same({name: one.float() for name, one in half.items()}, exact, 0.1)


def test_states_do_not_outlive_a_step():
    model = build(retrieval_method="bm25", **BLOCK)
    model.generation_config.eos_token_id = None
    prompt = random_ids(1, 150)
    first = model.generate(prompt, max_new_tokens=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model.train()(prompt, labels=prompt).loss.backward()
    optimizer.step()
    found = model.eval().generate(first, max_new_tokens=20)
    model._kept_states = None
    assert torch.equal(found, model.generate(first, max_new_tokens=20))


def test_a_model_in_training_with_checkpoints_generates():
    model = build(retrieval_method="bm25", **BLOCK)
    wanted = model.generate(random_ids(1, 150), max_new_tokens=20)
    model.train().gradient_checkpointing_enable()
    assert torch.equal(model.generate(random_ids(1, 150), max_new_tokens=20), wanted)
    assert model.language_model.model.layers[0].gradient_checkpointing


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["self", "bm25"])
def test_where_a_prompt_ended_has_its_gradient_too(method):
    """Of the chunk that is read again behind what the prompt asks for, only the second reading counts."""
    model, ids = build(retrieval_method=method), random_ids(2, 230, seed=3)
    mask = torch.ones_like(ids)
    mask[0, :37] = 0
    labels = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        wanted = model(ids, mask, labels, prompt_length=180).loss
    found = []
    for settles in (True, False):
        model.zero_grad()
        model.train().settles_blocks = settles
        loss = model(ids, mask, labels, prompt_length=180).loss
        loss.backward()
        torch.testing.assert_close(loss.detach(), wanted, atol=1e-5, rtol=1e-5)
        found.append([weight.grad.clone() for weight in model.language_model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
