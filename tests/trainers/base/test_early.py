"""What cannot work is said before the model is loaded, or at the latest before the first step."""

from pathlib import Path

import pytest
from peft import LoraConfig

from tests.support.trainers import make_trainer
from tests.support.training import PAIRS, PASSAGES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    LlaraTrainer,
    LlaraTrainingArguments,
    RetrievalEvaluator,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
)

TRAINERS = {
    "biencoder": (BiEncoderTrainer, BiEncoderTrainingArguments),
    "llara": (LlaraTrainer, LlaraTrainingArguments),
    "srlm": (SelfRetrievalTrainer, SelfRetrievalTrainingArguments),
}
ROWS = {"biencoder": PAIRS, "llara": PASSAGES, "srlm": [{"text": "one two three four five six " * 9}]}


class NotLoaded(Exception):
    """The model would be looked at now."""


def begin(family, folder, monkeypatch, train=None, evaluation=None, model_kwargs=None, **settings):
    """A Trainer that ends where its model would be looked at."""

    def load(*args):
        raise NotLoaded

    trainer, kind = TRAINERS[family]
    monkeypatch.setattr("trainers.base.early.config_of", load)
    train = ROWS[family] if train is None else train
    trainer("user/model", arguments(kind, folder, **settings), train, evaluation, model_kwargs=model_kwargs)


@pytest.fixture(params=TRAINERS)
def family(request):
    return request.param


def test_good_names_come_to_the_model(family, tmp_path, monkeypatch):
    for source in (None, "user/data@main", {"a": ROWS[family]}):
        with pytest.raises(NotLoaded):
            begin(family, tmp_path / "new" / "run", monkeypatch, evaluation=source)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["file", "below a file", "no folder to make"])
def test_an_output_folder_that_cannot_be(family, tmp_path, monkeypatch, kind):
    (tmp_path / "file").write_text("x")
    place = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "no folder to make": "/proc/run"}
    with pytest.raises(ValueError, match=r"output_dir='.*' (is no folder|lies below|cannot be written)"):
        begin(family, place[kind], monkeypatch)


@pytest.mark.parametrize("name", ["a/b/c", "bad name", "..", "x" * 100, "user/x--y", "user/x.git", "user/../x", "/x"])
def test_a_name_that_no_repo_has(family, tmp_path, name):
    with pytest.raises(ValueError, match=r"hub_model_id='.*' cannot be the name of a repo .*: give user/name"):
        arguments(TRAINERS[family][1], tmp_path, hub_model_id=name)


def test_the_name_of_a_folder_that_no_repo_has(tmp_path):
    with pytest.raises(ValueError, match=r"output_dir='my run' cannot be the name of a repo"):
        arguments(LlaraTrainingArguments, tmp_path / "my run", push_to_hub=True)


def test_a_push_that_cannot_be(family, tmp_path, monkeypatch):
    settings = {"push_to_hub": True, "hub_model_id": "user/name"}
    monkeypatch.setattr("trainers.base.early.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("trainers.base.early.get_token", lambda: None)
    with pytest.raises(ValueError, match="needs a token with the right to write"):
        begin(family, tmp_path, monkeypatch, **settings)
    with pytest.raises(NotLoaded):
        begin(family, tmp_path, monkeypatch, hub_token="hf_x", **settings)
    monkeypatch.setattr("trainers.base.early.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        begin(family, tmp_path, monkeypatch, **settings)


@pytest.mark.parametrize("part", ["train", "evaluation", "an evaluation set"])
@pytest.mark.parametrize(
    "source", ["no.jsonl", "/no/where", "a/b/c", "bad name", "FOLDER/bad.jsonl", "FOLDER/empty.csv"]
)
def test_data_that_cannot_be(family, tmp_path, monkeypatch, part, source):
    (tmp_path / "bad.jsonl").write_text('{"text": ')
    (tmp_path / "empty.csv").write_text("")
    source = source.replace("FOLDER", str(tmp_path))
    given = {"an evaluation set": {"evaluation": {"a": ROWS[family], "b": source}}}.get(part, {part: source})
    with pytest.raises(
        ValueError, match=r"no file or folder '|bad\.jsonl, line 1 is no JSON|empty\.csv' holds no row"
    ):
        begin(family, tmp_path / "run", monkeypatch, **given)


def test_one_of_several_data_sets_that_cannot_be(tmp_path, monkeypatch):
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(f"- data: {tmp_path / 'no.jsonl'}\n  name: a\n")
    for source in (["no.jsonl", "user/name"], {"a": PAIRS, "b": "no.jsonl"}, str(mixture)):
        with pytest.raises(ValueError, match=r"no file or folder '.*no\.jsonl'"):
            begin("biencoder", tmp_path, monkeypatch, train=source)
    for place in ("no", str(tmp_path)):
        with pytest.raises(ValueError, match=r"There is no folder 'no'|holds no corpus, queries and qrels"):
            begin("biencoder", tmp_path, monkeypatch, eval_retrieval=place)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy='steps' needs evaluation data"),
        ({"save_strategy": "best"}, "save_strategy='best' needs metric_for_best_model"),
    ],
)
def test_evaluations_that_there_will_not_be(family, tmp_path, monkeypatch, settings, message):
    with pytest.raises(ValueError, match=message):
        begin(family, tmp_path, monkeypatch, **settings)


