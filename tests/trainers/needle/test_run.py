"""The needle test with a model: answers, what stood before the model, and the file that is gone on with."""

import copy
import json

import pytest
import torch

from modeling_srlm import SelfRetrievalLM
from tests.support.mining import biencoder
from tests.support.needle import TEXTS, answered, made_up, srlm
from trainers import needle_test
from trainers.needle.measure import NeedleTest
from trainers.needle.results import read_results
from trainers.needle.settings import Cell, NeedleSettings

GRID = {"lengths": ["600", "900"], "depths": [0, 100], "samples": 2, "methods": ["no", "bm25"], "max_new_tokens": 4}


def run(model, **settings):
    return needle_test(model, TEXTS, show_progress=False, **{**GRID, **settings})


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_window_that_holds_the_text_answers_as_the_model_alone(family):
    model = srlm(family, context_window_size=1024)
    results = run(model, methods=["alone", "no"])
    rows = {(row["length"], row["depth"], row["sample"], row["method"]): row["answer"] for row in results.answers}
    pairs = [(answer, rows[*key[:3], "no"]) for key, answer in rows.items() if key[3] == "alone"]
    assert len(pairs) == 8 and all(alone == window for alone, window in pairs)
    assert len({alone for alone, _ in pairs}) > 1
    assert all(row["seen"] for row in results.answers)


def test_seen_is_whether_the_needle_is_in_what_the_model_reads(monkeypatch):
    """Against the ids that reach the backbone: the whole needle in one piece, as there is one key."""
    model = srlm(context_window_size=256, chunk_size=64, key_num=1, target_size=64)
    settings = NeedleSettings(
        max_new_tokens=1, lengths=["700"], depths=[0, 30, 70, 100], methods=["no", "bm25", "random"]
    )
    test = NeedleTest(model, TEXTS, settings)
    read: list[list[int]] = []
    original = model.language_model.forward

    def noted(input_ids=None, **kwargs):
        read.append(input_ids[0].tolist())
        return original(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model.language_model, "forward", noted)
    found = []
    for cell in test.cells:
        for sample in range(3):
            read.clear()
            row = test.answer(cell, sample)
            task = test.tasks.make(cell, sample)
            needle = task.prompt[slice(*task.needle)].tolist()
            starts = range(len(read[0]) - len(needle) + 1)
            assert row["seen"] == any(read[0][start : start + len(needle)] == needle for start in starts)
            found.append((cell.method, row["seen"]))
    assert {("no", True), ("no", False), ("bm25", True), ("random", False)} <= set(found)


def test_an_answer_is_right_if_it_has_the_number(monkeypatch):
    model = srlm()
    test = NeedleTest(model, TEXTS, NeedleSettings(**{**GRID, "methods": ["alone"]}))
    cell = test.cells[0]
    task = test.tasks.make(cell, 0)
    for text, right in ((f" {task.value}.", True), ("It is 1,2 " + task.value[:-1], False), ("", False)):
        new = model.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"].long()
        sequences = torch.cat([task.prompt[None], new], dim=1)
        said = type("Said", (), {"sequences": sequences})
        monkeypatch.setattr(model.language_model, "generate", lambda ids, said=said, **kwargs: said)
        row = test.answer(cell, 0)
        assert (row["correct"], row["answer"]) == (right, text)


def test_the_model_is_as_it_was(monkeypatch):
    model = srlm(retrieval_method="recent")
    run(model, lengths=["600"], samples=1)
    assert model.config.retrieval_method == "recent"
    monkeypatch.setattr(SelfRetrievalLM, "generate", lambda *args, **kwargs: 1 / 0)
    configured = model.generation_config
    with pytest.raises(ZeroDivisionError):
        run(model, lengths=["600"])
    assert model.config.retrieval_method == "recent" and model.generation_config is configured


def test_what_the_repo_says_of_answers_is_not_heeded():
    """But for the tokens with which they end."""
    model, small = srlm(), {"lengths": ["600"], "depths": [0], "methods": ["alone", "bm25"], "samples": 1}
    expected = [row["answer"] for row in run(model, **small).answers]
    for one in (model, model.language_model):
        for name, value in {
            "no_repeat_ngram_size": 1, "suppress_tokens": [*range(50, 300)], "guidance_scale": 1.5, "max_time": 1e-9,
            "stop_strings": ["a"], "sequence_bias": [[[5], 10.0]], "do_sample": True, "num_return_sequences": 2,
        }.items():  # fmt: skip
            setattr(one.generation_config, name, value)
    assert [row["answer"] for row in run(model, **small).answers] == expected
    model.generation_config.eos_token_id = [*range(len(model.tokenizer))]
    assert [row["answer"] for row in run(model, **small).answers] != expected


