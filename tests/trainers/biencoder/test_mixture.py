import json
from collections import Counter
from itertools import islice

import datasets
import pytest
import torch
import yaml
from transformers import Trainer

from modeling_biencoder import BiEncoderModel
from tests.support import quick_first
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments, assert_same_weights, logged, weights
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, DataSetEntry
from trainers.biencoder.batches import (
    MixtureBatchSampler,
    SampledSet,
    count_batches,
    joint_batches,
    mixture_shares,
    share,
)
from trainers.biencoder.entries import mixture_entries
from trainers.biencoder.rows import text_identity
from trainers.commands import finetune

DUPLICATES = [{"sentence1": f"left {i}", "sentence2": f"right {i}", "score": i / 5} for i in range(6)]
CLASSES = [
    {"query": f"text {i}", "pos": [f"class {i % 2}"], "neg": [f"class {2 + i}"], "type": "classification"}
    for i in range(5)
]
QUESTIONS = [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(9)]
SETS = {"retrieval": PAIRS, "sts": DUPLICATES, "classes": CLASSES, "questions": QUESTIONS}


def make_trainer(folder, rows, prompts=None, **settings):
    backbone = tiny_backbone(lm_head=False)
    model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), temperature=0.1, prompts=prompts)
    settings = {"train_group_size": 2, "per_device_train_batch_size": 2, "query_max_length": 8, **settings}
    return BiEncoderTrainer(model, arguments(BiEncoderTrainingArguments, folder, **settings), rows)


def sampler(*sizes, epoch=0, batch_size=2, **settings):
    sets = [
        SampledSet(str(i), *(size if isinstance(size, tuple) else (size, batch_size))) for i, size in enumerate(sizes)
    ]
    return MixtureBatchSampler(sets, seed=3, epoch=lambda: epoch, **settings)


def set_of(batch, sizes):
    """The one data set that the rows of a batch are from."""
    (found,) = {sum(row >= sum(sizes[: k + 1]) for k in range(len(sizes))) for row in batch}
    return found


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_process_gets_rows_as_long_as_one_does(drop_last):
    for processes in (1, 2, 3, 4):
        for batch_size in (1, 2, 3):
            for rows in range(30):
                joint = list(joint_batches(range(rows), batch_size, processes, drop_last))
                count, left_out = count_batches(rows, batch_size, processes, drop_last)
                assert [row for batch in joint for row in batch] == list(range(rows - left_out))
                assert len(joint) == count and left_out < (batch_size if drop_last else 1) * processes
                assert drop_last or batch_size == 1 or not left_out or rows < processes
                for batch in joint:
                    shares = [share(batch, processes, index) for index in range(processes)]
                    assert [row for part in shares for row in part] == batch
                    assert min(map(len, shares)) >= (batch_size if drop_last else 1)
                    assert max(map(len, shares)) <= batch_size


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_proportional_epoch_sees_every_row_once_from_one_set_at_a_time(processes):
    sizes = (11, 4, 7)
    ranks = [list(sampler(*sizes, num_processes=processes, process_index=rank)) for rank in range(processes)]
    assert {len(batches) for batches in ranks} == {len(sampler(*sizes, num_processes=processes))}
    joint = [[row for batch in step for row in batch] for step in zip(*ranks, strict=True)]
    assert sorted(row for batch in joint for row in batch) == list(range(22))
    order = [set_of(batch, sizes) for batch in joint]
    assert order != sorted(order)
    again = sampler(*sizes, num_processes=processes, epoch=1)
    assert list(again) != ranks[0] and list(again) == list(again)


def test_shares_of_the_mixtures():
    assert mixture_shares([8, 2], [None, None], "proportional", 1.0) is None
    assert mixture_shares([8, 2], [None, None], "temperature", 1.0) == pytest.approx([0.8, 0.2])
    assert mixture_shares([8, 2], [None, None], "temperature", 2.0) == pytest.approx([2 / 3, 1 / 3])
    assert mixture_shares([8, 2], [None, None], "temperature", float("inf")) == [0.5, 0.5]
    assert mixture_shares([8, 2], [None, 2.0], "equal", 1.0) == pytest.approx([1 / 3, 2 / 3])
    assert mixture_shares([8, 2], [1.0, None], "proportional", 1.0) == pytest.approx([0.8, 0.2])


