"""examples/ray_encode.py: what Ray's workers write are the model's embeddings, each with its row."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from modeling_biencoder import BiEncoderModel
from tests.support import ROOT
from tests.support.files import write_rows
from tests.support.tiny import tiny_backbone, tiny_tokenizer

# A core for each worker and two to read and write with, wherever this runs.
CODE = "import sys, ray; ray.init(num_cpus=4); from examples.ray_encode import main; main(sys.argv[1:])"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama"])
def test_two_workers_embed_a_corpus(tmp_path: Path, family: str) -> None:
    pytest.importorskip("ray")
    model = BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), tiny_tokenizer(), pooling="mean")
    model.save_pretrained(tmp_path / "bi")
    texts = {f"id-{number}": f"the copper lantern {number}" for number in range(300)}
    given = [{"id": key, "text": text} for key, text in texts.items()]
    given += [
        {"_id": "2020-01-01", "title": "2021-05-06", "text": None},
        {"_id": 7, "title": "time", "text": "2021-01-02"},
    ]
    write_rows(tmp_path / "corpus.jsonl", given)
    texts |= {"2020-01-01": "2021-05-06", "7": "time 2021-01-02"}
    argv = [
        "--model",
        tmp_path / "bi",
        "--data",
        tmp_path / "corpus.jsonl",
        "--output",
        tmp_path / "out",
        "--workers",
        2,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, argv)], cwd=ROOT, env=environment, timeout=500,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = pq.read_table(tmp_path / "out").to_pylist()
    found = {row["id"]: torch.tensor(row["embedding"]) for row in rows}
    assert {row["id"]: row["text"] for row in rows} == texts
    expected = model.encode(list(texts.values()), role="passage")
    torch.testing.assert_close(torch.stack([found[key] for key in texts]), expected, rtol=0, atol=1e-5)
