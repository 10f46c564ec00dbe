"""The loading code of every family's card, run as a reader would: in a new process that has no Lookback."""

import re

import pytest
import torch
from huggingface_hub import ModelCard

from hub_cards import push
from tests.support.families import build
from tests.support.loopback_hub import environment
from tests.support.loopback_hub.fixtures import read
from trainers.demo.fresh_process import run_without_lookback

PRINTED = {
    "biencoder": r"tensor\(\[\[",
    "llara": "A query finds the passage",
    "srlm": r"perplexity [\d.]+ .*tensor\(\[\[",
}
TEXTS = ["the copper lantern", ""]
THEIRS = """
import torch
from sentence_transformers import SentenceTransformer
def compare(texts):
    model = SentenceTransformer("user/retriever", trust_remote_code=True, device="cpu")
    found = [encode(texts, convert_to_tensor=True) for encode in (model.encode_query, model.encode_document)]
    torch.testing.assert_close(found, torch.load("wanted.pt"), rtol=1e-6, atol=1e-6)
    print("EQUAL")
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", PRINTED)
def test_the_code_of_the_card_runs_without_lookback(family, tmp_path):
    folder = tmp_path / "repo"
    build(family).save_pretrained(folder)
    blocks = re.findall(r"```python\n(.*?)```", ModelCard.load(folder / "README.md").text, re.DOTALL)
    assert [code.count("path/to/this/repo") for code in blocks] == [1] * (2 if family == "biencoder" else 1)
    code = "\n".join(blocks).replace("path/to/this/repo", str(folder))
    printed = run_without_lookback(code, folder=tmp_path)
    assert len(re.findall(PRINTED[family], printed)) == len(blocks), printed


def test_push_of_a_model_sends_a_whole_repo_that_names_itself(hub):
    push(build("biencoder"), "user/name")
    files = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "modeling_biencoder.py"}
    of_sentence_transformers = {"modules.json", "config_sentence_transformers.json", "sentence_encoder_biencoder.py"}
    assert files | of_sentence_transformers <= set(hub.repos["user/name"].files())
    card = read(hub, "README.md", "user/name")
    assert 'from_pretrained("user/name"' in card and "\n# name\n" in card


@pytest.mark.slow
def test_sentence_transformers_takes_a_pushed_repo_without_lookback(hub, tmp_path):
    """Its code comes from the Hub, too: every file that the module needs is found and fetched."""
    pytest.importorskip("sentence_transformers")
    model = build("biencoder")
    model.config.prompts = {"default": {"query": "q: ", "query_suffix": "?"}}
    model.push_to_hub("user/retriever")
    torch.save([model.encode(TEXTS, role=role) for role in ("query", "passage")], tmp_path / "wanted.pt")
    printed = run_without_lookback(
        THEIRS + f"compare({TEXTS!r})", folder=tmp_path, environment=environment(hub, tmp_path / "home", "hf_read")
    )
    assert "EQUAL" in printed, printed
