"""`lookback perplexity --task chat`: the answers of chat rows, scored behind the turns that they retrieve."""

import json
import math

import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from tests.support.files import write_rows
from tests.support.perplexity import ROWS, SETTINGS
from tests.support.srlm import ByteCounter
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.commands.perplexity import main
from trainers.perplexity.data import read_chats
from trainers.perplexity.measure import compare_chats

METHODS = ["no", "recent", "random", "bm25", "dense", "self", "hybrid", "oracle"]


def build(family="llama"):
    return SelfRetrievalLM.from_components(tiny_backbone(family), tiny_tokenizer(), ByteCounter(), **SETTINGS)


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "qwen", "gpt2", "gemma"])
def test_every_method_is_the_mean_over_tokens_whatever_the_batch(tmp_path, family):
    model = build(family)
    chats = read_chats(write_rows(tmp_path / "chats.jsonl", ROWS), model.tokenizer, None)
    whole, pairs = (compare_chats(model, chats, METHODS, batch_size) for batch_size in (5, 2))
    assert model.config.retrieval_method == "bm25"
    assert [len(result.outputs) for result in (whole[0], pairs[0])] == [1, 3]
    for one, other in zip(whole, pairs, strict=True):
        assert one.perplexity == pytest.approx(other.perplexity, rel=1e-5)
        model.config.retrieval_method = one.method
        with torch.no_grad():
            outputs = [
                model.forward_with_history_retrieval([row["query"]], [row["history"]], row["answers"][:1])
                for row in ROWS
            ]
        total = sum(output.loss.item() * output.num_scored_tokens for output in outputs)
        tokens = [output.num_scored_tokens for output in outputs]
        assert one.perplexity == pytest.approx(math.exp(total / sum(tokens)), rel=1e-5) and len(set(tokens)) > 1
    perplexities = {result.method: result.perplexity for result in whole}
    assert perplexities["no"] != perplexities["recent"]


def test_the_command_prints_the_table_of_the_first_rows(tmp_path, capsys):
    build().save_pretrained(tmp_path / "model")
    data = write_rows(tmp_path / "chats.jsonl", ROWS)
    main(["--task", "chat", "--model", str(tmp_path / "model"), "--data", data, "--methods", "no", "recent",
          "--max_documents", "3", "--batch_size", "2"])  # fmt: skip
    printed = capsys.readouterr()
    model = build()
    chats = read_chats(data, model.tokenizer, 3)
    expected = compare_chats(model, chats, ["no", "recent"], batch_size=2)
    scored = sum(len(tiny_tokenizer()(row["answers"][0])["input_ids"]) for row in ROWS[:3])
    assert f"3 chat rows, {scored} tokens of answers scored" in printed.out
    table = [line.split() for line in printed.out.strip().splitlines()[-2:]]
    assert [row[:2] for row in table] == [[result.method, f"{result.perplexity:.3f}"] for result in expected]
    assert "row/s" in printed.err  # the progress bar


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"query": "q", "answers": ["a"]}, "chats.jsonl, line 2: field 'history' is None"),
        ({"history": ["h", " \n"], "query": "q", "answers": ["a"]}, "line 2: field 'history' has a blank text at 1"),
        ({"history": ["h"], "answers": ["a"]}, "chats.jsonl, line 2: field 'query' is missing"),
        ({"history": ["h"], "query": "q"}, "chats.jsonl, line 2: field 'answers' is None"),
        ({"history": ["h"], "query": "q", "answers": [" "]}, "chats.jsonl, line 2: field 'answers' is ' '"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, text):
    data = write_rows(tmp_path / "chats.jsonl", [ROWS[0], row])
    with pytest.raises(ValueError) as caught:
        read_chats(data, tiny_tokenizer(), None)
    assert text in str(caught.value)
    assert len(read_chats(data, tiny_tokenizer(), 1)) == 1  # a row that is not asked for is not looked at


def test_a_file_that_is_no_json_is_named(tmp_path):
    data = tmp_path / "chats.jsonl"
    data.write_text(json.dumps(ROWS[0]) + '\n{"history": ["a"], "query": \n')
    with pytest.raises(ValueError, match=r"chats\.jsonl"):
        read_chats(str(data), tiny_tokenizer(), None)


def test_bad_arguments(tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", ROWS)
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS)
    chats = read_chats(data, model.tokenizer, None)
    with pytest.raises(ValueError, match="'dense' needs a retriever"):
        compare_chats(model, chats, ["no", "dense"])
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        compare_chats(model, chats, ["no"], batch_size=0)
    with pytest.raises(ValueError, match="no rows"):
        compare_chats(model, chats.select([]), ["no"])
    with pytest.raises(ValueError, match="--task='chat' needs --data"):
        main(["--task", "chat"])
    with pytest.raises(ValueError, match="whole answer is scored"):
        main(["--task", "chat", "--data", data, "--scored_tokens", "5"])
    with pytest.raises(ValueError, match="--max_documents=0 must be at least 1"):
        main(["--task", "chat", "--data", data, "--max_documents", "0"])
