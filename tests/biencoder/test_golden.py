"""The six golden cases: loss, gradient norm, scores and embeddings of the original research code."""

import json

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from tests.support import GOLDEN

CASES = json.loads((GOLDEN / "biencoder.json").read_text())


def _tokens(tokens: dict, flip: bool) -> dict[str, torch.Tensor]:
    """The case's left-padded rows; flipped: each row rolled so that its padding is on the right."""
    ids, mask = torch.tensor(tokens["input_ids"]), torch.tensor(tokens["attention_mask"])
    if flip:
        ids = torch.stack([row.roll(int(kept.sum())) for row, kept in zip(ids, mask, strict=True)])
        mask = torch.stack([kept.roll(int(kept.sum())) for kept in mask])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(("flip", "attention"), [(False, "sdpa"), (True, "eager")], ids=["left-sdpa", "right-eager"])
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden(case: dict, flip: bool, attention: str) -> None:
    model = BiEncoderModel.from_backbone(
        GOLDEN / "tiny_lm", normalize=case["normalize"], temperature=case["temperature"], attn_implementation=attention
    )
    teacher = case["teacher_scores"]
    output = model(
        query=_tokens(case["query"], flip),
        passage=_tokens(case["passage"], flip),
        teacher_scores=None if teacher is None else torch.tensor(teacher).view(-1, case["group_size"]),
        in_batch_negatives=case["in_batch_negatives"],
    )
    output.loss.backward()
    gradient = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert model.backbone.config._attn_implementation == attention
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-4)
    assert gradient.item() == pytest.approx(case["grad_norm"], rel=1e-3)
    torch.testing.assert_close(output.scores[0], torch.tensor(case["scores_row0"]), rtol=1e-4, atol=1e-3)
    width = len(case["q_reps_row0"])
    torch.testing.assert_close(output.q_reps[0, :width], torch.tensor(case["q_reps_row0"]), rtol=1e-4, atol=1e-5)
