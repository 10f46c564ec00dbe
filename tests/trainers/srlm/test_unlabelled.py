"""A row of which nothing is scored adds nothing, at any batch size, and is counted; where all are so, it is said."""

import datasets
import pytest
import torch
from transformers.utils import logging

from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from tests.support.training import arguments, assert_same_weights, logged, weights
from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments
from trainers.perplexity.data import read_documents
from trainers.srlm.rows import labelled

IDS = random_ids(6, 48).tolist()
GOOD = [{"input_ids": row, "labels": [-100] * (40 - 2 * i) + row[40 - 2 * i :]} for i, row in enumerate(IDS[:4])]
NONE = {"input_ids": IDS[4], "labels": [-100] * 48}
FIRST = {"input_ids": IDS[5], "labels": [IDS[5][0]] + [-100] * 47}  # a first token is never predicted
MIXED = [GOOD[0], NONE, GOOD[1], GOOD[2], FIRST, GOOD[3]]


def make_model():
    return SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), context_window_size=32, chunk_size=8, retrieval_method="bm25"
    )


def make_trainer(folder, rows, evaluation=None, **settings):
    args = arguments(SelfRetrievalTrainingArguments, folder, **{"max_steps": 3, **settings})
    return SelfRetrievalTrainer(make_model(), args, rows, evaluation)


def stream(rows):
    return datasets.IterableDataset.from_generator(lambda: iter(rows))


@pytest.fixture
def warnings(caplog):
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


@pytest.mark.parametrize("batch_size", quick_first([2, 1, 8]))
@pytest.mark.parametrize("make_rows", quick_first([list, datasets.Dataset.from_list, stream]))
def test_training_and_evaluation_are_those_without_such_rows(tmp_path, warnings, batch_size, make_rows):
    settings = {"per_device_train_batch_size": batch_size, "per_device_eval_batch_size": batch_size}
    clean = make_trainer(tmp_path, make_rows(GOOD), GOOD, **settings)
    clean.train()
    assert not [record for record in warnings.records if "no label" in record.message]
    mixed = make_trainer(tmp_path, make_rows(MIXED), MIXED, **settings)
    mixed.train()
    assert_same_weights(weights(mixed.model), weights(clean.model), 0.0)
    assert logged(mixed, "loss") == logged(clean, "loss")
    assert mixed.evaluate()["eval_perplexity"] == clean.evaluate()["eval_perplexity"]
    assert "2 of 6 rows have no label and are left out; the first of them: Row 1 (the first is 0)" in warnings.text
    assert ("Row 1 (the first is 0) has no label; it and others" in warnings.text) == (make_rows is stream)


def test_where_all_are_so_it_is_said_before_the_start(tmp_path):
    with pytest.raises(ValueError, match=r"Row 0 \(the first is 0\): nothing is scored, .* all 2 rows"):
        make_trainer(tmp_path, [NONE, FIRST])
    with pytest.raises(ValueError, match="is empty"):
        make_trainer(tmp_path, stream([NONE, FIRST])).train()
    chats = datasets.Dataset.from_list([{"answer_length": 0}, {"answer_length": 2}])
    (kept,) = labelled(chats, Places(2))
    assert kept["answer_length"] == 2


class Places:
    """A table that knows where its rows stand."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return ((f"chats.jsonl, line {number + 1}", {}) for number in range(self.count))


def test_the_items_of_a_batch_are_the_tokens_that_the_model_scores(tmp_path):
    whole = [{"input_ids": row, "labels": row} for row in (IDS[0], IDS[1][:20])]  # first tokens have labels too
    trainer = make_trainer(tmp_path, whole)
    batch = trainer.data_collator(whole)
    assert trainer.count_items(batch).item() == trainer.model(**batch).num_scored_tokens == 47 + 19


@pytest.mark.parametrize("average", ["tokens", "batches"])
def test_compute_perplexity_counts_them_out(warnings, average):
    model = make_model().eval()

    def batches(rows):
        return [{name: torch.tensor([ids]) for name, ids in row.items()} for row in rows]

    expected = model.compute_perplexity(batches(GOOD), show_progress=False, average=average)
    assert model.compute_perplexity(batches(MIXED), show_progress=False, average=average) == expected
    assert "2 of 6 rows have no label and add nothing to the perplexity" in warnings.text
    with pytest.raises(ValueError, match="gave 2 rows, of which none has a label: row 0 is all -100"):
        model.compute_perplexity(batches([NONE, FIRST]), show_progress=False, average=average)
    with pytest.raises(ValueError, match=r"batch 0 has \['input_ids'\] and no labels"):
        model.compute_perplexity([{"input_ids": torch.tensor([IDS[0]])}], show_progress=False)


def test_documents_too_short_to_score_are_counted(tmp_path, warnings):
    for name, text in (("a", "x"), ("b", "the copper lantern"), ("c", "y")):
        (tmp_path / f"{name}.txt").write_text(text)
    (document,) = read_documents(str(tmp_path), tiny_tokenizer(), None, None)
    assert document.name == "b.txt"
    assert "2 of 3 documents have less than 2 tokens and are left out" in warnings.text
    with pytest.raises(ValueError, match="nothing can be scored, as it has less than 2 tokens"):
        read_documents(str(tmp_path / "a.txt"), tiny_tokenizer(), None, None)
