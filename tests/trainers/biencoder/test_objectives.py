"""The objectives through data sets and the Trainer: own groups, scored pairs, false negatives."""

import pytest
import torch
from transformers import HfArgumentParser

from modeling_biencoder import BiEncoderModel, Objectives
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, SENTENCES, arguments, logged
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments, DataSetEntry

SCORED = [
    {"sentence1": text, "sentence2": SENTENCES[i - 1], "score": float(i % 3)} for i, text in enumerate(SENTENCES)
]
DUPLICATES = [{"query": text, "pos": ["the one answer to all"], "neg": []} for text in SENTENCES]


def make_trainer(folder, rows, evaluation=None, **settings):
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), temperature=0.1)
    args = arguments(BiEncoderTrainingArguments, folder, **{"train_group_size": 2, **settings})
    return BiEncoderTrainer(model, args, rows, evaluation)


def batch_of(trainer, count=4):
    return trainer.data_collator([trainer.train_dataset[i] for i in range(count)])


def test_scored_pairs_are_ranked_not_contrasted(tmp_path):
    trainer = make_trainer(tmp_path, SCORED, evaluation=SCORED, max_steps=20, per_device_train_batch_size=8)
    trainer.train()
    losses = logged(trainer, "pair_ranking_loss")
    assert losses == pytest.approx(logged(trainer, "loss"), rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]
    assert not logged(trainer, "contrastive_loss")
    assert trainer.evaluate()["eval_pair_ranking_loss"] > 0


def test_a_data_set_keeps_to_its_own_groups(tmp_path):
    own = make_trainer(tmp_path / "own", [DataSetEntry(PAIRS, type="classification")])
    batch = batch_of(own)
    assert batch["in_batch_negatives"] is False
    assert own.run_model(own.model, batch).scores.shape == (4, 2)
    joint = make_trainer(tmp_path / "joint", PAIRS)
    assert joint.run_model(joint.model, batch_of(joint)).scores.shape == (4, 8)


def test_a_mixture_logs_what_each_data_set_trains(tmp_path):
    trainer = make_trainer(tmp_path, {"scores": SCORED, "pairs": PAIRS}, max_steps=4, logging_steps=4)
    trainer.train()
    for name in ("pair_ranking_loss", "contrastive_loss", "distillation_loss"):
        assert len(logged(trainer, name)) == 1, name


def test_an_equal_positive_is_no_negative(tmp_path):
    settings = {"train_group_size": 1, "per_device_train_batch_size": 4}
    masked = make_trainer(tmp_path / "masked", DUPLICATES, **settings)
    assert masked.run_model(masked.model, batch_of(masked)).loss.item() == pytest.approx(0.0, abs=1e-6)
    plain = make_trainer(tmp_path / "plain", DUPLICATES, mask_false_negatives=False, **settings)
    # Four positives that are one: log 4, whatever the model.
    expected = torch.tensor(4.0).log().item()
    assert plain.run_model(plain.model, batch_of(plain)).loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_arguments_have_the_objectives_fields_and_rules(tmp_path):
    settings = {"distillation": "ranked", "margin_mse_weight": 0.5, "matryoshka_weights": [1.0, 0.5]}
    args = arguments(BiEncoderTrainingArguments, tmp_path, **settings)
    assert args.objectives() == Objectives(**settings) != Objectives()
    assert arguments(BiEncoderTrainingArguments, tmp_path).objectives() == Objectives()
    with pytest.raises(ValueError, match="teacher_temperature=0 must be"):
        arguments(BiEncoderTrainingArguments, tmp_path, teacher_temperature=0)
    (parsed,) = HfArgumentParser(BiEncoderTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--matryoshka_weights", "1", "0.5", "--no_mask_false_negatives"]
    )
    assert parsed.objectives() == Objectives(matryoshka_weights=[1.0, 0.5], mask_false_negatives=False)


@pytest.mark.parametrize(
    "rows, settings, what",
    [
        (DUPLICATES, {"margin_mse_weight": 5.0}, "has teacher scores"),
        (DUPLICATES, {"teacher_temperature": 0.1}, "has teacher scores"),
        (PAIRS, {"pair_ranking_weight": 7.0}, "is scored pairs"),
    ],
)
def test_settings_of_a_loss_that_no_row_has_the_scores_for(tmp_path, rows, settings, what):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* has no meaning where no data set {what}"):
        make_trainer(tmp_path, rows, train_group_size=1 if rows is DUPLICATES else 2, **settings)
    make_trainer(tmp_path, rows, distillation_weight=0.0, pair_ranking_weight=0.0, train_group_size=1)