@pytest.mark.parametrize("begins", [False, True])
def test_a_model_with_bos_has_it_before_the_text_however_it_reads(monkeypatch, begins):
    """Once, also where the chat template gives it, and within the length."""
    model = srlm(context_window_size=1024, add_bos=True)
    if begins:
        model.tokenizer.chat_template = "<s>{{ messages[0]['content'] }}"
    read, original = [], model.language_model.forward

    def noted(input_ids=None, **kwargs):
        read.append(input_ids[0].tolist())
        return original(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model.language_model, "forward", noted)
    alone, window = run(model, lengths=["600"], depths=[50], samples=1, methods=["alone", "no"]).answers
    first, second = (ids for ids in read if len(ids) == 600 - 4)
    assert first == second and first[0] == model.config.bos_id != first[1]
    assert alone["answer"] == window["answer"]


def test_what_the_model_alone_cannot_read_is_marked_or_refused():
    model = srlm()
    results = run(model, lengths=["600", "3k"], methods=["alone", "no"], samples=1, depths=[50])
    assert results.impossible == {Cell("alone", 3072, 50, 1): "longer than the 2,048 positions of the model alone"}
    assert results.table()[1] == ["1", "alone", "0%", "-"] and len(results.answers) == 3
    with pytest.raises(ValueError, match="--lengths 3k is longer than the 2,048 positions of the model alone"):
        run(model, lengths=["3k"], methods=["alone"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["dense"]}, "there is no retriever"),
        ({"lengths": ["64"]}, r"--lengths 64 must be at least"),
        ({"lengths": ["1M"]}, r"must fill 1,048,576: give more"),
        ({"keys": [4], "lengths": ["220"]}, "and --keys 4: raise it"),
        ({"samples": 0}, "--samples 0 must be at least 1"),
        ({"depths": []}, "--depths is empty"),
        ({"lengths": [4096]}, "lengths="),
        ({"output": "o.txt"}, "must end in .json"),
    ],
)
def test_what_does_not_fit_is_named_before_the_model_answers(monkeypatch, settings, message):
    monkeypatch.setattr(NeedleTest, "answer", lambda *args: 1 / 0)
    with pytest.raises((ValueError, TypeError), match=message):
        run(srlm(), **settings)


def counted(monkeypatch, stop_at=None):
    """Notes what is answered; ends like Ctrl-C at the answer of that number."""
    original, calls = NeedleTest.answer, []

    def answer(self, cell, sample):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append((cell, sample))
        return original(self, cell, sample)

    monkeypatch.setattr(NeedleTest, "answer", answer)
    return calls


@pytest.mark.slow
def test_an_interrupted_test_goes_on_and_a_finished_one_is_added_to(tmp_path, monkeypatch):
    model, output = srlm(), tmp_path / "needles.json"
    expected = run(model)
    with monkeypatch.context() as patched:
        first = counted(patched, stop_at=5)
        with pytest.raises(KeyboardInterrupt):
            run(model, output=output)
    assert not output.exists() and len(first) == 5
    with pytest.raises(ValueError, match=r"samples was 2 and is 3"):
        run(model, output=output, samples=3)
    with monkeypatch.context() as patched:
        second = counted(patched)
        results = run(model, output=output)
        assert len(first + second) == len(set(first + second)) == 16
        assert sorted(map(str, results.answers)) == sorted(map(str, expected.answers))
        assert [path.name for path in tmp_path.iterdir()] == ["needles.json"]
        second.clear()
        run(model, output=output)
        assert second == []
        longer = run(model, output=output, lengths=["900", "1k"], samples=3)
        assert set(second) == {one for one in second if one[0].length == 1024 or one[1] == 2}
        assert len(second) == 4 * 3 + 4 and longer.values("length") == [600, 900, 1024]
    written = json.loads(output.read_text())
    assert {cell["samples"] for cell in written["cells"] if cell["length"] == 900} == {3}
    assert len(written["answers"]) == 16 + 16 == len(read_results(output).answers)


