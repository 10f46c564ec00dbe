import random

import pytest

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.encoding_biencoder import instruction_prompt, tokenize
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, DataSetEntry
from trainers.biencoder.in_context import InContextExamples
from trainers.biencoder.rows import biencoder_example, normalize_row

TOKENIZER = tiny_tokenizer()
PROMPTS = {"default": {"query": "q: ", "query_suffix": "\na: "}, "plain": {"query": "plain: "}}
TEXTS = ["red", "green", "blue", "grey", "pink"]
ROWS = [{"query": f"{text}?", "pos": [f"{text}!"], "neg": ["none"]} for text in TEXTS]


BACKBONE = tiny_backbone(lm_head=False).config


def config(max_length=64, prompts=PROMPTS):
    return BiEncoderConfig(text_config=BACKBONE, prompts=prompts, max_length=max_length)


def batch_of(rows, epoch=0, length=64):
    return [
        biencoder_example(
            normalize_row(row, i), i, epoch, TOKENIZER, config(length), config(length), 1, 0, in_context=True
        )
        for i, row in enumerate(rows)
    ]


def queries(rows, epoch=0, length=64, **settings):
    """The queries of a batch as texts."""
    examples = InContextExamples(TOKENIZER, config(length), **{"max_examples": 3, **settings})
    return [TOKENIZER.decode(example["query_ids"]) for example in examples(batch_of(rows, epoch, length))]


def pairs_before(text):
    """[(query, answer)] of a query with examples, and the query itself."""
    *blocks, last = text.split("\n\n")
    return [tuple(block.removeprefix("q: ").split("\na: ")) for block in blocks], last


def test_examples_are_pairs_of_the_batch_and_never_the_query_itself():
    known = {(row["query"], row["pos"][0]) for row in ROWS}
    for epoch in range(20):
        for row, text in zip(ROWS, queries(ROWS, epoch), strict=True):
            pairs, last = pairs_before(text)
            assert last == f"q: {row['query']}\na: "
            assert set(pairs) <= known - {(row["query"], row["pos"][0])} and len(set(pairs)) == len(pairs)


def test_equal_queries_and_known_positives_are_left_out():
    rows = [
        {"query": "red?", "pos": ["red!", "rouge!"]},
        {"query": "red?", "pos": ["other!"]},  # an equal query
        {"query": "rouge?", "pos": ["rouge!"]},  # answered by a positive of the first
        {"query": "red!", "pos": ["x"]},  # a positive of the first
        {"query": "which?", "pos": ["red?"]},  # answered by the first query
        {"query": "blue?", "pos": ["blue!"]},
        {"query": "blue?", "pos": ["azure!"]},  # a query is used once
    ]
    for epoch in range(10):
        pairs, _ = pairs_before(queries(rows, epoch, max_examples=5, fixed=True)[0])
        assert pairs == [("blue?", "blue!")]


@pytest.mark.slow
def test_numbers_are_uniform_or_fixed_and_the_draw_is_reproducible():
    counts = [len(pairs_before(text)[0]) for epoch in range(120) for text in queries(ROWS, epoch)]
    for number in range(4):
        assert counts.count(number) / len(counts) == pytest.approx(0.25, abs=0.06)
    for number, expected in ((2, 2), (4, 4), (9, 4)):
        texts = queries(ROWS, max_examples=number, fixed=True, max_length=999)
        assert {len(pairs_before(text)[0]) for text in texts} == {expected}
    assert queries(ROWS, 1) == queries(ROWS, 1) != queries(ROWS, 2)


