"""The cards that Trainers write: the family's own, with the run's settings and its last figures."""

from pathlib import Path

from huggingface_hub import ModelCard
from transformers import TrainerState

from modeling_biencoder import BiEncoderModel
from tests.support.loopback_hub.fixtures import read
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.base.cards import evaluation_facts, training_facts


def make_trainer(folder: Path, **settings) -> BiEncoderTrainer:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), temperature=0.1)
    args = arguments(BiEncoderTrainingArguments, folder, max_steps=2, train_group_size=3, **settings)
    return BiEncoderTrainer(model, args, PAIRS, PAIRS)


def card_in(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_a_saved_run_has_the_familys_card_with_its_settings(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    text = card_in(tmp_path / "saved").text
    assert "# Bi-encoder" in text and "lookback:begin evaluation" not in text
    for row in ("steps | 2", "learning_rate | 0.01", "train_group_size | 3", "per_device_train_batch_size | 4"):
        assert f"| {row} |" in text


def test_create_model_card_renews_our_card_and_keeps_a_persons_text(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model()
    path = tmp_path / "README.md"
    path.write_text(path.read_text() + "\nA person's remark.\n")
    trainer.create_model_card(language="en", license="apache-2.0", dataset_tags="user/data", dataset="held-out pairs")
    card = card_in(tmp_path)
    assert "A person's remark." in card.text and "Measured on: held-out pairs." in card.text
    assert (card.data.language, card.data.license, card.data.datasets) == (["en"], "apache-2.0", ["user/data"])
    assert f"| loss | {loss:.5g} |" in card.text and "| contrastive_loss |" in card.text
    assert "per_second" not in card.text and "runtime" not in card.text
    assert card.data.eval_results is None  # losses are no results to compare models by
    assert "generated_from_trainer" not in card.data.tags


def test_push_to_hub_sends_our_card(hub, tmp_path):
    trainer = make_trainer(tmp_path, push_to_hub=True, hub_model_id="user/repo", hub_token="hf_write")
    trainer.train()
    trainer.push_to_hub()
    card = read(hub, "README.md")
    assert 'from_pretrained("user/repo"' in card and "| steps | 2 |" in card
    files = hub.repos["user/repo"].files()
    assert {"config.json", "model.safetensors", "tokenizer.json", "modeling_biencoder.py"} <= set(files)
    assert not [name for name in files if "training_args" in name or "checkpoint" in name]


def test_the_figures_are_those_of_the_model_that_is_kept(tmp_path):
    args = arguments(BiEncoderTrainingArguments, tmp_path)
    state = TrainerState(global_step=4, best_global_step=2)
    assert training_facts(args, TrainerState()) == evaluation_facts(args, state) == {}
    state.log_history = [
        {"eval_loss": 1.0, "eval_runtime": 9.0, "step": 2},
        {"loss": 3.0, "step": 3},
        {"eval_loss": 2.0, "eval_runtime": 9.0, "step": 4},
    ]
    assert evaluation_facts(args, state) == {"loss": 2.0}
    args.load_best_model_at_end = True
    assert evaluation_facts(args, state) == {"loss": 1.0}
