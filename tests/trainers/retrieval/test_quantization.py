"""Embeddings in fewer bits are those of sentence-transformers."""

import numpy as np
import pytest
import torch

from trainers.retrieval.quantization import PRECISIONS, quantize, ranges_of, signs, stored_width, unsigned

ROWS = torch.nn.functional.normalize(torch.randn(50, 37, generator=torch.Generator().manual_seed(0)))
ROWS[:, 5] = 0.25  # a number that is the same everywhere has no step
ROWS[3, 7] = 0.0  # no sign


@pytest.mark.parametrize("precision", ["int8", "binary", "float32"])
@pytest.mark.parametrize("width", [37, 32])
def test_numbers_are_those_of_sentence_transformers(precision, width):
    library = pytest.importorskip("sentence_transformers.util.quantization")
    rows = ROWS[:, :width].contiguous()
    ours = quantize(rows, precision, ranges_of(rows.split(7)))
    expected = library.quantize_embeddings(rows.numpy(), precision)
    assert np.array_equal(ours.numpy(), expected) and ours.numpy().dtype == expected.dtype
    assert ours.shape[1] == stored_width(width, precision)


def test_what_lies_outside_the_ranges_gets_their_ends():
    library = pytest.importorskip("sentence_transformers.util.quantization")
    ranges = ranges_of([ROWS[:9]])
    expected = library.quantize_embeddings(ROWS.numpy(), "int8", ranges=ranges.numpy())
    assert np.array_equal(quantize(ROWS, "int8", ranges).numpy(), expected)
    assert {-128, 127} <= set(expected.flatten().tolist())


def test_signs_come_back():
    codes = quantize(ROWS, "binary")
    assert torch.equal(signs(codes, 37), torch.where(ROWS > 0, 1.0, -1.0))
    assert np.array_equal(unsigned(codes), np.packbits(ROWS.numpy() > 0, axis=1))


def test_one_text_has_no_range():
    with pytest.raises(ValueError, match="precision='int8' needs two texts or more"):
        ranges_of([ROWS[:1]])
    with pytest.raises(ValueError, match="ranges=None must be the ranges"):
        quantize(ROWS, "int8")
    assert PRECISIONS == ("float32", "float16", "int8", "binary")