def test_the_budget_holds_and_each_example_gets_its_part():
    long = random.Random(0)
    rows = [
        {"query": " ".join(long.choices(TEXTS, k=30)), "pos": [" ".join(long.choices(TEXTS, k=50))]} for _ in range(4)
    ]
    alone = [len(tokenize([row["query"]], TOKENIZER, config(20), "query")[0]) for row in rows]
    for budget in (30, 60, 90, 200):
        for text, length in zip(queries(rows, length=20, fixed=True, max_length=budget), alone, strict=True):
            taken = len(TOKENIZER(text)["input_ids"]) - length
            assert 0 < taken <= budget
            pairs, _ = pairs_before(text)
            assert len(pairs) == min(3, budget // 27) and all(query and answer for query, answer in pairs)
            assert taken > 0.6 * budget
    short = {"query": "red?", "pos": rows[0]["pos"]}  # a short query leaves its room to the answer
    ((_, answer),), _ = pairs_before(queries([rows[1], short], fixed=True, max_examples=1, max_length=60)[0])
    assert len(TOKENIZER(answer)["input_ids"]) > 35


def test_a_query_is_cut_to_its_own_length_with_and_without_examples():
    rows = [{"query": " ".join(TEXTS * 9), "pos": ["x"]}, *ROWS]
    for epoch in range(5):
        last = queries(rows, epoch, length=20)[0].split("\n\n")[-1]
        assert len(TOKENIZER(last)["input_ids"]) == pytest.approx(20, abs=1)


def test_prompts_without_a_suffix_take_none_and_whole_characters_stay():
    rows = [{**row, "task": "plain"} for row in ROWS]
    assert queries(rows, fixed=True) == [f"plain: {row['query']}" for row in rows]
    rows = [{"query": "red?", "pos": ["x"]}, {"query": "blue?", "pos": ["\u20ac" * 30]}]
    text = queries(rows, fixed=True, max_length=30)[0]
    assert "\u20ac" in text and "\ufffd" not in text


@pytest.mark.parametrize(
    ("prompts", "max_length", "message"),
    [
        ({}, 64, "needs a prompt with a query_suffix"),
        (
            PROMPTS,
            4,
            r"examples_max_length=4 has no room for an example: with the prompt of task 'default' and 16",
        ),
        (PROMPTS, 2000, "and the query's 64 tokens are more than the backbone's 2048 positions"),
    ],
)
def test_bad_settings(prompts, max_length, message):
    with pytest.raises(ValueError, match=message):
        InContextExamples(TOKENIZER, config(prompts=prompts), 2, max_length=max_length)


def make_trainer(folder, rows, prompts=PROMPTS, **settings):
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), TOKENIZER, prompts=prompts)
    settings = {"train_group_size": 2, "max_examples": 2, "fixed_examples": True, "query_max_length": 32, **settings}
    return BiEncoderTrainer(model, arguments(BiEncoderTrainingArguments, folder, **settings), rows, PAIRS[:3])


@pytest.mark.cases(1)
@pytest.mark.parametrize("workers", [0, 1])
def test_training_puts_examples_before_queries_and_evaluation_does_not(tmp_path, workers):
    trainer = make_trainer(tmp_path, PAIRS, max_steps=2, dataloader_num_workers=workers)
    answers = [row["pos"][0] for row in PAIRS]
    trained, evaluated = (
        [text for batch in loader for text in TOKENIZER.batch_decode(batch["query"]["input_ids"])]
        for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader())
    )
    assert [sum(answer in text for answer in answers) for text in trained] == [2] * len(PAIRS)
    assert len(evaluated) == 3 and not [text for text in evaluated if "\n\n" in text]
    trainer.train()
    assert trainer.state.global_step == 2


def test_an_instruction_becomes_the_prompt_that_the_model_keeps(tmp_path):
    scored = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": 0.1 * i} for i in range(4)]
    entries = [
        DataSetEntry(PAIRS, name="finding", instruction="Find it."),
        DataSetEntry(scored, type="sts", instruction="Retrieve alike text.", task="alike"),
    ]
    trainer = make_trainer(tmp_path, entries, prompts=None, query_max_length=96)
    prompts = {"finding": instruction_prompt("Find it."), "alike": instruction_prompt("Retrieve alike text.")}
    assert trainer.model.config.prompts == prompts
    for batch in trainer.get_train_dataloader():
        texts = TOKENIZER.batch_decode(batch["query"]["input_ids"], skip_special_tokens=True)
        group = len(batch["passage"]["input_ids"]) // len(texts)
        name, blocks = ("finding", 3) if group == 2 else ("alike", 1)  # no examples of pairs that may be unlike
        assert all(text.startswith(prompts[name]["query"]) and text.count("<instruct>") == blocks for text in texts)
    with pytest.raises(ValueError, match="'again': its instruction makes the prompt of task 'finding', for which"):
        trainer.prepare(DataSetEntry(PAIRS, name="again", task="finding", instruction="Other."))
