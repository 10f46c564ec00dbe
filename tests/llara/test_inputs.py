"""Bad input raises ValueError or TypeError with the value, the rule and the fix, before any compute."""

import pytest
import torch

from modeling_llara import LlaraConfig, LlaraForPreTraining, build_row
from tests.support.llara import batch_of
from tests.support.tiny import tiny_backbone, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> LlaraForPreTraining:
    return LlaraForPreTraining.from_backbone(tiny_backbone(max_position_embeddings=128), tiny_tokenizer())


@pytest.fixture
def row(model) -> torch.Tensor:
    return torch.tensor([build_row(model.config, list(range(10, 30)))["input_ids"]])


def words(*ids: int) -> torch.Tensor:
    return torch.tensor([list(ids)])


BAD_BATCHES = {
    "ids are floats": (lambda m, r: {"input_ids": r.float()}, TypeError, "input_ids has dtype torch.float32"),
    "ids are a list": (lambda m, r: {"input_ids": r.tolist()}, TypeError, "input_ids is a list"),
    "no ids": (lambda m, r: {}, ValueError, "input_ids is None"),
    "embeddings": (lambda m, r: {"inputs_embeds": torch.zeros(1, 2, 3)}, ValueError, "inputs_embeds is given"),
    "ids are flat": (lambda m, r: {"input_ids": r[0]}, ValueError, r"must be \(batch, length\)"),
    "empty batch": (lambda m, r: {"input_ids": r[:0]}, ValueError, "empty batch"),
    "another device": (lambda m, r: {"input_ids": r, "labels": r.to("meta")}, ValueError, "labels is on meta"),
    "mask too short": (lambda m, r: {"input_ids": r, "attention_mask": r[:, 1:]}, ValueError, "attention_mask has"),
    "labels too short": (lambda m, r: {"input_ids": r, "labels": r[:, 1:]}, ValueError, "labels has shape"),
    "too many target rows": (
        lambda m, r: {"input_ids": r, "output_predict_ids": torch.ones(2, 3).long()}, ValueError, "number of rows",
    ),
    "ids outside": (lambda m, r: {"input_ids": r * 1000}, ValueError, "row 0 .* outside 0..511"),
    "targets outside": (
        lambda m, r: {"input_ids": r, "output_predict_ids": words(512)}, ValueError, "output_predict_ids outside",
    ),
    "labels outside": (lambda m, r: {"input_ids": r, "labels": r - 400}, ValueError, "labels that are neither -100"),
    "only padding": (lambda m, r: {"input_ids": r, "attention_mask": r * 0}, ValueError, "row 0 .* has no token"),
    "too long": (lambda m, r: {"input_ids": words(*range(10, 110), *range(10, 110))}, ValueError, "outside 0..127"),
    "prompt cut off": (lambda m, r: {"input_ids": r[:, :-1]}, ValueError, "special tokens of the predict prompt"),
    "a special token twice": (
        lambda m, r: {"input_ids": torch.cat([words(m.config.predict_token_ids[0]), r], 1)},
        ValueError, "special tokens of the predict prompt",
    ),
    "token after the prompts": (
        lambda m, r: {"input_ids": torch.cat([r, words(1)], 1)}, ValueError, "does not end with",
    ),
    "prompts swapped": (
        lambda m, r: {"input_ids": words(9, *m.config.predict_prompt_ids, *m.config.summarize_prompt_ids)},
        ValueError, "does not end with",
    ),
    "target without its prompt": (
        lambda m, r: {"input_ids": words(9, *m.config.summarize_prompt_ids), "output_predict_ids": words(7)},
        ValueError, "row 0 .* no predict prompt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_batches(model, row, name):
    make, error, message = BAD_BATCHES[name]
    with pytest.raises(error, match=message):
        model(**make(model, row))


def test_the_row_at_fault_is_named(model, row):
    ids = row.repeat(3, 1)
    ids[2, -1] = 5
    with pytest.raises(ValueError, match="row 2 of the batch"):
        model(ids)


def test_absent_targets_of_rows_without_a_prompt_are_fine(model):
    ids = words(9, *model.config.summarize_prompt_ids)
    output = model(ids, output_summarize_ids=words(7, -100), output_predict_ids=words(-100, 2))
    assert output.bow_predict_loss.item() == 0.0
    assert output.loss.item() == pytest.approx(0.1 * output.bow_summarize_loss.item())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bow_loss_wieght": 1}, ValueError, "did you mean 'bow_loss_weight'"),
        ({"num_summary_tokens": 0}, ValueError, "num_summary_tokens=0 must be at least 1"),
        ({"num_summary_tokens": 2**63}, ValueError, "must be at most 1024"),
        ({"num_predict_tokens": 2.0}, TypeError, "num_predict_tokens=2.0 must be a whole number"),
        ({"ar_loss_weight": -1}, ValueError, "ar_loss_weight=-1 must be a finite number of at least 0"),
        ({"ar_loss_weight": float("nan")}, ValueError, "ar_loss_weight=nan must be a finite number"),
        ({"bow_loss_weight": "0.1"}, TypeError, "bow_loss_weight='0.1' must be a finite number"),
        ({"ignored_target_ids": 3}, TypeError, "ignored_target_ids=3 must be a list of token ids"),
        ({"ignored_target_ids": [-1]}, ValueError, "ignored_target_ids holds -1"),
        ({"summarize_prompt_ids": [1, 2]}, ValueError, "must end with 8 special tokens"),
        ({"summarize_prompt_ids": [1] * 8}, ValueError, "each occur once"),
        ({"summarize_prompt_ids": range(9), "predict_prompt_ids": range(8, 17)}, ValueError, "impossible to tell"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        LlaraConfig(**settings)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "tokenizer is None"),
        ({"summarize_prompt_ids": [1] * 9}, "only one of summarize_prompt_ids and predict_prompt_ids"),
        ({"summarize_prompt_ids": range(504, 512), "predict_prompt_ids": range(512, 520)}, "holds 519"),
        ({"summarize_prompt_ids": [], "predict_prompt_ids": []}, "both empty"),
        ({"tokenizer": tiny_tokenizer(), "revision": "main"}, "revision.* are for loading"),
        ({"tokenizer": tiny_tokenizer(), "revison": "main"}, "did you mean 'revision'"),
    ],
)
def test_bad_backbone_calls(keywords, message):
    with pytest.raises(ValueError, match=message):
        LlaraForPreTraining.from_backbone(tiny_backbone(), **keywords)


