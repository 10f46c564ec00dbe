"""The figures that the original research code gave on the same weights and inputs."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_srlm import SelfRetrievalLM
from tests.support import GOLDEN
from tests.support.srlm import ByteCounter

CHUNK_CASES = json.loads((GOLDEN / "srlm.json").read_text())
DIALOGUE_CASES = json.loads((GOLDEN / "srlm_dialogue.json").read_text())


def build(case: dict, names: tuple[str, ...], **settings: object) -> SelfRetrievalLM:
    """`names`: the settings that the case gives."""
    return SelfRetrievalLM.from_components(
        AutoModelForCausalLM.from_pretrained(GOLDEN / "tiny_lm"),
        AutoTokenizer.from_pretrained(GOLDEN / "tiny_lm"),
        ByteCounter(),
        **{name: case[name] for name in names if name in case},
        **settings,
    )


CHUNK_SETTINGS = (
    "retrieval_method", "integrate_method", "order_method", "key_num", "add_key_continuation", "add_sep",
    "instruction", "context_window_size", "chunk_size", "chunk_batch_size",
)  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", CHUNK_CASES, ids=[case["name"] for case in CHUNK_CASES])
def test_chunk_retrieval(case):
    input_ids = torch.tensor(case["input_ids"])
    labels = input_ids.clone()
    labels[:, : -case["target"]] = -100
    output = build(case, CHUNK_SETTINGS)(input_ids, labels=labels)
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-4)
    assert output.num_scored_tokens == input_ids.shape[0] * case["target"]
    if case["retrieved"] is not None:
        assert output.retrieved_indices.tolist() == case["retrieved"]


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", DIALOGUE_CASES, ids=lambda case: f"{case['retrieval_method']}-{case['key_num']}")
def test_history_retrieval(case):
    model = build(
        case, ("retrieval_method", "key_num", "order_method", "instruction"), context_window_size=2048, chunk_size=64
    )
    output = model.forward_with_history_retrieval(
        case["query"], case["history"], case["answer"], torch.tensor(case["history_mask"])
    )
    assert output.loss.item() == pytest.approx(case["loss"], rel=1e-4)
