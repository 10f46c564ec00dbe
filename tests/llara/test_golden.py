"""Losses and gradient norms that the original research code gave, on a tiny Llama and random ids."""

import json

import pytest
import torch

from modeling_llara import LlaraForPreTraining
from tests.support import GOLDEN

CASES = {case["name"]: case for case in json.loads((GOLDEN / "llara.json").read_text())}
TENSORS = ("input_ids", "attention_mask", "labels", "output_summarize_ids", "output_predict_ids")


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def model(request: pytest.FixtureRequest) -> LlaraForPreTraining:
    row = CASES["all"]["input_ids"][0]  # its last 19 and 18 ids are the prompts
    return LlaraForPreTraining.from_backbone(
        GOLDEN / "tiny_llara", summarize_prompt_ids=row[-37:-18], predict_prompt_ids=row[-18:],
        ignored_target_ids=(0, 1, 2), attn_implementation=request.param,
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_logits(model, name):
    case = CASES[name]
    batch = {key: None if case[key] is None else torch.tensor(case[key]) for key in TENSORS}
    model.zero_grad()
    output = model(**batch, output_logits=True)
    output.loss.backward()
    squares = [parameter.grad.square().sum() for parameter in model.parameters() if parameter.grad is not None]
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-4)
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(case["grad_norm"], rel=1e-4)
    assert output.logits[0, -1, :8].tolist() == pytest.approx(case["last_logits_row"], abs=1e-4)


def test_each_loss_is_reported_and_weighted(model):
    case = CASES["all"]
    output = model(**{key: torch.tensor(case[key]) for key in TENSORS})
    bow = (output.bow_summarize_loss + output.bow_predict_loss) / 2
    assert output.loss.item() == pytest.approx((output.ar_loss + 0.1 * bow).item(), rel=1e-6)
    assert output.logits is None
    alone = model(**{key: torch.tensor(case[key]) for key in TENSORS if key != "output_predict_ids"})
    assert alone.bow_predict_loss is None
    assert alone.loss.item() == pytest.approx((output.ar_loss + 0.1 * output.bow_summarize_loss).item(), rel=1e-6)