def test_backbone_without_a_head():
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        LlaraForPreTraining.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer())


def test_build_row():
    config = LlaraConfig(
        summarize_prompt_ids=[4, 5], predict_prompt_ids=[4, 6], num_summary_tokens=1, num_predict_tokens=1,
        prefix_ids=[1, 2],
    )  # fmt: skip
    row = build_row(config, [7, 5, 8, 9], max_length=8)  # 5 is a special token spelled in the text
    assert row == {"input_ids": [1, 2, 7, 8, 4, 5, 4, 6], "labels": [-100, -100, 7, 8, -100, -100, -100, -100]}
    assert build_row(config, [7], summarize=False)["input_ids"] == [1, 2, 7, 4, 6]
    with pytest.raises(ValueError, match=r"max_length is 6 .* at least 7"):
        build_row(config, [7], max_length=6)


def test_labels_under_padding_do_not_count():
    """As `labels=input_ids` has them, whatever side the padding is on."""
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
    rows = [
        build_row(model.config, model.tokenizer(text)["input_ids"]) for text in ("the island", "a candle and a hammer")
    ]
    width = max(len(row["input_ids"]) for row in rows)
    for left in (True, False):
        ids, mask, labels, careless = (torch.zeros(2, width, dtype=torch.long) for _ in range(4))
        for number, row in enumerate(rows):
            size = len(row["input_ids"])
            place = slice(width - size, width) if left else slice(0, size)
            ids[number, place], mask[number, place] = torch.tensor(row["input_ids"]), 1
            labels[number] = -100
            labels[number, place] = torch.tensor(row["labels"])
            careless[number] = torch.where(mask[number].bool(), labels[number], 2)
        assert not torch.equal(labels, careless)
        expected, found = (model(ids, attention_mask=mask, labels=given).loss for given in (labels, careless))
        torch.testing.assert_close(found, expected)


