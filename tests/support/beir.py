"""A small data set in BEIR's form: each sentence of the training data is found by its own query."""

from pathlib import Path
from typing import Any

from tests.support.files import write_rows
from tests.support.training import SENTENCES

CORPUS = {f"d{number}": f"{text} indeed" for number, text in enumerate(SENTENCES)}
QUERIES = {f"q{number}": text for number, text in enumerate(SENTENCES)}
QRELS = {f"q{number}": {f"d{number}": 2.0, f"d{(number + 1) % len(SENTENCES)}": 1.0} for number in range(6)}


def write_beir(folder: Path, corpus: Any = CORPUS, queries: Any = QUERIES, qrels: Any = QRELS) -> Path:
    """BEIR's own layout."""
    passages = [{"_id": key, "title": "", "text": text, "metadata": {}} for key, text in corpus.items()]
    write_rows(folder / "corpus.jsonl", passages)
    write_rows(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries.items()])
    lines = [f"{query}\t{key}\t{grade:g}" for query, judged in qrels.items() for key, grade in judged.items()]
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder
