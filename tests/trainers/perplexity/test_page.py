"""The page of `lookback perplexity --report`: its data, escaping and writing. See test_page_in_browser."""

import datetime
import math
import re

import datasets
import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from tests.support.files import write_rows
from tests.support.needle import tokenizer_with_a_blank
from tests.support.perplexity import HOSTILE, ROWS, SETTINGS, data_of
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers.commands.perplexity import main
from trainers.pages import page as pages
from trainers.pages.page import check_report_file
from trainers.perplexity import page as module
from trainers.perplexity.chunks import chunk_texts
from trainers.perplexity.data import TokenizedDocument, read_chats, read_documents, read_texts
from trainers.perplexity.measure import compare_chats, compare_methods
from trainers.perplexity.page import render_report, write_report
from trainers.perplexity.page_data import chat_page, document_page


@pytest.fixture(scope="module")
def model():
    return SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS)


def test_the_page_holds_what_was_scored(model):
    """300 tokens in chunks of 16: the first chunk has 12."""
    documents = [TokenizedDocument("a", random_ids(300)), TokenizedDocument("b", random_ids(160, seed=1))]
    results = compare_methods(model, [document.tokens for document in documents], ["no", "bm25", "recent"])
    page = data_of(render_report(document_page(model, documents, results, [("model", "m")])))
    assert [method["perplexity"] for method in page["methods"]] == [result.perplexity for result in results]
    for number, (document, item) in enumerate(zip(documents, page["items"], strict=True)):
        number_of_chunks = -(-len(document.tokens) // 16)
        assert item["targets"] == list(range(number_of_chunks))
        assert item["start"] + number_of_chunks * 16 == len(document.tokens)
        assert [*item["texts"]] == [str(chunk) for chunk in item["targets"]]
        assert "".join(item["texts"].values()) == model.tokenizer.decode(document.tokens)
        for run, result in zip(item["runs"], results, strict=True):
            output = result.outputs[number]
            assert run["perplexity"] == pytest.approx(math.exp(output["loss"].item()))
            assert run["losses"] == pytest.approx(output["target_losses"][0].tolist(), rel=1e-4)
            assert run["sources"] == [
                [key for key in row if key >= 0] for row in output["retrieved_indices"][0].tolist()
            ]
            assert [len(row) for row in run["scores"]] == [len(row) for row in run["sources"]]
    assert not any(page["items"][0]["runs"][0]["sources"])
    assert any(page["items"][0]["runs"][1]["sources"])


@pytest.mark.parametrize("make", [tiny_tokenizer, tokenizer_with_a_blank])
def test_a_character_that_a_chunk_cuts_stands_whole_in_one(make):
    """And a chunk has the blank with which it begins."""
    tokenizer, text = make(), "Grüße 👩‍👩‍👧 a  b שלום עולם 中文 \ufffd\n  end " * 3
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for size in (1, 3, 16):
        for start in (0, -(-len(ids) % size)):
            texts = chunk_texts(tokenizer, ids, start, size)
            assert len(texts) == len(range(start, len(ids), size)) and "".join(texts) == text
    whole = [tokenizer.decode(ids[: number + 1]) for number in range(len(ids))]
    cuts = [number + 1 for number, one in enumerate(whole) if not one.endswith("\ufffd")]
    assert all(chunk_texts(tokenizer, ids, 0, cut)[0] == whole[cut - 1] for cut in cuts[3::7])


def test_only_texts_that_are_shown_are_in_the_page(model):
    document = TokenizedDocument("a", random_ids(640))
    page = document_page(model, [document], compare_methods(model, [document.tokens], ["recent"], 16), [])
    (item,) = page["items"]
    ((newest, older),) = item["runs"][0]["sources"]
    assert item["targets"] == [39]
    assert set(item["texts"]) == {38, 39, newest, newest + 1, older, older + 1}


def test_chunks_without_a_scored_token_have_no_loss(model):
    """Of 33 tokens the first chunk is one token, which nothing predicts."""
    document = TokenizedDocument("a", random_ids(33))
    page = document_page(model, [document], compare_methods(model, [document.tokens], ["no"]), [])
    losses = data_of(render_report(page))["items"][0]["runs"][0]["losses"]
    assert losses[0] is None
    assert all(loss > 0 for loss in losses[1:])


def test_chat_rows_in_batches(tmp_path, model):
    chats = read_chats(write_rows(tmp_path / "chats.jsonl", ROWS), model.tokenizer, None)
    results = compare_chats(model, chats, ["no", "recent"], batch_size=2)
    (item,) = data_of(render_report(chat_page(chats, results, [])))["items"]
    for row, shown in zip(ROWS, item["rows"], strict=True):
        assert [item["texts"][turn] for turn in shown["turns"]] == row["history"]
        assert (shown["query"], shown["answer"]) == (row["query"], row["answers"][0])
    assert item["runs"][1]["sources"] == [[2, 1], [], [1, 0], [0], [3, 2]]
    losses = torch.cat([output["target_losses"][:, 0] for output in results[1].outputs])
    assert item["runs"][1]["losses"] == pytest.approx(losses.tolist(), rel=1e-4)


def test_names_are_texts(tmp_path, model):
    names = [datetime.date(2020, 1, 2), None, 0]
    for number, name in enumerate(names):
        datasets.Dataset.from_dict({"text": ["one two"], "name": [name]}).to_parquet(tmp_path / f"{number}.parquet")
    shown = [read_texts(str(tmp_path / f"{number}.parquet"), None)[0][0] for number in range(len(names))]
    assert shown == ["2020-01-02", "row 0", "0"]


def test_no_text_ends_the_script(tmp_path, model):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "<b>&.txt").write_text(HOSTILE * 8, encoding="utf-8")
    documents = read_documents(str(folder), model.tokenizer, None, None)
    results = compare_methods(model, [document.tokens for document in documents], ["no", "bm25"])
    html = render_report(document_page(model, documents, results, [("model", HOSTILE)]))
    page = data_of(html)
    assert page["items"][0]["name"] == "<b>&.txt"
    assert page["settings"] == [["model", HOSTILE]]
    assert len(re.findall(r"</script", html)) == len(re.findall(r"<script", html)) == 2
    assert "<img" not in html
    around = html.replace(re.search(r'id="data">(.*?)</script', html, re.DOTALL)[1], "")
    assert re.findall(r"(?:src|href)\s*=\s*(\S+)", around) == ['"data:,">']  # no icon; nothing else is referred to
    assert "://" not in around


