"""The texts, needles and prompts of a needle test."""

import random

import pytest
import torch

from tests.support.needle import TEXTS, tokenizer_with_a_blank
from tests.support.tiny import tiny_tokenizer
from trainers.needle import haystack as module
from trainers.needle.haystack import Haystack, read_texts, split_text
from trainers.needle.settings import Cell, NeedleSettings
from trainers.needle.tasks import ANSWER, INTRODUCTION, NEEDLE, QUESTION, TaskMaker, draw_needles

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"  # noqa: E501


def maker(longest=3000, chat=False, seed=0, texts=TEXTS, template=TEMPLATE):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return TaskMaker(Haystack.of(texts, tokenizer, longest), tokenizer, chat, room=16, seed=seed)


@pytest.mark.cases(2)
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("keys", [1, 3])
@pytest.mark.parametrize("depth", [0, 30, 100])
def test_a_prompt_fills_its_length_and_holds_the_needle_at_its_depth(depth, keys, chat):
    made = maker(chat=chat)
    for sample in range(4):
        task = made.make(Cell("bm25", 2000, depth, keys), sample)
        assert len(task.prompt) == 2000 - 16
        start, end = task.needle
        needle = NEEDLE.format(key=task.key, value=task.value)
        text = made.tokenizer.decode(task.prompt)
        assert made.tokenizer.decode(task.prompt[start:end]) == needle and text.count(needle) == 1
        assert text.count("One of the special magic numbers for ") == keys
        before, after = made._around(task.key)
        where = (start - len(before)) / (2000 - 16 - len(before) - len(after) - (end - start))
        assert abs(100 * where - depth) < 9  # a line, and the other needles
        head, tail = INTRODUCTION, QUESTION.format(key=task.key)
        if chat:
            head, tail = f"<|user|>{head}", f"{tail}</s><|assistant|>"
        else:
            tail += "\n"
        assert text.startswith(head) and text.endswith(tail + ANSWER.format(key=task.key))


def test_depths_0_and_100_are_the_ends_of_the_text():
    made = maker()
    for sample in range(5):
        first = made.make(Cell("no", 900, 0, 1), sample)
        assert first.needle[0] == len(made._around(first.key)[0])
        last = made.make(Cell("no", 900, 100, 4), sample)
        rest = len(last.prompt) - last.needle[1] - len(made._around(last.key)[1])
        assert 0 <= rest < 40  # less than a line


def test_a_task_depends_on_cell_sample_and_seed_alone(monkeypatch):
    """Not on the method, nor on how long the longest text of the test is."""
    monkeypatch.setattr(module, "BATCH", 50)
    cells = [Cell("bm25", length, depth, 2) for length in (800, 1000) for depth in (0, 50)]
    short, long, other = maker(1000), maker(6000), maker(1000, seed=1)
    assert len(long.haystack.tokens) > len(short.haystack.tokens) > 3000
    prompts = []
    for cell in cells:
        for sample in range(3):
            task = short.make(cell, sample)
            again = long.make(cell._replace(method="alone"), sample)
            assert torch.equal(task.prompt, again.prompt) and task.needle == again.needle
            assert not torch.equal(task.prompt, other.make(cell, sample).prompt)
            prompts.append(tuple(task.prompt.tolist()))
    assert len(set(prompts)) == 12


