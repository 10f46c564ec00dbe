"""The formulas of a plan against what is measured: operations counted, activations by what a graph keeps."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modeling_biencoder import BiEncoderModel
from tests.support.decoders import backbone
from tests.support.planning import batch_of, made
from tests.support.tiny import random_ids, tiny_tokenizer
from trainers.planning.activations import activation_bytes, kept_of
from trainers.planning.flops import Operations, operations_of
from trainers.planning.memory import kept_bytes
from trainers.planning.shapes import Rows, Shapes

CASES = [
    (system, family)
    for system in ("biencoder", "llara", "srlm")
    for family in ("llama", "qwen", "gpt2", "bert")
    if family != "bert" or system == "biencoder"
]
QUICK = [case if case[1] in ("llama", "bert") else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
WITHIN = 0.15


def counted(model, batch: dict) -> tuple[int, int]:
    """Operations of the forward pass, and of both; attention as plain products, as the counter knows no CPU's own."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(**batch).loss
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


@pytest.mark.cases(2)
@pytest.mark.parametrize(("system", "family"), QUICK)
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "again"])
def test_operations_of_a_step_are_counted(system, family, lora, checkpointing, monkeypatch):
    """LLaRA's logits made once more: the counter does not see into torch's `linear_cross_entropy`. Padding is read."""
    monkeypatch.setattr("modeling_llara.loss_llara.is_plain", lambda *_: False)
    monkeypatch.setattr("modeling_biencoder.modeling_biencoder.can_pack", lambda *_: False)
    model = made(system, family, lora)
    batch, shapes = batch_of(system, model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    forward, both = counted(model, batch)
    operations = operations_of(model)
    assert operations.step(shapes, checkpointing, head_again=system == "llara") == pytest.approx(both, rel=WITHIN)
    if system == "biencoder":  # the others' heads come to it
        assert operations.forward(shapes.rows) == pytest.approx(forward, rel=0.01)


def test_scores_are_those_of_the_passages_of_all_devices():
    """Queries by passages by width, 2 operations each, forward and twice backward."""
    shapes = batch_of("biencoder", made("biencoder", "llama"))[1]
    nothing = Operations(0, 0, 0, 0, attention=0, width=32)
    assert nothing.step(shapes, True, gpus=5) == 3 * 2 * 4 * (8 * 5) * 32


@pytest.mark.cases(1)
@pytest.mark.parametrize("size", [3, 8])
def test_operations_of_texts_embedded_in_parts(size):
    model = made("biencoder", "llama")
    batch, shapes = batch_of("biencoder", model, sub_batch_size=size)
    whole = operations_of(model).step(batch_of("biencoder", model)[1], False)
    said, (_, both) = operations_of(model).step(shapes, False), counted(model, batch)
    assert said == pytest.approx(both, rel=WITHIN)
    assert said > 1.03 * whole


@pytest.mark.cases(2)
@pytest.mark.parametrize(("system", "family"), QUICK)
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_activations_are_what_the_graph_keeps(system, family, lora):
    model = made(system, family, lora)
    batch, shapes = batch_of(system, model)
    said = activation_bytes(model, shapes, bf16=False, checkpointing=False)
    assert said == pytest.approx(kept_bytes(model, lambda: model(**batch)), rel=WITHIN)


@pytest.mark.cases(1)
@pytest.mark.parametrize("system", ["biencoder", "srlm"])
def test_activations_in_bfloat16(system):
    """Weights and computing in bfloat16; and weights in float32 under autocast, whose copies of them are kept, too."""
    for dtype, bf16 in ((torch.bfloat16, False), (torch.float32, True)):
        model = made(system, "llama").to(dtype)
        batch, shapes = batch_of(system, model)
        said = activation_bytes(model, shapes, bf16=bf16, checkpointing=False)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            measured = kept_bytes(model, lambda model=model, batch=batch: model(**batch))
        assert said == pytest.approx(measured, rel=WITHIN)


@pytest.mark.parametrize("family", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_checkpointing_keeps_the_layers_inputs_and_one_layer(family):
    model = made("biencoder", family)
    batch, shapes = batch_of("biencoder", model)
    plain, saving = kept_of(model, False, False), kept_of(model, False, True)
    hidden = 4 * model.config.text_config.hidden_size
    (layer,), (whole,) = saving.layers, plain.layers
    assert layer[1] == pytest.approx(hidden, rel=0.5) and whole[1] > 5 * hidden
    said = activation_bytes(model, shapes, bf16=False, checkpointing=True)
    assert said < activation_bytes(model, shapes, bf16=False, checkpointing=False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    kept = kept_bytes(model, lambda: model(**batch))
    one_layer = max(plain.of_layer((rows,)) for rows in shapes.at_once)
    assert said - one_layer == pytest.approx(kept, rel=WITHIN)


def test_a_layer_that_is_computed_again_has_no_copies_of_weights_under_fsdp():
    model, rows = made("biencoder", "llama"), (Rows("queries", 1, 2), Rows("passages", 1, 2))
    own, none = (activation_bytes(model, Shapes(rows, rows), True, True, copies=copies) for copies in (True, False))
    layer = model.backbone.layers[0]
    assert own - none == 2 * sum(one.numel() for one in layer.parameters() if one.ndim == 2)


def test_activations_of_texts_embedded_in_parts():
    model = made("biencoder", "llama")
    batch, shapes = batch_of("biencoder", model, sub_batch_size=4)
    kept = kept_bytes(model, lambda: model(**batch))  # of the last part, the others' come one at a time
    assert activation_bytes(model, shapes, bf16=False, checkpointing=False) == pytest.approx(kept, rel=WITHIN)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["deepseek_v3", "ernie4_5_moe", "falcon", "gpt_oss"])
def test_no_name_of_a_setting_is_looked_up(family):
    """Experts of a token, sizes of heads and layers of several kinds are what the model's own code makes of them."""
    experts = {"moe_num_experts": 8, "moe_k": 2, "moe_intermediate_size": 16} if family == "ernie4_5_moe" else {}
    body = backbone(family, num_hidden_layers=4, **experts)
    model = BiEncoderModel.from_backbone(body, tiny_tokenizer(), pooling="mean").train()
    operations, kept, rows = operations_of(model), kept_of(model, False, False), (Rows("rows", 2, 48),)
    body.config._experts_implementation = "eager"
    inputs = {"input_ids": random_ids(2, 48), "attention_mask": torch.ones(2, 48, dtype=torch.long)}
    inputs["attention_mask"][0, -3:] = 0
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        body(**inputs)
    assert operations.forward(rows) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert operations.trained_weights == operations.weights
    assert kept.of(rows) == pytest.approx(kept_bytes(body, lambda: body(**inputs)[0]), rel=WITHIN)
