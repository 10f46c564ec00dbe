"""On several processes the last batch of an evaluation is filled up; its losses are means over the real rows alone."""

import doctest
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch import distributed
from torch.utils.data import DataLoader

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import CHATS, DOCUMENTS, PAIRS, PASSAGES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)
from trainers.base import filling

# Kind -> number of rows; the joint batches hold 4. Of 5 rows the last one is with the first process, the second has
# nothing but filling; of 3 all batches are the last.
KINDS = {
    "in_batch": 7,
    "in_batch_lone": 5,
    "ranking_lone": 5,
    "own_group": 5,
    "own_group_stream": 5,
    "few": 3,
    "llara": 7,
    "documents": 7,
    "chats": 5,
}


SCORED = [{"sentence1": row["query"], "sentence2": row["neg"][0], "score": i / 7} for i, row in enumerate(PAIRS)]


def make_trainer(kind: str, folder: Path, batch_size: int):
    settings = {"per_device_eval_batch_size": batch_size}
    if kind == "llara":
        model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
        return LlaraTrainer(model, arguments(LlaraTrainingArguments, folder, max_length=128, **settings)), PASSAGES
    if kind in ("documents", "chats"):
        args = arguments(SelfRetrievalTrainingArguments, folder, document_length=96, target_size=16, **settings)
        model = SelfRetrievalLM.from_components(
            tiny_backbone(), tiny_tokenizer(), retrieval_method="bm25", context_window_size=32, chunk_size=8
        )
        return SelfRetrievalTrainer(model, args), DOCUMENTS if kind == "documents" else CHATS
    in_batch, ranking = not kind.startswith("own_group") and kind != "few", kind.startswith("ranking")
    settings["train_group_size"] = 1 if ranking else 3
    args = arguments(BiEncoderTrainingArguments, folder, in_batch_negatives=in_batch, **settings)
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), temperature=0.1)
    return BiEncoderTrainer(model, args), SCORED if ranking else PAIRS


def evaluate(kind: str, folder: Path, batch_size: int) -> dict[str, float]:
    trainer, rows = make_trainer(kind, folder, batch_size)
    rows = datasets.Dataset.from_list(rows[: KINDS[kind]])
    metrics = trainer.evaluate(rows.to_iterable_dataset() if "stream" in kind else rows)
    names = [*trainer.component_names, "perplexity", "loss", "summarize_precision@8", "predict_precision@8"]
    return {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*command, "tests.trainers.base.test_evaluation_padding", str(tmp_path)], cwd=ROOT, env=environment, check=True
    )
    together = torch.load(tmp_path / "metrics.pt")
    for kind in KINDS:
        alone = evaluate(kind, tmp_path / "alone", batch_size=4)
        assert alone and together[kind] == pytest.approx(alone, rel=1e-5), kind


def test_a_streams_last_batch_has_the_weight_of_its_rows(tmp_path):
    metrics = evaluate("own_group_stream", tmp_path, batch_size=4)
    parts = metrics["contrastive_loss"] + metrics["distillation_loss"]
    assert metrics["loss"] == pytest.approx(parts, rel=1e-5)


def counted(rows: int, batch_size: int, processes: int, skipped: int, **settings: bool) -> tuple[list[int], set[int]]:
    """(rows that count on some process, lengths of their batches in number) of a loader that accelerate shares out."""
    found, lengths = [], set()
    for index in range(processes):
        loader = DataLoader([{"ids": torch.tensor(row)} for row in range(rows)], batch_size)
        loader = prepare_data_loader(loader, None, processes, index, put_on_device=False, **settings)
        loader = skip_first_batches(loader, skipped) if skipped else loader
        accelerator: Any = SimpleNamespace(
            num_processes=processes, process_index=index, gradient_state=loader.gradient_state
        )
        batches = [filling.drop_padding_rows(batch, accelerator) for batch in loader]
        lengths.add(len(batches))
        found += [row for batch in batches if not isinstance(batch, filling.Filling) for row in batch["ids"].tolist()]
    return sorted(found), lengths


@pytest.mark.cases(1)
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("skipped", [0, 1])
def test_each_row_counts_once_and_each_process_has_as_many_batches(processes, skipped):
    for rows in range(1, 14):
        for batch_size in (1, 2, 3):
            expected = list(range(skipped * batch_size * processes, rows))
            if expected:
                found, lengths = counted(rows, batch_size, processes, skipped)
                assert found == expected and len(lengths) == 1, (rows, batch_size)
                split = counted(rows, batch_size * processes, processes, skipped, split_batches=True)
                assert split == (found, lengths), (rows, batch_size)


def test_what_has_several_entries_a_row_is_cut_with_its_rows():
    assert not doctest.testmod(filling).failed
    batch = {"ids": torch.arange(12).view(6, 2), "history": [["a"], ["b"], ["c"]], "flag": False}
    kept = filling.first_rows(batch, count=2, rows=3)
    assert kept["ids"].tolist() == batch["ids"][:4].tolist()
    assert kept["history"] == [["a"], ["b"]] and kept["flag"] is False


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {kind: evaluate(kind, Path(sys.argv[1]) / "together", batch_size=2) for kind in KINDS}
    if os.environ["RANK"] == "0":
        torch.save(results, Path(sys.argv[1]) / "metrics.pt")
    distributed.destroy_process_group()
