"""Embeddings in files, as several processes make them."""

import torch

from trainers.retrieval.embeddings import EmbeddingFiles


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
    assert files.pieces(2)[torch.arange(7)].tolist() == [[number, 1] for number in range(7)]
