"""Tasks of mteb's kinds whose texts are made here: nothing is downloaded."""

import sys
from typing import Any

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

TOPICS = {
    "light": ["lantern", "candle", "lamp", "torch", "glow"],
    "tool": ["hammer", "nail", "saw", "chisel", "plank"],
    "water": ["island", "river", "boat", "tide", "harbour"],
}
TEXTS = [
    (f"the {one} stood by the {other}", topic) for topic, words in TOPICS.items() for one in words for other in words
]


def metadata(name: str, kind: str, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name, type=kind, main_score=main_score, description="Texts of lanterns, hammers and islands.",
        reference=None, dataset={"path": f"local/{name}", "revision": "1"}, category="t2t", modalities=["text"],
        eval_splits=["test"], eval_langs=["eng-Latn"], date=("2026-01-01", "2026-01-02"), domains=[],
        task_subtypes=[], license="cc0-1.0", annotations_creators="derived", dialect=[], sample_creation="created",
        bibtex_citation="",
    )  # fmt: skip


class Loaded:
    """What is common to them: `made()` is the data set."""

    def load_data(self, **kwargs: Any) -> None:
        if not self.data_loaded:
            self.dataset = self.made()
            self.data_loaded = True


class LocalRetrieval(Loaded, AbsTaskRetrieval):
    metadata = metadata("LocalRetrieval", "Retrieval", "ndcg_at_10")

    def made(self) -> dict:
        words = [word for topic in TOPICS.values() for word in topic]
        queries = [{"id": f"q{i}", "text": f"where is the {word}"} for i, word in enumerate(words)]
        corpus = [{"id": f"d{i}", "title": topic, "text": text} for i, (text, topic) in enumerate(TEXTS)]
        judged = {
            query["id"]: {doc["id"]: 1 for doc in corpus if query["text"].split()[-1] in doc["text"]}
            for query in queries
        }
        data = {"queries": Dataset.from_list(queries), "corpus": Dataset.from_list(corpus)}
        return {"default": {"test": {**data, "relevant_docs": judged, "top_ranked": None}}}


class LocalSTS(Loaded, AbsTaskSTS):
    metadata = metadata("LocalSTS", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def made(self) -> DatasetDict:
        pairs = [(one, other) for one in TEXTS[::4] for other in TEXTS[1::7]]
        rows = [
            {"sentence1": a, "sentence2": b, "score": 5.0 * len({*a.split()} & {*b.split()}) / len(a.split())}
            for (a, _), (b, _) in pairs
        ]
        return DatasetDict({"test": Dataset.from_list(rows)})


class LocalClassification(Loaded, AbsTaskClassification):
    metadata = metadata("LocalClassification", "Classification", "accuracy")
    n_experiments = 2

    def made(self) -> DatasetDict:
        rows = [{"text": text, "label": list(TOPICS).index(topic)} for text, topic in TEXTS]
        return DatasetDict({"train": Dataset.from_list(rows[::2]), "test": Dataset.from_list(rows[1::2])})


class LocalClustering(Loaded, AbsTaskClustering):
    metadata = metadata("LocalClustering", "Clustering", "v_measure")
    max_fraction_of_documents_to_embed, max_depth = None, None
    max_document_to_embed, max_documents_per_cluster, n_clusters = 75, 50, 2

    def made(self) -> DatasetDict:
        rows = [{"sentences": text, "labels": topic} for text, topic in TEXTS]
        return DatasetDict({"test": Dataset.from_list(rows)})


TASKS = (LocalRetrieval, LocalSTS, LocalClassification, LocalClustering)


def register(monkeypatch: Any) -> None:
    """mteb knows the tasks by name, until the test is over."""
    for kind in TASKS:
        monkeypatch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, kind.metadata.name, kind)


def stand_in(monkeypatch: Any) -> None:
    """Tasks of the Hub by their names, and a benchmark, with these texts in place of theirs."""
    for name, kind in {"STS12": LocalSTS, "SciFact": LocalRetrieval}.items():
        own = type(name, (kind,), {"metadata": metadata(name, kind.metadata.type, kind.metadata.main_score)})
        monkeypatch.setitem(sys.modules["mteb.get_tasks"]._TASKS_REGISTRY, name, own)
    benchmark = mteb.Benchmark("NanoBEIR", mteb.get_tasks(["SciFact"]))
    monkeypatch.setattr(mteb, "get_benchmark", {"NanoBEIR": benchmark}.__getitem__)


def scores(encoder: Any, kinds: Any = TASKS, **settings: Any) -> dict[str, dict]:
    """{task: all that mteb says of it}, by mteb's own runner."""
    found = mteb.evaluate(encoder, [kind() for kind in kinds], cache=None, show_progress_bar=False, **settings)
    return {one.task_name: one.scores["test"][0] for one in found.task_results}
