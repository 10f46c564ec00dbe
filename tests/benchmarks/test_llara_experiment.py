"""The experiment of what LLaRA gives a retriever: fair splits, fair lengths, an honest table."""

import pytest
import torch

from benchmarks.experiments import llara
from benchmarks.experiments.llara import DEVELOPMENT_MODULES, adapted_biencoder, load_data, raw_biencoder, table
from trainers.demo.adaptation import PASSAGE_TOKENS as ADAPTATION_TOKENS
from trainers.demo.settings import DemoArguments
from trainers.embedded.corpus import Document, is_holdout


@pytest.mark.slow
def test_what_is_measured_on_is_not_trained_on():
    development, holdout = load_data("development", max_pairs=30), load_data("holdout")
    assert len(development.pairs) == 30 and len(holdout.pairs) > 500
    assert all(pair.name.split("/")[0] in DEVELOPMENT_MODULES for pair in development.pairs)
    assert all(is_holdout(pair.name.split(":")[0]) for pair in holdout.pairs)
    for data in (development, holdout):
        names = {document.name for document in data.documents}
        assert not any(is_holdout(name) or name.split("/")[0] in DEVELOPMENT_MODULES for name in names)
        trained = {text for row in data.rows for text in (row["query"], *row["pos"])}
        assert not trained & {text for pair in data.pairs for text in (pair.query, pair.passage)}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    options = DemoArguments(llara_steps=1, llara_batch_size=2, output_dir=str(tmp_path_factory.mktemp("run")))
    return adapted_biencoder(options, [Document("a.py", "socket.connect(host, port)\n" * 4 * ADAPTATION_TOKENS)])


@pytest.mark.parametrize("pooling", [*llara.RAW_POOLINGS, "adapted"])
def test_every_biencoder_reads_as_much_of_a_text(pooling, adapted):
    candidate = adapted if pooling == "adapted" else raw_biencoder(pooling)
    # The 128th token is the last one that counts, with whatever prompt.
    words = [" socket"] * (llara.PASSAGE_TOKENS - 1)
    texts = ["".join([*words, end, " host"]) for end in (" port", " port", " self")]
    texts[1] += " host host"
    same, longer, other = candidate.model.encode(texts, role="passage")
    torch.testing.assert_close(same, longer)
    assert not torch.allclose(same, other, atol=1e-5)


def test_the_table_has_mean_and_range():
    runs = [{"raw, mean": (0.1, 0.2)}, {"raw, mean": (0.1, 0.4)}]
    assert table(runs).splitlines()[2] == "| raw, mean | 0.100 (0.100 to 0.100) | 0.300 (0.200 to 0.400) |"
