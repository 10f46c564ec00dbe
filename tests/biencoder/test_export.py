"""The sentence-transformers export gives the embeddings of encode."""

from pathlib import Path

import pytest
import torch

from modeling_biencoder import BiEncoderModel
from tests.support.tiny import tiny_backbone, tiny_tokenizer

TEXTS = ["the copper lantern", "candle", "A query finds the passage that answers it. " * 4]


def _model(family: str = "llama", **config) -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(family), tiny_tokenizer(), **config)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"pooling": "last_token"}),
        ("gpt2", {"pooling": "last_token", "normalize": False}),
        ("llama", {"pooling": "mean", "max_length": 16}),
        ("bert", {"pooling": "cls"}),
    ],
)
def test_sentence_transformers_gives_equal_embeddings(family: str, config: dict, tmp_path: Path) -> None:
    SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer
    prompts = {"default": {"query": "q: ", "passage": "p: "}, "code": {"query": "def "}}
    model = _model(family, prompts=prompts, **config)
    model.export_sentence_transformers(tmp_path)
    exported = SentenceTransformer(str(tmp_path), device="cpu")
    for name, role, task in (("query", "query", None), ("document", "passage", None), ("code-query", "query", "code")):
        theirs = exported.encode(TEXTS, prompt_name=name, convert_to_tensor=True)
        torch.testing.assert_close(theirs, model.encode(TEXTS, role=role, task=task), rtol=1e-5, atol=1e-5)
    assert exported.similarity_fn_name == model.config.similarity


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling": "mean_last_k"}, "pooling='mean_last_k'"),
        ({"bidirectional": True}, "bidirectional=True"),
        ({"append_eos": True}, "append_eos=True"),
        ({"prompts": {"default": {"query_suffix": "?"}}}, "prompts with a suffix"),
    ],
)
def test_what_sentence_transformers_lacks_is_refused_before_anything_is_written(
    config: dict, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="sentence-transformers cannot express") as error:
        _model(**config).export_sentence_transformers(tmp_path / "out")
    assert named in str(error.value)
    assert not (tmp_path / "out").exists()
