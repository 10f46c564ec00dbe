"""The loading code of every family's card, run as a reader would: in a new process that has no Lookback."""

import re

import pytest
from huggingface_hub import ModelCard

from hub_cards import push
from tests.support.families import build
from tests.support.loopback_hub.fixtures import read
from trainers.demo.fresh_process import run_without_lookback

PRINTED = {
    "biencoder": r"tensor\(\[\[",
    "llara": "A query finds the passage",
    "srlm": r"perplexity [\d.]+ .*tensor\(\[\[",
}


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
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "modeling_biencoder.py"} <= set(
        hub.repos["user/name"].files()
    )
    card = read(hub, "README.md", "user/name")
    assert 'from_pretrained("user/name"' in card and "\n# name\n" in card
