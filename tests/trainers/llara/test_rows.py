import json
import random
from itertools import chain, islice

import datasets
import pytest

from modeling_llara import LlaraForPreTraining
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import SENTENCES
from trainers.data import documents
from trainers.llara.passages import cut_passages
from trainers.llara.rows import llara_example, load_llara_rows, passage_room
from trainers.llara.sentences import split_sentences
from trainers.llara.stop_words import STOP_WORDS

ROW = {"input": "The library reads.", "output_summarize": "The library reads.", "output_predict": "It is the island."}
ROOM = 40
PROSE = " ".join(f"{sentence.capitalize()}." for sentence in SENTENCES)
CODE = "\n".join(f"def f{i}(x, y):\n    return x[{i}] + y" for i in range(9))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return LlaraForPreTraining.from_backbone(tiny_backbone("llama"), tiny_tokenizer())


def load(source, **settings):
    return list(load_llara_rows(source, tiny_tokenizer(), ROOM, **settings))


def example(model, row, max_length=200, stop_words=frozenset()):
    return llara_example(row, 0, 0, model.tokenizer, model.config, max_length, stop_words)


def length(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.cases(2)
@pytest.mark.parametrize("text", [PROSE, CODE, PROSE + "\n\n" + CODE, "word " * 200, "x" * 500, "图书馆" * 60])
@pytest.mark.parametrize("room", [1, 7, 40, 10_000])
def test_passages_hold_the_text_in_as_few_tokens_as_they_may(tokenizer, text, room):
    passages = cut_passages(text, tokenizer, room)
    assert "".join("".join(passages).split()) == "".join(text.split())
    for passage in passages:  # a single character may have more tokens than there is room for
        assert length(tokenizer, passage) <= room or len(passage) == 1
    assert len(passages) == 1 or room < 10_000


@pytest.mark.parametrize("text", [PROSE, CODE])
def test_passages_take_whole_sentences_as_long_as_they_fit(tokenizer, text):
    sentences = split_sentences(text)
    room = max(length(tokenizer, sentence) for sentence in sentences) + 15
    passages, start = cut_passages(text, tokenizer, room), 0
    assert 3 < len(passages) < len(sentences)
    for passage in passages:
        end = next(i for i in range(start, len(sentences) + 1) if "".join(sentences[start:i]).rstrip() == passage)
        joined = "".join(sentences[start : end + 1]).rstrip()
        assert end == len(sentences) or length(tokenizer, joined) > room
        start = end
    assert start == len(sentences)


@pytest.mark.parametrize(("power", "sizes"), [(1.0, [4, 4, 2]), (1.5, [2] * 5), (0.5, [8, 2])])
def test_joined_sentences_may_have_more_or_fewer_tokens_than_alone(power, sizes):
    """Tokenizers merge over the end of a sentence, or add a token at the start of a text."""

    def tokenizer(texts, **_):
        return {"input_ids": [[0] * round(4 * len(text.split()) ** power) for text in texts]}

    passages = cut_passages("Go. " * 10, tokenizer, {1.0: 16, 1.5: 16, 0.5: 11}[power])
    assert [len(passage.split()) for passage in passages] == sizes


def test_only_a_sentence_without_room_is_cut(tokenizer):
    long = "the copper lantern " * 30
    passages = cut_passages(f"One reads. {long.strip()}. Two answers. Three asks.", tokenizer, ROOM)
    assert len(passages) == 3
    assert passages[0].startswith("One reads. the copper") and passages[-1].endswith("Two answers. Three asks.")
    words = {"One", "reads.", "the", "copper", "lantern", "lantern.", "Two", "answers.", "Three", "asks."}
    assert all(set(passage.split()) <= words for passage in passages)
    with pytest.raises(ValueError, match="room=0"):
        cut_passages("text", tokenizer, 0)


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_with_input_load_as_they_are(streaming):
    rows = [ROW, {"input": "only the passage"}, {"input": "a", "output_predict": None, "text": "unused"}]
    assert load(rows, streaming=streaming) == [
        ROW,
        {"input": "only the passage", "output_summarize": None, "output_predict": None},
        {"input": "a", "output_summarize": None, "output_predict": None},
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_documents_become_pairs_of_passages(streaming):
    documents = [{"text": PROSE}, {"text": " \n"}, {"text": "short"}, {"text": CODE}]
    rows = load(documents, streaming=streaming)
    passages = [cut_passages(document["text"], tiny_tokenizer(), ROOM) for document in documents]
    assert min(len(passages[0]), len(passages[3])) > 2
    assert [row["input"] for row in rows] == list(chain(*passages))
    assert all(row["output_summarize"] == row["input"] for row in rows)
    following = [[*document[1:], None] for document in passages if document]
    assert [row["output_predict"] for row in rows] == list(chain(*following))


def write(folder, form):
    texts = {"a": PROSE, "b": CODE}
    if form == "jsonl":
        (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts.values()))
        return folder / "rows.jsonl"
    if form == "file":
        (folder / "all.md").write_text(PROSE)
        return folder / "all.md"
    if form == "folder of rows":
        for name, text in texts.items():
            (folder / f"{name}.jsonl").write_text(json.dumps({"text": text}))
        return folder
    for name in ("below", ".git", "__pycache__"):
        (folder / name).mkdir()
    (folder / "a.txt").write_text(PROSE)
    (folder / "below" / "b.py").write_text(CODE)
    (folder / "below" / "c.jsonl").write_text(" \n")
    (folder / "below" / "not_utf_8.bin").write_bytes(b"\xff\xfe")
    (folder / ".git" / "x.txt").write_text("hidden")
    (folder / "__pycache__" / "x.txt").write_text("hidden")
    return folder


@pytest.mark.cases(2)
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["jsonl", "file", "folder", "folder of rows"])
def test_text_in_any_form_gives_the_same_rows(tmp_path, form, streaming):
    expected = load([{"text": text} for text in ([PROSE] if form == "file" else [PROSE, CODE])])
    source = write(tmp_path, form)
    assert load(source, streaming=streaming) == expected == load(str(source), streaming=streaming)


