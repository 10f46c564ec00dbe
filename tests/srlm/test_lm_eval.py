"""Outside tools use the model as an ordinary causal LM: lm-evaluation-harness and a transformers pipeline."""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length
from transformers import AutoModelForCausalLM, pipeline

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.positions_srlm import hide_positions
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer

SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "target_size": 32}


def build(family: str, method: str) -> SelfRetrievalLM:
    return SelfRetrievalLM.from_components(
        tiny_backbone(family), tiny_tokenizer(), retrieval_method=method, **SETTINGS
    )


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "method"), [("llama", "bm25"), ("gpt2", "self"), ("gemma", "no")])
def test_rolling_loglikelihood_is_the_perplexity(family, method):
    model = build(family, method)
    texts = [model.tokenizer.decode(random_ids(length, seed=length)) for length in (300, 170, 40)]
    # One row a batch: the harness pads on the right without a mask, and the grid of chunks ends where the row ends.
    harness = HFLM(pretrained=model, tokenizer=model.tokenizer, max_length=1000, batch_size=1)
    requests = [
        Instance("loglikelihood_rolling", doc={}, arguments=(text,), idx=number) for number, text in enumerate(texts)
    ]
    likelihoods = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    for text, likelihood in zip(texts, likelihoods, strict=True):
        # The harness puts a prefix token before each text and scores every token of the text.
        ids = torch.tensor([[harness.prefix_token_id, *harness.tok_encode(text)]])
        perplexity = model.compute_perplexity([{"input_ids": ids, "labels": ids}], show_progress=False)
        assert math.exp(-likelihood / (ids.shape[1] - 1)) == pytest.approx(perplexity, rel=1e-5)


def test_pipeline_generates():
    model = build("llama", "bm25")
    generate = pipeline("text-generation", model=model, tokenizer=model.tokenizer)
    text = model.tokenizer.decode(random_ids(150))
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    found = generate(text, max_new_tokens=20, do_sample=False, return_full_text=False)[0]["generated_text"]
    expected = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert found == model.tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("batch_size", "lengths", "warned"),
    [(1, (300, 170), False), (2, (300, 170), True), (2, (300, 300), False), (2, (30, 20), False)],
)
def test_a_padded_batch_without_a_mask_is_told(monkeypatch, batch_size, lengths, warned):
    """The harness pads on the right and gives no mask; short rows stand in the window whole, however they end."""
    said: list[str] = []
    monkeypatch.setattr("modeling_srlm.inputs_srlm.logger.warning_once", said.append)
    model = build("llama", "bm25")
    harness = HFLM(pretrained=model, tokenizer=model.tokenizer, max_length=1000, batch_size=batch_size)
    rows = [([3], random_ids(length, seed=length + i).tolist()) for i, length in enumerate(lengths)]
    harness._loglikelihood_tokens([(("", ""), *row) for row in rows], disable_tqdm=True)
    assert [("seems to be padded on the right" in text, "batch_size=1" in text) for text in said] == (
        [(True, True)] if warned else []
    )


def test_a_batch_with_a_mask_or_with_labels_is_no_riddle(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("modeling_srlm.inputs_srlm.logger.warning_once", said.append)
    model, ids = build("llama", "bm25"), random_ids(2, 200)
    ids[1, 150:] = model.tokenizer.pad_token_id
    labels = ids.clone()
    labels[1, 150:] = -100
    model(ids, (ids != model.tokenizer.pad_token_id).long())
    model(ids, labels=labels)
    assert not said
    model(ids, labels=ids)
    assert len(said) == 1


TASK = """task: long_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


def short_positions(family: str) -> SelfRetrievalLM:
    """A model whose backbone has 256 positions."""
    name = "n_positions" if family == "gpt2" else "max_position_embeddings"
    return SelfRetrievalLM.from_components(
        tiny_backbone(family, **{name: 256}), tiny_tokenizer(), retrieval_method="bm25", **SETTINGS
    )


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "qwen", "mistral", "gpt2", "opt"])
def test_a_loaded_repo_has_room_for_long_texts_and_is_otherwise_as_before(tmp_path, family):
    made = short_positions(family)
    made.save_pretrained(tmp_path / "repo")
    assert resolve_max_length(made.config) == 256  # what the harness would cut at
    loaded = SelfRetrievalLM.from_pretrained(tmp_path / "repo")
    hide_positions(loaded.config)  # as the code in the repo does by itself, in the test of the command below
    assert resolve_max_length(loaded.config, loaded.tokenizer) == 131_072
    inner = loaded.config.text_config
    assert isinstance(inner, type(made.config.text_config)) and inner is loaded.language_model.config
    for copied in (copy.deepcopy(inner), pickle.loads(pickle.dumps(inner))):
        assert type(copied) is type(made.config.text_config) and copied.to_dict() == inner.to_dict()
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "repo/config.json").read_text()
    loaded.language_model.save_pretrained(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert resolve_max_length(plain.config) == 256
    ids = random_ids(1, 300)
    assert torch.equal(loaded(ids).logits, made(ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_command_sees_a_long_text_whole(tmp_path, family):
    model = short_positions(family)
    model.save_pretrained(tmp_path / "repo")
    texts = [model.tokenizer.decode(random_ids(length, seed=length)) for length in (900, 500)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "long_text.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "hf", "--tasks", "long_text"]
    arguments = ["--model_args", "pretrained=repo,trust_remote_code=True", "--include_path", ".", "--device", "cpu"]
    done = subprocess.run(
        [*command, *arguments, "--output_path", "out", "--log_samples"],
        cwd=tmp_path, env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (samples,) = tmp_path.glob("out/*/samples_long_text_*.jsonl")
    for row in map(json.loads, samples.read_text().splitlines()):
        ids = torch.tensor([[0, *model.tokenizer(row["doc"]["text"])["input_ids"]]])
        perplexity = model.compute_perplexity([{"input_ids": ids, "labels": ids}], show_progress=False)
        likelihood = row["word_perplexity"][0]
        assert math.exp(-likelihood / (ids.shape[1] - 1)) == pytest.approx(perplexity, rel=1e-4)
