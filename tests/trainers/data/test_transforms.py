"""The epoch that a transform is told: after a resume, and in a stream that shuffles."""

from types import SimpleNamespace

import datasets
import pytest

from trainers.data.transforms import EpochCallback, StreamedRows, TransformedRows


def epoch_of(row, number, epoch):
    return {**row, "epoch": epoch}


@pytest.mark.parametrize(("counted", "epoch"), [(0.0, 0), (0.9999999, 1), (1.9999999, 2), (2.5, 2)])
def test_the_epoch_of_a_trainer_that_counts_in_steps(counted, epoch):
    """7 steps of 1/7 are a little less than 1 and yet the first epoch's end."""
    rows = TransformedRows(datasets.Dataset.from_list([{"text": "one"}]), epoch_of)
    EpochCallback(rows).on_epoch_begin(None, SimpleNamespace(epoch=counted), None)
    assert rows[0]["epoch"] == epoch


def test_a_stream_that_shuffles_has_another_order_in_each_epoch():
    rows = datasets.Dataset.from_list([{"number": number} for number in range(50)]).to_iterable_dataset()
    streamed = StreamedRows(rows.shuffle(seed=0, buffer_size=50), epoch_of)
    orders = []
    for epoch in (0, 1, 0):
        streamed.set_epoch(epoch)
        orders.append([row["number"] for row in streamed])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == list(range(50))