def test_a_file_that_changed_is_read_anew(tmp_path):
    source = write(tmp_path, "file")
    load(source)
    source.write_text("Another text.")
    assert [row["input"] for row in load(source)] == ["Another text."]


def test_a_long_file_is_read_in_parts(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("".join(f"Line {i} is read. It ends.\n" for i in range(300)))
    whole = load(tmp_path, streaming=True)
    monkeypatch.setattr(documents, "PART_SIZE", 1000)
    parts = load(tmp_path, streaming=True)
    assert "".join("".join(row["input"] for row in parts).split()) == "".join(
        "".join(row["input"] for row in whole).split()
    )
    assert [row["output_predict"] for row in whole].count(None) == 1
    assert 5 < [row["output_predict"] for row in parts].count(None) < 10


def test_a_stream_reads_no_further_than_asked():
    def documents():
        yield from ({"text": f"{PROSE} {i}"} for i in range(64))
        raise RuntimeError("read too far")

    rows = load_llara_rows(datasets.IterableDataset.from_generator(documents), tiny_tokenizer(), ROOM)
    assert len(list(islice(rows, 100))) == 100
    with pytest.raises(RuntimeError, match="read too far"):
        list(rows)


def test_a_stream_goes_on_from_its_state(tmp_path):
    rows = load_llara_rows(write(tmp_path, "folder"), tiny_tokenizer(), ROOM, streaming=True)
    everything, iterator = list(rows), iter(rows)
    first = list(islice(iterator, 4))
    again = load_llara_rows(tmp_path, tiny_tokenizer(), ROOM, streaming=True)
    again.load_state_dict(rows.state_dict())
    assert first + list(again) == everything


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {"output_summarize": "x"}], "Row 1 .*'input' is missing"),
        ([ROW, {"text": "no input"}], "Row 1 .*'input' is missing"),
        ([ROW, {"input": "  "}], "Row 1 .*'input' is '  '"),
        ([{"input": "a", "output_predict": 3}], "Row 0 .*'output_predict' is 3"),
        ([{"text": "a"}, {"text": None}], "Row 1 .*'text' is missing"),
        ([{"text": 5}], "Row 0 .*'text' is 5"),
        ([{"content": "a", "url": "b"}], r"columns are \['content', 'url'\].* rename"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        load(rows)


def test_a_folder_without_text_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"None of 1 files .* holds text"):
        load(tmp_path)


