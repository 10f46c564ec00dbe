"""Embedding in parts: the gradient of the whole batch, in the memory of a part."""

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel, Objectives
from modeling_biencoder.subbatch_biencoder import embed_in_parts, embed_texts, split_rows
from tests.support import quick_first
from tests.support.tiny import random_ids, tiny_backbone
from trainers import add_adapter

ALL = Objectives(symmetric_weight=0.5, margin_mse_weight=0.1, distillation="ranked")


def batch(side: str = "right", queries: int = 5, group_size: int = 3) -> dict:
    """Texts of unequal lengths and teacher scores."""
    rows = queries * group_size
    generator = torch.Generator().manual_seed(4)

    def texts(count: int, length: int, seed: int) -> dict[str, torch.Tensor]:
        kept = torch.randint(1, length + 1, (count, 1), generator=generator)
        mask = (torch.arange(length)[None] < kept).long()
        return {
            "input_ids": random_ids(count, length, seed=seed),
            "attention_mask": mask if side == "right" else mask.flip(1),
        }

    teacher = torch.randn(queries, group_size, dtype=torch.double, generator=generator)
    return {"query": texts(queries, 6, 1), "passage": texts(rows, 9, 2), "teacher_scores": teacher}


def gradients(model: BiEncoderModel, seed: int = 0, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(seed)
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one: tuple, other: tuple) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys() and one[1]
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_gradient_is_that_of_the_whole_batch(family: str, side: str, size: int) -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), temperature=0.1).eval().double()
    inputs = {**batch(side), "objectives": ALL}
    assert_same(gradients(model, **inputs, sub_batch_size=size), gradients(model, **inputs))


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_without_a_size_a_cpu_leaves_the_padding_out(monkeypatch, family: str, side: str) -> None:
    """The loss and gradient of the padded batch, though the backbone sees less padding."""
    model = BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), temperature=0.1).eval().double()
    inputs = {**batch(side), "objectives": ALL}
    embedded = (model.embed(**inputs[name]) for name in ("query", "passage"))
    loss = model.compute_loss(*embedded, inputs["teacher_scores"], objectives=ALL).loss
    loss.backward()
    whole = loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    seen = []
    model.backbone.register_forward_hook(lambda _, args, output: seen.append(output[0].shape[:2].numel()))
    monkeypatch.setattr("modeling_biencoder.subbatch_biencoder.CPU_TOKENS", 20)
    assert_same(gradients(model, **inputs), whole)
    assert len(seen) > 4 and sum(seen) < 5 * 6 + 15 * 9


@pytest.mark.parametrize("shape", ["rows", "4d"])
def test_keywords_of_another_shape_keep_the_batch_whole(monkeypatch, shape: str) -> None:
    """What is not (rows, length) cannot be cut with the rows."""
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False)).eval()
    tokens = batch()["query"]
    rows, length = tokens["input_ids"].shape
    given = torch.ones(rows) if shape == "rows" else torch.ones(rows, 1, length, length)
    seen = []

    def embed(**inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs["input_ids"].shape)
        return model.embed(inputs["input_ids"], inputs["attention_mask"])

    monkeypatch.setattr("modeling_biencoder.subbatch_biencoder.CPU_TOKENS", 4)
    embed_texts(embed, tokens, False, None, {"own": given})
    assert seen == [tokens["input_ids"].shape]
    embed_texts(embed, tokens, False, None, {"flag": True})
    assert len(seen) > 2


@pytest.mark.cases(2)
@pytest.mark.parametrize("objectives", [Objectives(), ALL, Objectives(distillation_weight=0.0, margin_mse_weight=1.0)])
@pytest.mark.parametrize("kind", quick_first(["lora and checkpointing", "full", "lora", "checkpointing"]))
@pytest.mark.parametrize("in_batch", [True, False])
def test_dropout_is_replayed(monkeypatch, objectives: Objectives, kind: str, in_batch: bool) -> None:
    """Uncached is the same parts in the same order, with all their activations kept: the same random numbers."""
    backbone = tiny_backbone("gpt2", lm_head=False)
    backbone.drop.p = 0.2
    model = BiEncoderModel.from_backbone(backbone, temperature=0.1, embedding_dims=[4]).train()
    if "lora" in kind:
        add_adapter(model, LoraConfig(r=2, lora_dropout=0.3, init_lora_weights=False))
    if "checkpointing" in kind:
        model.gradient_checkpointing_enable()
    inputs = {**batch(), "objectives": objectives, "in_batch_negatives": in_batch, "sub_batch_size": 4}
    cached = gradients(model, **inputs)
    monkeypatch.setattr("modeling_biencoder.subbatch_biencoder.checkpoint", lambda run, *tensors, **_: run(*tensors))
    assert_same(cached, gradients(model, **inputs))
    other = gradients(model, seed=1, **inputs)[0]
    assert (cached[0] - other).abs() > 1e-6  # dropout is on


def test_scored_pairs_have_the_gradient_of_the_whole_batch() -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), temperature=0.1).eval().double()
    inputs = {**batch(group_size=1), "in_batch_negatives": False}
    assert_same(gradients(model, **inputs, sub_batch_size=2), gradients(model, **inputs))


def test_parts_hold_rows_of_like_length_without_their_padding() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
    ids = torch.arange(1, 13).view(3, 4)
    parts, order = split_rows({"input_ids": ids, "attention_mask": mask}, 2)
    assert order.tolist() == [2, 0, 1]
    assert [part["input_ids"].tolist() for part in parts] == [[[12, 9], [3, 4]], [[5, 6, 7, 8]]]
    assert parts[0]["attention_mask"].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("size", [4, 100])
def test_every_part_but_the_last_runs_twice(size: int, monkeypatch) -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False))
    rows, embed = [], model.embed
    monkeypatch.setattr(
        model, "embed", lambda input_ids, **given: rows.append(len(input_ids)) or embed(input_ids, **given)
    )
    gradients(model, **batch(queries=5, group_size=3), sub_batch_size=size)
    parts = {4: [4, 1, 4, 4, 4, 3], 100: [5, 15]}[size]
    assert rows[: len(parts)] == parts and sorted(rows[len(parts) :]) == sorted(parts[:-1])


def test_activations_of_one_part_alone_are_kept() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    tokens = {"input_ids": torch.ones(64, 10), "attention_mask": torch.ones(64, 10)}

    def embed(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = input_ids
        for _ in range(20):
            hidden = (hidden * weight).sin()
        return hidden

    def saved(size: int) -> int:
        """Elements of different tensors that autograd keeps after the forward pass."""
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
            embed_in_parts(embed, tokens, size, keep_last=True)
        return sum(tensor.numel() for tensor in kept.values())

    assert saved(64) > 5 * saved(8)