def test_the_file_is_the_whole_page_or_the_old_one(tmp_path, model, monkeypatch):
    document = TokenizedDocument("a", random_ids(100))
    page = document_page(model, [document], compare_methods(model, [document.tokens], ["no"]), [])
    file = tmp_path / "out.html"
    file.write_text("old")
    write_report(file, page)
    assert file.read_text(encoding="utf-8") == render_report(page)
    monkeypatch.setattr(module, "render_report", lambda data: "\udc80")  # what UTF-8 cannot hold
    with pytest.raises(UnicodeEncodeError):
        write_report(file, page)
    assert file.read_text(encoding="utf-8") == render_report(page)
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_a_place_that_cannot_be_written_is_an_error_before_scoring(tmp_path, monkeypatch):
    def no_room(**kwargs):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(ValueError, match="there is no folder"):
        main(["--model", "never/loaded", "--report", str(tmp_path / "missing" / "out.html")])
    with pytest.raises(ValueError, match="is a folder"):
        check_report_file(tmp_path)
    check_report_file(tmp_path / "out.html")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(pages.tempfile, "TemporaryFile", no_room)
    with pytest.raises(ValueError, match="Permission denied"):
        check_report_file(tmp_path / "out.html")


@pytest.mark.parametrize("name", ["own.html", "texts", "link.html"])
def test_a_report_takes_no_place_in_what_is_read(tmp_path, name):
    """The file itself, a file of its folder, and a link to it."""
    own = tmp_path / "own.html"
    own.write_text("<p>what the user wrote")
    (tmp_path / "link.html").symlink_to(own)
    (tmp_path / "texts").mkdir()
    report = tmp_path / name / "new.html" if name == "texts" else own
    asked = ["--model", "never/loaded", "--data", str(tmp_path / name)]
    (tmp_path / "texts" / "a.txt").write_text("a text")
    with pytest.raises(ValueError, match=r"--report='.*' lies in --data='.*': name a file outside of it"):
        main([*asked, "--report", str(report)])
    with pytest.raises(ValueError, match=r"--picture='.*' lies in --report"):
        check_report_file(own, "--picture", "a.html", report=str(tmp_path / "link.html"))
    assert own.read_text() == "<p>what the user wrote"


def test_a_loss_that_is_no_number_is_said():
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS)
    with torch.no_grad():
        model.language_model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss by 'no' is nan: the model's weights are damaged"):
        compare_methods(model, [random_ids(300)], ["no"])