def test_row_is_passage_and_prompts_and_targets_are_sets_of_words(model):
    tokenizer, config = model.tokenizer, model.config
    made = example(model, ROW)
    passage = tokenizer(ROW["input"], add_special_tokens=False)["input_ids"]
    prompts = config.summarize_prompt_ids + config.predict_prompt_ids
    assert made["input_ids"] == config.prefix_ids + passage + prompts
    assert made["labels"] == [-100] * len(config.prefix_ids) + passage + [-100] * len(prompts)
    assert made["output_summarize_ids"] == sorted(set(passage))
    predicted = tokenizer(ROW["output_predict"], add_special_tokens=False)["input_ids"]
    assert made["output_predict_ids"] == sorted(set(predicted))


@pytest.mark.parametrize("max_length", [100, 137])
def test_a_passage_fills_its_row_and_is_never_cut(model, max_length):
    room = passage_room(model.config, max_length)
    rows = load_llara_rows([{"text": PROSE + CODE + "candle " * 200}], model.tokenizer, room)
    made = [example(model, row, max_length) for row in rows]
    for row, one in zip(rows, made, strict=True):
        passage = model.tokenizer(row["input"], add_special_tokens=False)["input_ids"]
        assert [label for label in one["labels"] if label >= 0] == passage
    assert max(len(one["input_ids"]) for one in made) == max_length
    with pytest.raises(ValueError, match=f"prompts take {max_length - room} tokens"):
        passage_room(model.config, max_length - room)


def test_rows_of_more_tokens_than_the_backbone_has_positions_for(model):
    positions = model.config.text_config.max_position_embeddings
    longest = positions + min(len(model.config.summarize_prompt_ids), len(model.config.predict_prompt_ids))
    passage_room(model.config, longest)
    with pytest.raises(ValueError, match=f"needs {positions + 1} positions, .* give at most {longest}"):
        passage_room(model.config, longest + 1)


def test_long_passage_is_cut_and_its_own_words_with_it(model):
    text = "island candle hammer lantern " * 20
    row = {"input": text, "output_summarize": text, "output_predict": None}
    overhead = len(example(model, {**row, "input": "a"})["input_ids"]) - 1
    made = example(model, row, max_length=overhead + 5)
    passage = model.tokenizer(text, add_special_tokens=False)["input_ids"][:5]
    assert len(made["input_ids"]) == overhead + 5
    assert made["output_summarize_ids"] == sorted(set(passage))
    assert made["output_predict_ids"] == []


def test_the_end_is_cut_whatever_side_the_tokenizer_truncates_on(model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "truncation_side", "left")
    words = " ".join(f"w{number}" for number in range(400))
    row = example(model, {"input": words, "output_summarize": words + "!", "output_predict": words})
    monkeypatch.undo()
    assert row == example(model, {"input": words, "output_summarize": words + "!", "output_predict": words})
    assert model.tokenizer.decode(row["input_ids"]).startswith('"w0 w1 ')


def test_stop_words_leave_the_predict_target_only(model):
    made = example(model, {**ROW, "output_predict": "the the island"}, stop_words=STOP_WORDS)
    assert made["output_predict_ids"] == sorted(set(model.tokenizer("island")["input_ids"]))
    assert made["output_summarize_ids"] == example(model, ROW)["output_summarize_ids"]


def test_ignored_and_special_ids_are_no_targets(model):
    made = example(model, {**ROW, "output_predict": "</s><pad>"})
    assert made["output_predict_ids"] == []
    tokenizer, config = tiny_tokenizer(), model.config
    made = llara_example(ROW, 0, 0, tokenizer, config, 200, frozenset())
    special = made["output_predict_ids"][0]
    tokenizer.add_special_tokens({"unk_token": tokenizer.convert_ids_to_tokens(special)})
    again = llara_example(ROW, 0, 0, tokenizer, config, 200, frozenset())
    assert again["output_predict_ids"] == made["output_predict_ids"][1:]


def test_order_is_that_of_the_text_every_time(tmp_path):
    random.seed(0)
    for i in random.sample(range(20), 20):
        (tmp_path / f"{i:02}.txt").write_text(f"Document {i}.")
    for streaming in (False, True):
        assert [row["input"] for row in load(tmp_path, streaming=streaming)] == [f"Document {i}." for i in range(20)]