def test_nothing_predicts_the_first_token_of_a_row():
    """Its label does not count behind padding either, so a row's loss is the same in every batch."""
    prompts = {"summarize_prompt_ids": [5, 6], "predict_prompt_ids": [7, 8]}
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), num_summary_tokens=1, num_predict_tokens=1, **prompts)
    row = build_row(model.config, [10, 11, 12])  # no prefix: the passage's first token has a label
    assert row["labels"][0] == 10
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    padded_ids, padded_labels = (torch.nn.functional.pad(part, (2, 0), value=9) for part in (ids, labels))
    padded = model(padded_ids, attention_mask=(torch.arange(9) > 1).long()[None], labels=padded_labels)
    torch.testing.assert_close(padded.ar_loss, model(ids, labels=labels).ar_loss)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"passage_ids": "text"}, TypeError, "must be a list of token ids"),
        ({"passage_ids": torch.tensor([7])}, TypeError, "must be a list of token ids"),
        ({"passage_ids": [512]}, ValueError, "passage_ids holds 512, and the vocabulary ends at 511"),
        ({"max_length": 99.5}, TypeError, "max_length=99.5 must be a whole number"),
        ({"summarize": 1}, TypeError, "summarize=1 must be True or False"),
    ],
)
def test_bad_arguments_of_build_row(model, arguments, error, message):
    with pytest.raises(error, match=message):
        build_row(model.config, **{"passage_ids": [7], **arguments})


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[7]], TypeError, "input_ids is a list"),
        (torch.tensor([7]), ValueError, "must be .batch, length."),
        (torch.tensor([[512]]), ValueError, "input_ids holds 512, which is not in 0..511"),
        (torch.tensor([[-1]]), ValueError, "input_ids holds -1"),
    ],
)
def test_bad_arguments_of_generate(model, ids, error, message):
    for call in (
        lambda: model.generate(ids),
        lambda: model.generate(input_ids=ids),
        lambda: model.generate(inputs=ids),
    ):
        with pytest.raises(error, match=message):
            call()


def test_weights_of_nan_are_not_blamed_on_the_mask():
    backbone = tiny_backbone()
    torch.nn.init.constant_(next(backbone.parameters()), float("nan"))
    with pytest.raises(ValueError, match="gives NaN or infinity: its weights hold some"):
        LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.5, -1, 2])
def test_masks_that_are_not_0_and_1(model, number):
    batch = batch_of(model, (3, 5))
    batch["attention_mask"] = torch.full(batch["input_ids"].shape, number)
    with pytest.raises(ValueError, match="row 0 of the batch has an attention_mask that is not 1 at tokens and 0 at"):
        model(**batch)
    ids = torch.tensor([[7, 8]])
    with pytest.raises(ValueError, match=r"attention_mask holds .*, and must be 1 at tokens and 0 at padding"):
        model.generate(ids, attention_mask=torch.full((1, 2), number))


@pytest.mark.parametrize("name", ["output_logits", "output_hidden_states", "output_attentions", "return_dict"])
def test_switches_of_forward(model, name):
    with pytest.raises(TypeError, match=f"{name}='no' must be None or True or False"):
        model(**batch_of(model, (3,)), **{name: "no"})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": torch.tensor([[7]])}, ValueError, "generate has inputs and input_ids, and takes input_ids alone"),
        ({"input_ids": None, "inputs_embeds": torch.ones(1, 2, 32)}, ValueError, "generate has inputs_embeds"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0 must be from 1 to"),
        ({"max_new_tokens": "2"}, TypeError, "max_new_tokens='2' must be None or a whole number"),
        ({"max_new_tokens": 2**63}, ValueError, "max_new_tokens=9223372036854775808 must be from 1 to"),
        ({"num_beams": 2.5}, TypeError, "num_beams=2.5 must be"),
        ({"do_sample": "yes"}, TypeError, "do_sample='yes' must be None or True or False"),
        ({"generation_config": 3}, TypeError, "generation_config=3 must be None or of type GenerationConfig"),
        ({"foo": 3}, ValueError, "'foo'"),
        ({"labels": torch.tensor([[7]])}, ValueError, "labels"),
    ],
)
def test_more_bad_arguments_of_generate(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.generate(**{"input_ids": torch.tensor([[7]]), "max_new_tokens": 2, **arguments})
