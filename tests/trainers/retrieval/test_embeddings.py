"""Embeddings in files: what several processes make, and the one file of them all."""

import json

import pytest
import torch
from safetensors.torch import save

from trainers.retrieval.embeddings import EmbeddingFiles, load_embeddings, write_embeddings

TABLE = torch.arange(20.0).view(10, 2) / 7
IDS = [f"é{number}" for number in range(10)]


class Lengths:
    """An encoder: (text's length, 1)."""

    def __init__(self):
        self.seen = []

    def encode(self, texts, role, task, **settings):
        self.seen += texts
        return torch.tensor([[len(text), 1.0] for text in texts])


def test_each_process_has_a_share_however_far_the_others_are(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.retrieval.embeddings.BATCHES_A_FILE", 1)
    texts = ["x" * number for number in range(7)]
    model = Lengths()
    for process in (1, 0):  # one after the other, as if each were done before the next one began
        EmbeddingFiles(tmp_path, texts, batch_size=1).fill(model, None, process, 2)
    assert model.seen == [*texts[1::2], *texts[0::2]]
    (tmp_path / "embeddings-000003.safetensors").unlink()
    files = EmbeddingFiles(tmp_path, texts, batch_size=1)
    files.fill(model, None)
    assert model.seen[7:] == [texts[3]]
    assert files.load(2).tolist() == [[number, 1] for number in range(7)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("metadata", [{"model": 'a "b" é\n'}, None])
def test_blocks_become_one_tensor_to_the_byte_as_the_library_writes_it(tmp_path, dtype, metadata):
    file = tmp_path / "e.safetensors"
    blocks = (TABLE[start : start + 3] for start in range(0, 10, 3))
    write_embeddings(file, blocks, (10, 2), IDS, dtype, metadata)
    whole = TABLE.to(getattr(torch, dtype))
    assert file.read_bytes() == save({"embeddings": whole}, metadata)
    embeddings, ids = load_embeddings(file)
    assert torch.equal(embeddings, whole) and ids == IDS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.ids.jsonl", "e.safetensors"]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([TABLE[:9]], "9 rows, and the file 10"),
        ([TABLE, TABLE[:1]], "11 rows, and the file 10"),
        ([TABLE[:, :1]], "1 numbers a row, and the file 2"),
    ],
)
def test_blocks_that_do_not_fit_leave_the_former_file(tmp_path, blocks, message):
    file = tmp_path / "e.safetensors"
    write_embeddings(file, [TABLE[:1]], (1, 2), ["former"])
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        write_embeddings(file, blocks, (10, 2), IDS)
    assert file.read_bytes() == before and load_embeddings(file)[1] == ["former"]


def test_embeddings_without_their_ids_are_not_read(tmp_path):
    file = tmp_path / "e.safetensors"
    write_embeddings(file, [TABLE], (10, 2), IDS)
    (tmp_path / "e.ids.jsonl").write_text(json.dumps("a") + "\n")
    with pytest.raises(ValueError, match="has 1 ids for 10 embeddings"):
        load_embeddings(file)
    (tmp_path / "e.ids.jsonl").unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_embeddings(file)


def test_numbers_that_the_file_does_not_hold_are_refused(tmp_path):
    for table, dtype in ((TABLE * 1e6, "float16"), (TABLE / 0, "float32")):
        with pytest.raises(ValueError, match=f"which {dtype} does not hold"):
            write_embeddings(tmp_path / "e.safetensors", [table], (10, 2), IDS, dtype)
    assert not list(tmp_path.iterdir())