def test_a_small_set_is_drawn_again_only_when_its_rows_are_used_up():
    sizes = (40, 6)
    drawn = sampler(*sizes, mixture="equal")
    batches = list(drawn)
    by_set = [[batch for batch in batches if set_of(batch, sizes) == number] for number in (0, 1)]
    assert len(drawn) == len(batches) == 23 and {len(by_set[0]), len(by_set[1])} == {11, 12}
    rows = [row for batch in by_set[1] for row in batch]
    for start in range(0, len(rows) - 5, 6):
        assert sorted(rows[start : start + 6]) == list(range(40, 46))
    assert rows[:6] != rows[6:12]  # in another order
    assert max(Counter(row for batch in by_set[0] for row in batch).values()) == 1
    means = Counter(
        set_of(batch, (90, 6))
        for e in range(20)
        for batch in sampler(90, 6, mixture="temperature", epoch=e, temperature=4.0)
    )
    expected = mixture_shares([45, 3], [None, None], "temperature", 4.0)
    assert means[1] / means.total() == pytest.approx(expected[1], abs=0.01)


def test_batch_sizes_of_their_own_sequential_order_and_sets_too_small(caplog):
    assert {len(batch) for batch in sampler((8, 4), (6, 2))} == {4, 2}
    assert list(sampler(3, 2, shuffle=False)) == [[0, 1], [2], [3, 4]]
    with pytest.raises(ValueError, match="'1' gives no batch: 1 rows for batches of 2 on 2 processes, each of which"):
        sampler(8, 1, num_processes=2)
    with pytest.raises(ValueError, match="dataloader_drop_last=True"):
        sampler(1, drop_last=True)


def test_one_data_set_keeps_the_batches_of_transformers_loader(tmp_path):
    trainer = make_trainer(tmp_path, PAIRS[:7])
    for epoch in (0, 1):
        loaders = trainer.get_train_dataloader(), Trainer.get_train_dataloader(trainer)
        for loader in loaders:
            loader.set_epoch(epoch)
        for own, other in zip(*loaders, strict=True):
            torch.testing.assert_close(own, other)


def identities(trainer):
    """For each batch of an epoch: the identities of its queries, and the batch."""
    return [(batch["identity"]["query"].tolist(), batch) for batch in trainer.get_train_dataloader()]


def test_a_mixture_gives_each_data_set_its_own_group_batch_negatives_and_prompts(tmp_path):
    entries = [
        DataSetEntry(PAIRS, name="retrieval", task="ask"),
        DataSetEntry(DUPLICATES, type="sts", task="ask"),
        DataSetEntry(CLASSES, name="classes", group_size=2),
        DataSetEntry(QUESTIONS, max_rows=5, batch_size=5, swap=True),
    ]
    prompts = {"ask": {"query": "ask: ", "passage": "read: "}}
    trainer = make_trainer(tmp_path, entries, prompts, train_group_size=3, symmetric_batch_size=3)
    found = {}
    for _, batch in identities(trainer):
        group = len(batch["passage"]["input_ids"]) // len(batch["query"]["input_ids"])
        first = trainer.processing_class.decode(batch["passage"]["input_ids"][0], skip_special_tokens=True)
        key = (group, "teacher_scores" in batch, batch.get("in_batch_negatives"), first[:6])
        found.setdefault(key, []).append(len(batch["query"]["input_ids"]))
    assert {key: sorted(sizes, reverse=True) for key, sizes in found.items()} == {
        (3, True, None, "read: "): [2, 2, 2, 2],
        (1, True, False, "ask: r"): [3, 3],
        (2, False, False, "class "): [3, 2],
        (1, False, None, "questi"): [5],
    }