def test_a_type_of_weights_that_there_is_not(family, tmp_path, monkeypatch):
    for dtype in ("float99", "int8", 5):
        with pytest.raises(ValueError, match="is no type of weights"):
            begin(family, tmp_path, monkeypatch, model_kwargs={"dtype": dtype})
    for dtype in ("bfloat16", "auto", None):
        with pytest.raises(NotLoaded):
            begin(family, tmp_path, monkeypatch, model_kwargs={"dtype": dtype})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"report_to": "nonsense"}, "report_to='nonsense' must be one of none, all,"),
        ({"report_to": ["comet_ml"]}, "report_to='comet_ml' needs a package that is not installed"),
        ({"optim": "galore_adamw"}, "optim='galore_adamw' needs galore_torch"),
        ({"optim_args": "nonsense"}, "optim_args='nonsense' must be name=value"),
        ({"lr_scheduler_kwargs": "nonsense"}, "lr_scheduler_kwargs='nonsense' must be a JSON object"),
        ({"accelerator_config": 3}, "accelerator_config=3 must be a mapping"),
        ({"gradient_checkpointing_kwargs": "{"}, "gradient_checkpointing_kwargs='{' must be a JSON object"),
        ({"fsdp_config": "no.json"}, "fsdp_config='no.json' must be a JSON object or a file of one"),
        ({"deepspeed": "zero.json"}, "deepspeed needs the package deepspeed"),
        ({"torch_compile_mode": "fast"}, "torch_compile_mode='fast' is not known"),
        ({"ddp_backend": "glo"}, "ddp_backend='glo' is not known: .* Did you mean 'gloo'"),
        ({"log_level": "loud"}, "log_level='loud' is not known"),
        ({"seed": -1}, "seed=-1 must be from 0"),
        ({"adam_beta2": 1.5}, r"adam_beta2=1\.5 must be at least 0 and below 1"),
        ({"num_train_epochs": 0, "max_steps": -1}, "num_train_epochs=0 must be above 0"),
        ({"eval_steps": -1}, "eval_steps=-1 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a finite number"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm=-1\.0 must be a finite number"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be at least 1"),
        ({"per_device_eval_batch_size": -1}, "per_device_eval_batch_size=-1 must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 must be at least 1"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers=-1 must be at least 0"),
    ],
)
def test_settings_that_cannot_be(family, tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr("trainers.base.options.get_available_reporting_integrations", lambda: [])
    with pytest.raises(ValueError, match=message):
        arguments(TRAINERS[family][1], tmp_path, **settings)


@pytest.mark.cases(2)
@pytest.mark.parametrize("metric", ["nonsense", "eval_los", "other_loss"])
def test_a_best_metric_that_is_not_measured(family, tmp_path, metric):
    settings = {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": metric}
    with pytest.raises(ValueError, match=f"metric_for_best_model='{metric}' is not measured; did you mean"):
        with_evaluation(family, tmp_path, **settings)


BEST = {"biencoder": "contrastive_loss", "llara": "eval_summarize_precision@8", "srlm": "eval_perplexity"}


@pytest.mark.cases(1)
def test_a_best_metric_that_is_measured(family, tmp_path):
    trainer = with_evaluation(
        family, tmp_path, eval_strategy="steps", eval_steps=3, load_best_model_at_end=True,
        metric_for_best_model=BEST[family],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")


def with_evaluation(family, folder: Path, **settings):
    """`make_trainer`'s, which evaluates on its training rows."""
    made = make_trainer(family, folder / "made")
    trainer, kind = TRAINERS[family]
    own = {"document_length": 24, "target_size": 8} if family == "srlm" else {}
    given = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, **own, **settings}
    return trainer(made.model, arguments(kind, folder, **given), ROWS[family], ROWS[family])


def test_every_evaluation_set_has_names_of_its_own(tmp_path):
    model = make_trainer("biencoder", tmp_path / "made").model
    evaluator = RetrievalEvaluator({"q": "who?"}, {"a": "he", "b": "she"}, {"q": {"b": 1}}, ks=(1,))
    data = {"rows": PAIRS, "nq": evaluator}
    for metric, good in {"rows_loss": True, "nq_mrr@1": True, "loss": False, "contrastive_loss": False}.items():
        args = arguments(
            BiEncoderTrainingArguments, tmp_path, eval_strategy="steps", eval_steps=1, metric_for_best_model=metric
        )
        if good:
            BiEncoderTrainer(model, args, PAIRS, data)
            continue
        with pytest.raises(ValueError, match=r"is not measured.*rows_loss"):
            BiEncoderTrainer(model, args, PAIRS, data)


def test_a_loss_without_a_weight_is_not_measured(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "margin_mse_loss"}
    with pytest.raises(ValueError, match="'margin_mse_loss' is not measured"):
        with_evaluation("biencoder", tmp_path, **settings)
    with_evaluation("biencoder", tmp_path, margin_mse_weight=1.0, **settings)


def test_more_words_than_there_are(tmp_path):
    with pytest.raises(ValueError, match="precision_k=1000 must be at most 512"):
        with_evaluation("llara", tmp_path, precision_k=1000)


def test_modules_that_are_not_there(family, tmp_path):
    made = make_trainer(family, tmp_path / "made")
    trainer, kind = TRAINERS[family]
    own = {"document_length": 24, "target_size": 8} if family == "srlm" else {}
    with pytest.raises(ValueError, match="modules_to_save names 'nonsense'"):
        trainer(made.model, arguments(kind, tmp_path, **own), ROWS[family],
                peft_config=LoraConfig(modules_to_save=["nonsense"]))  # fmt: skip
