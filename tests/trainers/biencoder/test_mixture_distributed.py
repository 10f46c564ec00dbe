"""Mixtures and unequal last batches on two and three gloo processes: run by `torchrun`, the way a user would."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments, assert_same_weights, weights

SETS = {
    "retrieval": PAIRS,
    "pairs": [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(11)],
    "own group": [{"data": [{"anchor": f"a {i}", "positive": f"b {i}", "negative": f"c {i}"} for i in range(7)]}],
}
SETS["own group"][0]["type"] = "classification"
# Processes -> rows: the last joint batch of micro-batches of 2 is shared unequally.
ROWS = {2: PAIRS[:7], 3: PAIRS[:5]}


def make_trainer(folder, rows, **settings):
    from modeling_biencoder import BiEncoderModel
    from trainers import BiEncoderTrainer, BiEncoderTrainingArguments

    torch.set_num_threads(1)
    settings = {
        "train_group_size": 2,
        "per_device_train_batch_size": 2,
        "optim": "sgd",
        "max_grad_norm": 0,
        **settings,
    }
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), temperature=0.1)
    return BiEncoderTrainer(model, arguments(BiEncoderTrainingArguments, folder, **settings), rows)


def queries(loader, count=None):
    return [batch["identity"]["query"].tolist() for batch in islice(loader, count)]


def work(folder: Path) -> dict:
    """What one process sees and ends with."""
    processes = int(os.environ["WORLD_SIZE"])
    unequal = make_trainer(folder, ROWS[processes], max_steps=3, learning_rate=0.1)
    unequal.train()
    mixed = make_trainer(folder, SETS, max_steps=-1, num_train_epochs=2, dataloader_num_workers=1)
    mixed.train()
    equal = make_trainer(folder, SETS, mixture="equal", streaming=True)
    return {
        "weights": weights(unequal.model),
        "steps": mixed.state.global_step,
        "epoch": queries(make_trainer(folder, SETS).get_train_dataloader()),
        "stream": queries(equal.get_train_dataloader(), 12),
    }


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_rows_are_shared_without_repeats_and_unequal_last_batches_count_as_one(tmp_path, processes):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [*command, "-m", "tests.trainers.biencoder.test_mixture_distributed", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=300,
    )
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(processes)]

    alone = make_trainer(
        tmp_path, ROWS[processes], max_steps=3, learning_rate=0.1, per_device_train_batch_size=2 * processes
    )
    start = weights(alone.model)
    alone.train()
    assert_same_weights(ranks[0]["weights"], weights(alone.model), 1e-5)
    assert max((start[name] - value).abs().max() for name, value in weights(alone.model).items()) > 1e-3

    whole = make_trainer(tmp_path, SETS)
    known = [
        {whole.train_dataset[i]["identity"]["query"] for i in rows} for rows in (range(8), range(8, 19), range(19, 26))
    ]
    for kind in ("epoch", "stream"):
        joint = [
            [query for part in step for query in part] for step in zip(*(rank[kind] for rank in ranks), strict=True)
        ]
        assert all(part for rank in ranks for part in rank[kind])
        assert all(sum(set(batch) <= one for one in known) == 1 for batch in joint)
        if kind == "epoch":
            assert sorted(query for batch in joint for query in batch) == sorted(set().union(*known))
            assert {rank["steps"] for rank in ranks} == {2 * len(joint)}


if __name__ == "__main__":
    result = work(Path(sys.argv[1]) / "run")
    torch.save(result, Path(sys.argv[1]) / f"{os.environ['RANK']}.pt")