def test_texts_of_few_tokens_go_round(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    tokenizer = tiny_tokenizer()
    stack = Haystack.of(["one two\nthree four\n", "five six seven"], tokenizer, 12)
    whole = "one two\nthree four\nfive six seven\n"
    assert tokenizer.decode(stack.tokens) == whole
    for seed in range(6):
        cut = stack.cut(len(stack.tokens), random.Random(seed))
        text = tokenizer.decode(cut.tokens)
        assert text in whole + whole and text[-1] == "\n" and len(text) == len(whole)
        assert [tokenizer.decode(cut.tokens[:end])[-1] for end in cut.ends] == ["\n"] * 3
        assert [cut.place(depth) for depth in (0, 100)] == [0, len(cut.tokens)]


def test_long_lines_are_cut_at_sentences_and_what_has_none_somewhere():
    line = "A sentence of words. " * 40
    assert list(split_text(line.strip()))[:2] == ["A sentence of words. "] * 2
    stack = Haystack.of(["x" * 4000], tiny_tokenizer(), 500)
    ends = stack.ends.tolist()
    assert max(b - a for a, b in zip([0, *ends], ends, strict=False)) <= module.LONGEST_PIECE


@pytest.mark.parametrize("make", [tiny_tokenizer, tokenizer_with_a_blank])
def test_the_text_is_the_one_that_was_given(make):
    """With its line ends, and without a blank before every line, also of needle and question."""
    tokenizer, text = make(), "one line\r\n\x0cpage two\u2028\x1c\x85 of it\n\n  ends.\rhere é\n" * 9
    assert "".join(split_text(text)) == text
    made = TaskMaker(Haystack.of([text], tokenizer, 300), tokenizer, False, room=16, seed=0)
    assert tokenizer.decode(made.haystack.tokens) == text
    task = made.make(Cell("no", 500, 100, 1), 0)
    asked, needle = {"key": task.key}, NEEDLE.format(key=task.key, value=task.value)
    prompt = tokenizer.decode(task.prompt)
    assert prompt.startswith(INTRODUCTION) and prompt.endswith((QUESTION + "\n" + ANSWER).format(**asked))
    before, after = prompt[len(INTRODUCTION) :].split(needle)
    assert before in text + text and after.removesuffix((QUESTION + "\n" + ANSWER).format(**asked)) in text


def test_a_longer_text_is_read_when_it_is_needed():
    tokenizer = tiny_tokenizer()
    short, long = (Haystack.of(iter(TEXTS), tokenizer, longest) for longest in (300, 3000))
    cuts = [stack.cut(3000, random.Random(0)) for stack in (short, long)]
    assert torch.equal(cuts[0].tokens, cuts[1].tokens) and torch.equal(cuts[0].ends, cuts[1].ends)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"the texts hold \d+ tokens and must fill 3,000: give more"):
        maker(texts=TEXTS[:2])
    with pytest.raises(ValueError, match=r"--lengths 100 must be at least \d\d\d tokens"):
        maker().make(Cell("no", 100, 0, 1), 0)
    with pytest.raises(ValueError, match="chat template does not leave a user's message as it is"):
        maker(chat=True, template="{{ messages[0]['content'] | upper }}").make(Cell("no", 900, 0, 1), 0)
    with pytest.raises(ValueError, match=r"--keys 1000000 must be at most"):
        draw_needles(1_000_000, random.Random(0))


def test_the_least_length_that_is_named_is_enough():
    made = maker()
    with pytest.raises(ValueError) as error:
        made.make(Cell("no", 100, 0, 2), 0)
    least = int(str(error.value).partition("at least ")[2].split()[0])
    assert len(made.make(Cell("no", least + 8, 0, 2), 0).prompt) == least + 8 - 16  # other names have more tokens


def test_names_and_numbers_are_all_different():
    keys, values = draw_needles(500, random.Random(0))
    assert len(set(keys)) == len(set(values)) == 500
    assert {len(value) for value in values} == {7}


def test_texts_of_the_users_and_of_the_standard_library(tmp_path):
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / "b.txt").write_text("second\n")
    assert list(read_texts(str(tmp_path), 0)) == ["first\n", "second\n"]
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"title": "b"}\n')
    with pytest.raises(ValueError, match="line 2: field 'text' is None"):
        list(read_texts(str(tmp_path / "rows.jsonl"), 0))


def test_cells_begin_with_the_short_texts():
    settings = NeedleSettings(lengths=["1M", "2k"], depths=[0, 50], methods=["no", "bm25"], keys=[1, 4])
    cells = settings.cells()
    assert len(cells) == len(set(cells)) == 16 and [cell.length for cell in cells] == [2048] * 8 + [2**20] * 8
