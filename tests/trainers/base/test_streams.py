"""A stream that is read more than once: a resumed run goes on where it was, in all three Trainers."""

import datasets
import pytest
import torch

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import DOCUMENTS, PAIRS, PASSAGES, arguments, assert_same_weights, logged, weights
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)
from trainers.base.streams import StreamedBatches
from trainers.data.transforms import StreamedRows


def stream(rows):
    return datasets.IterableDataset.from_generator(lambda: iter(rows))


def make_trainer(family, folder, rows=8, **settings):
    given = {"max_steps": 7, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 5, **settings}
    if family == "biencoder":
        model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), pooling="mean")
        args = arguments(BiEncoderTrainingArguments, folder, train_group_size=3, **given)
        return BiEncoderTrainer(model, args, stream(PAIRS[:rows]))
    if family == "llara":
        model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
        return LlaraTrainer(model, arguments(LlaraTrainingArguments, folder, **given), stream(PASSAGES[:rows]))
    model = SelfRetrievalLM.from_components(
        tiny_backbone(), tiny_tokenizer(), context_window_size=32, chunk_size=8, retrieval_method="bm25"
    )
    args = arguments(SelfRetrievalTrainingArguments, folder, **given)
    return SelfRetrievalTrainer(model, args, stream(DOCUMENTS[:rows]))


@pytest.mark.slow
@pytest.mark.parametrize("family", quick_first(["srlm", "llara", "biencoder"]))
@pytest.mark.parametrize(("rows", "accumulation"), quick_first([(5, 2), (8, 1)]))
def test_a_run_resumed_in_a_streams_second_pass_ends_in_the_same_weights(tmp_path, family, rows, accumulation):
    settings = {"rows": rows, "gradient_accumulation_steps": accumulation}
    whole = make_trainer(family, tmp_path / "whole", **settings)
    whole.train()
    assert len(logged(whole, "loss")) == 7
    resumed = make_trainer(family, tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert_same_weights(weights(resumed.model), weights(whole.model), 1e-6)
    assert logged(resumed, "loss") == pytest.approx(logged(whole, "loss"), abs=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_process_and_worker_gets_its_rows_of_the_endless_stream(workers):
    def batches(processes, index):
        rows = StreamedRows(stream([{"n": n} for n in range(5)]), lambda row, number, epoch: (row["n"], number, epoch))
        places = {"num_processes": processes, "process_index": index}
        found = StreamedBatches([rows], [4 // processes], [1.0], 0, ["The stream"], **places)
        loader = torch.utils.data.DataLoader(found, batch_size=None, num_workers=workers, collate_fn=tuple)
        return [batch for _, batch in zip(range(5), loader, strict=False)]

    alone = batches(1, 0)
    assert list(sum(alone, ())) == [(n, n, epoch) for epoch in range(4) for n in range(5)]
    assert [one + other for one, other in zip(batches(2, 0), batches(2, 1), strict=True)] == alone


def test_an_empty_stream_is_refused():
    empty = StreamedBatches([StreamedRows(stream([]), lambda row, *_: row)], [2], [1.0], 0, ["The stream"])
    with pytest.raises(ValueError, match="The stream is empty"):
        next(iter(empty))
