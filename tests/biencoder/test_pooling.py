"""The four poolings against their definition row by row, for any padding; truncation and normalisation."""

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_biencoder.pooling_biencoder import finish, pack_left, pool
from tests.support.tiny import FAMILIES, random_ids, tiny_backbone

LENGTHS = (7, 1, 4)
DEFINITIONS = {
    "last_token": lambda states: states[-1],
    "cls": lambda states: states[0],
    "mean": lambda states: states.mean(dim=0),
    "mean_last_k": lambda states: states[-3:].mean(dim=0),
}


def _pad(rows: list[torch.Tensor], side: str, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal lengths -> (batch, 9, ...) padded with `fill`, and the mask (batch, 9)."""
    values, masks = [], []
    for row in rows:
        padding = row.new_full((9 - len(row), *row.shape[1:]), fill)
        real, empty = torch.ones(len(row), dtype=torch.long), torch.zeros(9 - len(row), dtype=torch.long)
        values.append(torch.cat([padding, row] if side == "left" else [row, padding]))
        masks.append(torch.cat([empty, real] if side == "left" else [real, empty]))
    return torch.stack(values), torch.stack(masks)


@pytest.mark.parametrize("fill", [100.0, float("nan")])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", DEFINITIONS)
def test_pooling_is_its_definition_on_each_row_alone(pooling: str, side: str, fill: float) -> None:
    rows = [torch.randn(length, 5) for length in LENGTHS]
    hidden, mask = _pad(rows, side, fill)
    expected = torch.stack([DEFINITIONS[pooling](row) for row in rows])
    torch.testing.assert_close(pool(hidden, mask, pooling, k=3), expected)


def test_half_precision_states_are_pooled_in_single_precision() -> None:
    hidden = torch.full((1, 3000, 1), 1.0, dtype=torch.float16)
    pooled = pool(hidden, torch.ones(1, 3000), "mean")
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0


def test_pack_left_keeps_the_order_of_the_real_tokens() -> None:
    packed = pack_left({"input_ids": torch.tensor([[9, 5, 9, 6, 7]])}, torch.tensor([[0, 1, 0, 1, 1]]))
    assert packed["input_ids"][0, :3].tolist() == [5, 6, 7]


def test_truncation_comes_before_normalisation() -> None:
    pooled = torch.tensor([[3.0, 4.0, 12.0]])
    torch.testing.assert_close(finish(pooled, True, 2), torch.tensor([[0.6, 0.8]]))
    torch.testing.assert_close(finish(pooled, False, 2), torch.tensor([[3.0, 4.0]]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", DEFINITIONS)
def test_a_text_has_one_embedding_whatever_its_padding_and_batch(family: str, pooling: str) -> None:
    model = BiEncoderModel.from_backbone(tiny_backbone(family), pooling=pooling, pooling_k=3)
    rows = [random_ids(length, seed=length) for length in LENGTHS]
    with torch.no_grad():
        alone = torch.cat([model(row[None]).embeddings for row in rows])
        for side in ("left", "right"):
            ids, mask = _pad(rows, side, 2)
            torch.testing.assert_close(model(ids, mask).embeddings, alone, rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[2]).abs().max() > 0.01
