"""`lookback perplexity` and the functions behind it."""

import math
import sys

import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers import cli
from trainers.commands import generate, needle, perplexity, score
from trainers.commands.parsing import parse_arguments
from trainers.commands.perplexity import PerplexityArguments, main
from trainers.perplexity.data import TokenizedDocument
from trainers.perplexity.measure import compare_methods, format_results
from trainers.perplexity.page_data import describe, document_page
from trainers.retrieval.bm25 import bm25_matrix

SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "retrieval_method": "bm25"}


@pytest.fixture
def text_folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("the copper lantern stood on the island next to the candle and the hammer. " * 12)
    (folder / "b.txt").write_text("a query finds the passage that answers it. " * 20)
    return folder


def test_methods_are_compared_on_equal_terms():
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS)
    documents = [random_ids(200), random_ids(150, seed=1)]
    results = compare_methods(model.train(), documents, ["no", "bm25"], scored_tokens=32)
    assert not model.training  # nothing drops out
    assert model.config.retrieval_method == "bm25"
    for result in results:
        model.config.retrieval_method = result.method
        labels = [torch.cat([torch.full((len(d) - 32,), -100), d[-32:]])[None] for d in documents]
        batches = [{"input_ids": d[None], "labels": label} for d, label in zip(documents, labels, strict=True)]
        assert result.perplexity == pytest.approx(model.compute_perplexity(batches, show_progress=False), rel=1e-6)
    assert results[0].perplexity != results[1].perplexity
    change = math.expm1(math.log(results[1].perplexity / results[0].perplexity))
    assert f"{change:.1%}" in format_results(results)


@pytest.mark.parametrize("kind", ["srlm", "plain"])
def test_the_command_scores_files_of_the_user(tmp_path, capsys, text_folder, kind):
    if kind == "srlm":
        SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS).save_pretrained(tmp_path / "m")
    else:
        tiny_backbone(max_position_embeddings=256).save_pretrained(tmp_path / "m")
        tiny_tokenizer().save_pretrained(tmp_path / "m")
    main(["--model", str(tmp_path / "m"), "--data", str(text_folder), "--methods", "no", "bm25", "recent",
          "--chunk_size", "16", "--context_window_size", "64", "--key_num", "1"])  # fmt: skip
    printed = capsys.readouterr().out
    assert "2 documents" in printed
    assert [line.split()[0] for line in printed.strip().splitlines()[-3:]] == ["no", "bm25", "recent"]


def test_bad_input(tmp_path, text_folder):
    tiny_backbone().save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="There is no file or folder"):
        main(["--model", str(tmp_path / "m"), "--data", str(tmp_path / "missing")])
    with pytest.raises(ValueError, match="bm25"):
        main(["--model", str(tmp_path / "m"), "--data", str(text_folder), "--methods", "bm26"])


def test_the_command_line_names_what_is_wrong(tmp_path, monkeypatch, capsys):
    def lookback(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lookback", *arguments])
        cli.main()

    lookback("--help")
    assert {*cli.COMMANDS, "perplexity"} <= set(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        lookback("perplexty")
    assert "'perplexty' is no command: did you mean 'perplexity'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        lookback("perplexity", "--data", str(tmp_path / "none"))
    assert stopped.value.code == 2
    assert "There is no file or folder" in capsys.readouterr().err


def test_bm25_ranks_the_shared_words_first():
    scores = bm25_matrix(["open_the archive", "???"], ["def (archive): open(archive)", "def (color): paint(color)"])
    assert scores[0, 0] > scores[0, 1] == 0
    assert scores[1].tolist() == [0, 0]


def test_with_kept_states_the_report_shows_the_chunks_from_the_first_token(tmp_path, capsys):
    model = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS, reuse_states=True)
    document = TokenizedDocument("a", random_ids(150))
    results = compare_methods(model.eval(), [document.tokens], ["no", "bm25"])
    settings = describe("m", model, "one")
    page = document_page(model, [document], results, settings)
    (item,) = page["items"]
    assert any("reuse_states" in value for _, value in settings)
    assert max(item["targets"]) == 9 and len(item["texts"]) == 10 and item["start"] == 0
    assert "".join(item["texts"].values()) == model.tokenizer.decode(document.tokens)


def test_states_are_kept_by_option_and_oracle_is_refused_before_weights(tmp_path, text_folder, monkeypatch):
    SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS).save_pretrained(tmp_path / "m")
    seen = []
    monkeypatch.setattr("trainers.commands.perplexity.score_documents", lambda model, *_: seen.append(model.config))
    options = ["--model", str(tmp_path / "m"), "--data", str(text_folder), "--reuse_states"]
    main([*options, "--num_sink_tokens", "2", "--store_place", "disk", "--store_limit", "4096"])
    (config,) = seen
    assert (config.reuse_states, config.num_sink_tokens, config.store_limit) == (True, 2, 4096)
    assert config.store_place == "disk"
    monkeypatch.setattr("trainers.models.load.build_found", None)  # calling it would be a TypeError
    with pytest.raises(ValueError, match="reuse_states=True is not possible with retrieval_method='oracle'"):
        main([*options, "--methods", "no", "oracle"])
    with pytest.raises(ValueError, match="store_place"):
        main([*options, "--store_place", "moon"])


@pytest.mark.parametrize("command", [perplexity, needle, generate, score])
def test_bos_before_every_input_is_an_option(command, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    data = ["--prompt", "a"] if command is generate else ["--data", str(tmp_path / "a.txt")]
    more = ["--output", str(tmp_path / "o.jsonl"), "--task", "document"] if command is score else []
    options = [*data, *more, "--model", "m"]
    for said, value in ((["--add_bos"], True), (["--add_bos", "false"], False), ([], None)):
        parsed = parse_arguments([*options, *said], command.ARGUMENTS, "x", None)
        assert [one.add_bos for one in parsed if hasattr(one, "add_bos")] == [value]


def test_data_may_be_a_hub_id():
    assert PerplexityArguments(data="user/name").data == "user/name"