def test_another_test_is_not_added_to(tmp_path, monkeypatch):
    model, output = srlm(), tmp_path / "needles.json"
    small = {"lengths": ["600"], "samples": 1, "depths": [0], "output": output}
    run(model, **small)
    held = output.read_text()
    for other, message in (
        ({"max_new_tokens": 9}, "max_new_tokens was 4 and is 9"),
        ({"seed": 1}, "seed of the test was 0 and is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(model, **small, **other)
    with pytest.raises(ValueError, match="chunk_size was 32 and is 16"):
        run(srlm(chunk_size=16), **small)
    with pytest.raises(ValueError, match="holds answers about other texts"):
        needle_test(model, TEXTS[1:], show_progress=False, **{**GRID, **small})
    for length in ("700", "500"):  # of which the file has no answers
        with pytest.raises(ValueError, match="holds answers about other texts"):
            needle_test(model, TEXTS[1:], show_progress=False, **{**GRID, **small, "lengths": [length]})
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="holds no needle test"):
        run(model, **{**small, "output": tmp_path / "other.json"})
    assert output.read_text() == held
    calls = counted(monkeypatch)
    run(srlm(chunk_batch_size=1), **small)  # which changes no answer
    assert calls == []
    run(model, **small, overwrite=True)
    assert len(calls) == 2 and output.read_text() == held


def test_texts_that_differ_where_only_longer_ones_reach_are_other_texts(tmp_path):
    model, small = srlm(), {"depths": [0], "samples": 1, "methods": ["no"], "max_new_tokens": 1}
    others, output = [*TEXTS[:45], *TEXTS[100:]], tmp_path / "needles.json"
    run(model, **small, lengths=["600", "1200"], output=output)
    again = {**GRID, **small, "lengths": ["600"], "show_progress": False}
    with pytest.raises(ValueError, match=r"needles\.json holds answers about other texts"):
        needle_test(model, others, output=output, **again)
    held = json.loads(output.read_text())
    assert held.pop("texts")["length"] == 1200
    output.write_text(json.dumps(held))  # as former versions wrote it
    assert read_results(output).texts == {}


def test_results_are_written_and_read_as_they_are(tmp_path):
    results = made_up("no\n</script> é \u2028")
    results.write(tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == results
    cells = json.loads((tmp_path / "r.json").read_text())["cells"]
    assert cells[1] == {
        "method": "bm25", "length": 2048, "depth": 100, "keys": 1, "samples": 4, "correct": 4, "seen": 4, "accuracy": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("prompt", None), ("sample", "0"), ("length", "300"), ("correct", "yes"), ("seen", 1), ("keys", True)],
)
def test_a_damaged_file_is_no_needle_test(tmp_path, name, value):
    made_up().write(tmp_path / "r.json")
    held = json.loads((tmp_path / "r.json").read_text())
    rows = held["answers"]
    others = [{**rows[0], name: value}, {key: rows[0][key] for key in rows[0] if key != name}]
    for damaged in (*({"answers": [*rows, row]} for row in others), {"settings": [1]}, {"impossible": [{}]}):
        (tmp_path / "r.json").write_text(json.dumps({**held, **damaged}))
        with pytest.raises(ValueError, match=r"r\.json is there and holds no needle test: name another output"):
            read_results(tmp_path / "r.json")


def test_the_table_is_the_mean_over_depths():
    results = made_up()
    results.answers += answered(Cell("bm25", 2048, 0, 1), 0, 4, seen=None)
    assert results.scores()[Cell("bm25", 2048, 0, 1)] == (8, 1, None)
    assert results.mean("bm25", 2048, 1) == pytest.approx((1 / 8 + 1) / 2)
    assert results.mean("alone", 32768, 1) is None
    assert results.as_text().splitlines() == [
        "needles  read by    2k  32k",
        "      1  bm25      56%  25%",
        "      1  alone    100%    -",
    ]


def test_a_retriever_that_no_answer_asked_is_no_other_test(tmp_path):
    """Answers by BM25 are added to with `dense` later, and with more of them without the retriever."""
    output, small = tmp_path / "needles.json", {"lengths": ["600"], "samples": 1, "depths": [0]}
    with_retriever = [srlm() for _ in range(2)]
    for number, model in enumerate(with_retriever):
        model.retriever = copy.deepcopy(biencoder())
        next(model.retriever.parameters()).data.add_(number)
    run(srlm(), **small, methods=["bm25"], output=output)
    run(with_retriever[0], **small, methods=["dense"], output=output)
    run(srlm(), **{**small, "samples": 2}, methods=["bm25"], output=output)
    results = run(with_retriever[1], **small, methods=["no"], output=output)
    assert sorted((row["method"], row["sample"]) for row in results.answers) == [
        ("bm25", 0), ("bm25", 1), ("dense", 0), ("no", 0),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="sha256 of the retriever was"):
        run(with_retriever[1], **small, methods=["dense"], output=output)