def test_identity_of_texts(tmp_path):
    rows = [{"query": "q", "pos": ["p", "r"], "neg": ["n"]}, {"query": "q", "pos": ["n"], "neg": ["p"]}]
    trainer = make_trainer(tmp_path, rows)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])["identity"]
    assert {name: value.dtype for name, value in batch.items()} == dict.fromkeys(batch, torch.int64)
    one = {text: text_identity(text) for text in "qprn"}
    assert min(one.values()) > 0 and max(one.values()) < 2**63 and len(set(one.values())) == 4
    assert batch["query"].tolist() == [one["q"], one["q"]]
    assert batch["passage"][2:].tolist() == [one["n"], one["p"]]
    assert batch["positives"].tolist() == [[one["p"], one["r"]], [one["n"], 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_epochs_give_the_same_batches(tmp_path, workers):
    def epoch(loader, number):
        loader.set_epoch(number)
        return [batch["identity"]["passage"].tolist() for batch in loader]

    settings = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0, "mixture": "equal"}
    loader = make_trainer(tmp_path, SETS, **settings).get_train_dataloader()
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert first != second and len(first) == len(loader)
    again = make_trainer(tmp_path, SETS, mixture="equal").get_train_dataloader()
    assert epoch(again, 1) == second


@pytest.mark.parametrize("streaming", quick_first([False, True]))
def test_resumed_in_the_middle_of_the_second_epoch_ends_in_the_same_weights(tmp_path, streaming):
    settings = {"max_steps": 8, "mixture": "equal", "streaming": streaming, "per_device_train_batch_size": 4}
    entries = {name: SETS[name] for name in ("retrieval", "questions")}
    straight = make_trainer(tmp_path, entries, save_strategy="steps", save_steps=6, **settings)
    straight.train()
    resumed = make_trainer(tmp_path / "other", entries, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)
    assert len(logged(straight, "loss")) == 8 and (streaming or straight.state.epoch == pytest.approx(8 / 5))


def streamed(trainer, count):
    return [batch["identity"]["query"].tolist() for batch in islice(trainer.get_train_dataloader(), count)]


def test_streams_mix_by_weight_and_start_anew(tmp_path):
    entries = [DataSetEntry(PAIRS, weight=3), DataSetEntry(QUESTIONS, weight=1)]
    batches = streamed(make_trainer(tmp_path, entries, streaming=True, shuffle_buffer=0), 80)
    own = {text_identity(row["query"]) for row in PAIRS}
    first = [batch for batch in batches if set(batch) <= own]
    rest = [batch for batch in batches if not set(batch) & own]
    assert len(first) + len(rest) == 80 and 50 < len(first) < 70
    assert {len(batch) for batch in batches} == {2}
    seen = [row for batch in rest for row in batch]
    assert len(set(seen[:9])) == 9 and seen[9:18] == seen[:9]  # the second pass
    for workers in (1, 2):
        trainer = make_trainer(tmp_path, entries, streaming=True, shuffle_buffer=0, dataloader_num_workers=workers)
        assert streamed(trainer, 9) == batches[:9]
    assert streamed(make_trainer(tmp_path, entries, streaming=True), 9) != batches[:9]  # drawn from a buffer


def test_data_seed_draws_the_order_of_a_streamed_file(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    found = [
        streamed(make_trainer(tmp_path, str(tmp_path / "rows.jsonl"), streaming=True, **seeds), 4)
        for seeds in ({"data_seed": 1}, {"data_seed": 1, "seed": 8}, {"data_seed": 2})
    ]
    assert found[0] == found[1] != found[2]


def test_one_stream_starts_anew_within_a_batch_and_is_resumed_there(tmp_path):
    stream = datasets.Dataset.from_list(PAIRS[:5]).to_iterable_dataset()
    batches = streamed(make_trainer(tmp_path, stream), 5)
    assert [row for batch in batches for row in batch] == 2 * [text_identity(row["query"]) for row in PAIRS[:5]]
    straight = make_trainer(tmp_path, stream, save_strategy="steps", save_steps=4, max_steps=6)
    straight.train()
    resumed = make_trainer(tmp_path / "other", stream, max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)


def test_every_way_to_give_data_sets(tmp_path):
    for name, rows in {"b": PAIRS, "a-00000-of-00002": QUESTIONS[:4], "a-00001-of-00002": QUESTIONS[4:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path, table = str(tmp_path / "b.jsonl"), datasets.Dataset.from_list(QUESTIONS)
    assert [(one.name, one.data) for one in mixture_entries(path)] == [("b", path)]
    assert [(one.name, one.data) for one in mixture_entries(PAIRS)] == [("list", PAIRS)]
    assert [one.name for one in mixture_entries([path, {"data": table, "name": "own"}, table])] == [
        "b",
        "own",
        "Dataset",
    ]
    named = mixture_entries({"x": path, "y": {"data": PAIRS, "weight": 2}, "z": str(tmp_path)})
    assert [(one.name, one.weight) for one in named] == [("x", None), ("y", 2), ("z/a", None), ("z/b", None)]
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump([path, {"data": path, "type": "sts"}]))
    assert [one.type for one in mixture_entries(tmp_path / "sets.yaml")] == [None, "sts"]
    trainer = make_trainer(tmp_path / "run", tmp_path)
    assert [(part.name, len(part.rows)) for part in trainer.train_dataset.parts] == [("a", 9), ("b", 8)]


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ([{"data": PAIRS}, {"query": "q"}], {}, "Item 1 of the data sets .* needs the key 'data'"),
        ([{"data": PAIRS, "grup_size": 3}], {}, "'grup_size' is not known; did you mean 'group_size'"),
        ([{"data": PAIRS, "type": "summary"}], {}, "type='summary' must be one of retrieval, sts"),
        ([{"data": PAIRS, "batch_size": 0}], {}, "batch_size=0 must be at least 1"),
        ([{"data": PAIRS, "weight": 0}], {}, "weight=0 must be more than 0"),
        ([{"data": PAIRS, "split": "test"}], {}, "split='test' is for a Hub repo"),
        ([{"data": QUESTIONS, "in_batch_negatives": False}], {}, "leaves no negatives"),
        ([{"data": [*CLASSES, {**CLASSES[0], "type": "sts"}]}], {}, "mixes rows of the types classification, sts"),
        ([{"data": PAIRS, "task": "ask"}], {}, "task='ask' has no prompt; the model's tasks are \\[\\]"),
        ({}, {}, "There are no data sets"),
        ("missing.yaml", {}, "no file 'missing.yaml'"),
        ({"a": PAIRS, "b": QUESTIONS}, {"streaming": True}, "set mixture='equal', or give each data set a weight"),
        ({"a": PAIRS, "b": QUESTIONS}, {"streaming": True, "max_steps": -1}, "needs max_steps"),
        (PAIRS, {"mixture": "even"}, "mixture='even' must be one of"),
        (PAIRS, {"mixture_temperature": 0}, "mixture_temperature=0 must be more than 0"),
        (PAIRS, {"max_examples": -1}, "max_examples=-1 must be at least 0"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, source, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, source, **settings)


@pytest.mark.parametrize(
    ("others", "message"), [(DUPLICATES, "is a scored pair"), (PAIRS, r"b\.jsonl, line 1 is a query with passages")]
)
def test_files_of_one_data_set_that_cannot_share_batches(tmp_path, others, message):
    for name, rows in (("a", QUESTIONS), ("b", others)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    trainer = make_trainer(tmp_path / "run", PAIRS)
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path / "run", DataSetEntry((tmp_path / "a.jsonl", tmp_path / "b.jsonl"), name="both"))


def test_rows_that_only_a_teacher_could_train_need_its_scores(tmp_path):
    alone = {"contrastive_weight": 0.0}
    rows = [*PAIRS[:2], {**PAIRS[2], "teacher_scores": None}]
    with pytest.raises(ValueError, match=r"Data set 'few': Row 2 .* has no teacher scores"):
        make_trainer(tmp_path, DataSetEntry(rows, name="few"), **alone)
    trainer = make_trainer(tmp_path, DataSetEntry(rows, name="few", max_rows=2), **alone)
    with pytest.raises(ValueError, match=r"Row 2 .* has no teacher scores"):
        trainer.evaluate(rows)
    with pytest.raises(ValueError, match=r"Data set 'few': a batch with 1 passages a query, .*has no objective"):
        make_trainer(tmp_path, DataSetEntry(PAIRS, name="few", group_size=1), **alone)


def test_rows_of_a_type_that_is_none_train_as_retrieval(tmp_path, caplog):
    trainer = make_trainer(tmp_path, [{**row, "type": "wiki"} for row in PAIRS])
    assert "type 'wiki' of its rows is none of" in caplog.text
    assert trainer.train_dataset.parts[0].group_size == 2


def test_finetune_on_a_list_in_the_configuration(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    for name in ("retrieval", "sts"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SETS[name]))
    config = {
        "model": str(tmp_path / "backbone"), "output_dir": str(tmp_path / "run"), "train_group_size": 2,
        "use_cpu": True,
        "train_data": [str(tmp_path / "retrieval.jsonl"), {"data": str(tmp_path / "sts.jsonl"), "type": "sts"}],
        "eval_data": str(tmp_path / "sts.jsonl"), "num_train_epochs": 1, "per_device_train_batch_size": 2,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "mixture": "temperature",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    finetune.main(["--config", str(tmp_path / "config.yaml")])
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 7
