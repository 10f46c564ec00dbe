"""What the tests of `lookback score` share: rows of every format, a saved model, and the plain computation."""

from pathlib import Path

import torch

from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import SENTENCES

ROWS = {
    "qa": {"query": " where is the lantern? ", "answers": [" on the island"], "pos": ["the island ", "a candle"],
           "neg": ["the hammer lies next to the copper lantern"], "query_id": 3},
    "convsearch": {"query": "who reads?", "answers": ["the library"], "pos": ["a library"], "neg": ["it", "a book"]},
    "icl": {"query": "is it long? yes or no?", "answers": ["yes"], "pos": ["is it old?\nyes"], "neg": ["is it?\nno"]},
    "chat": {"query": "where did we leave it?", "answers": ["On the island."],
             "history": ["Speaker 1: hi\nSpeaker 2: ho", "Speaker 1: a lantern?", "Speaker 2: next to the candle"]},
    "lrlm": {"query": " what came before", "answers": [" A query finds it."], "pos": [], "context": "looks back at",
             "neg": ["The library reads", "long documents", "and looks back"]},
}  # fmt: skip
# What stands before the answer, candidate by candidate, and the answer.
TEXTS = {
    "qa": ("Knowledge: {}\n\nQuestion: where is the lantern?\n\nAnswer:", " on the island"),
    "convsearch": ("Knowledge: {}\n\nQuestion: who reads?\n\nAnswer:", " the library"),
    "icl": ("{}\nis it long? yes or no?\n", "yes"),
    "chat": ("{}\nSpeaker 1: where did we leave it?\nSpeaker 2:", " On the island."),
    "lrlm": ("{}looks back at what came before", " A query finds it."),
}
MANY = [
    {"query": text, "answers": [other], "pos": [text * (i + 1)], "neg": [other[::-1], text[::-1]], "task": "qa"}
    for i, (text, other) in enumerate(zip(SENTENCES, SENTENCES[::-1], strict=True))
] * 3  # fmt: skip


def candidates(row: dict) -> list[str]:
    return row["history"] if "history" in row else row["pos"] + row["neg"]


def scorer(family: str = "llama", window: int = 256) -> SelfRetrievalLM:
    settings = {"context_window_size": window, "chunk_size": 16, "retrieval_method": "no", "chunk_batch_size": 2}
    return SelfRetrievalLM.from_components(tiny_backbone(family), tiny_tokenizer(), **settings)


def plain_score(backbone: torch.nn.Module, before: list[int], scored: list[int]) -> float:
    """Sum of the log-probabilities of the ids `scored` behind the ids `before`, by the backbone alone."""
    with torch.no_grad():
        logits = backbone(torch.tensor([before + scored])).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(scored)[:, None]).sum().item()


def save_backbone(folder: Path) -> str:
    tiny_backbone().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
