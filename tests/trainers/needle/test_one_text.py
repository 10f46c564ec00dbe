"""Several needles in one text, each asked for: with kept states the text is read once."""

import copy

import pytest

from tests.support.needle import TEXTS, srlm
from tests.support.tiny import tiny_tokenizer
from trainers import needle_test
from trainers.needle.haystack import Haystack
from trainers.needle.measure import NeedleTest
from trainers.needle.settings import Cell, NeedleSettings
from trainers.needle.tasks import NEEDLE, TaskMaker

DEPTHS = [0, 40, 100]
GRID = {
    "lengths": ["700"], "depths": DEPTHS, "samples": 2, "methods": ["bm25"], "max_new_tokens": 4, "one_text": True
}  # fmt: skip


def run(model, **settings):
    return needle_test(model, TEXTS, show_progress=False, **{**GRID, **settings})


def test_the_tasks_of_a_text_differ_in_their_question_alone():
    tokenizer = tiny_tokenizer()
    made = TaskMaker(Haystack.of(TEXTS, tokenizer, 3000), tokenizer, False, room=16, seed=0, shared=DEPTHS)
    for sample in range(3):
        tasks = [made.make(Cell("no", 1200, depth, 3), sample) for depth in DEPTHS]
        ends = [len(task.prompt) - len(made._around(task.key)[1]) for task in tasks]
        assert len({tuple(task.prompt[:end].tolist()) for task, end in zip(tasks, ends, strict=True)}) == 1
        assert len({task.key for task in tasks}) == len({task.value for task in tasks}) == 3
        assert max(len(task.prompt) for task in tasks) == 1200 - 16
        places = [task.needle[0] for task in tasks]
        assert places == sorted(places)
        for task in tasks:
            assert tokenizer.decode(task.prompt[slice(*task.needle)]) == NEEDLE.format(key=task.key, value=task.value)


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_with_kept_states_a_text_is_read_once_for_all_its_questions(family, monkeypatch):
    model = srlm(family, reuse_states=True)
    test = NeedleTest(model, TEXTS, NeedleSettings(**GRID))
    anew = [NeedleTest(copy.deepcopy(model), TEXTS, test.settings).answer(*one) for one in test.work()]
    read, original = [], model.language_model.forward

    def noted(input_ids=None, **kwargs):
        read.append(input_ids.shape[1])
        return original(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model.language_model, "forward", noted)
    results = run(model)
    assert results.answers == anew  # in this order: those of a text together
    assert [(row["sample"], row["depth"]) for row in anew] == [(n, depth) for n in range(2) for depth in DEPTHS]
    assert sum(read) < 2 * (700 + len(DEPTHS) * 200)  # and not 6 times 700
    assert set(results.scores()) == {Cell("bm25", 700, depth, 3) for depth in DEPTHS}


@pytest.mark.slow
def test_what_is_there_is_added_to_and_other_depths_are_another_test(tmp_path):
    model, output = srlm(reuse_states=True), tmp_path / "needles.json"
    run(model, samples=1, output=output)
    assert run(model, output=output).answers == run(model).answers
    with pytest.raises(ValueError, match=r"depths was \[0, 40, 100\] and is \[0, 100\]"):
        run(model, output=output, depths=[0, 100])
    with pytest.raises(ValueError, match="one_text was True and is None"):
        run(model, output=output, one_text=False)


def test_a_number_of_needles_is_refused_where_the_depths_say_it():
    with pytest.raises(ValueError, match="--keys 2 does nothing with --one_text"):
        NeedleSettings(one_text=True, keys=[2])
