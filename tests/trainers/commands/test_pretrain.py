"""`lookback pretrain` on plain text."""

import json
from itertools import islice

import pytest
import torch

from modeling_llara import LlaraForPreTraining
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import SENTENCES, arguments, assert_same_weights, logged, weights
from trainers import LlaraTrainer, LlaraTrainingArguments
from trainers.commands import pretrain

QUIET = ["--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "--save_strategy", "no", "--logging_steps", "1"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").mkdir()
    for i in range(6):
        (tmp_path / "text" / f"{i}.txt").write_text(". ".join(SENTENCES[i % 4 :]).capitalize())
    return tmp_path


@pytest.mark.cases(1)
@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
def test_command(folder, streaming):
    tiny_backbone("qwen").save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    (folder / "words").write_text("lantern")
    data = ["--model", str(folder / "lm"), "--train_data", str(folder / "text"), "--eval_data", str(folder / "text")]
    own = ["--max_length", "160", "--stop_words", "english", str(folder / "words"), "--precision_k", "4", *streaming]
    output = ["--output_dir", str(folder / "run"), "--max_steps", "3", "--per_device_train_batch_size", "2"]
    pretrain.main([*data, *own, *output, *QUIET])
    metrics = json.loads((folder / "run" / "all_results.json").read_text())
    for name in ("eval_ar_loss", "eval_bow_predict_loss", "eval_summarize_precision@4", "eval_predict_precision@4"):
        assert metrics[name] >= 0
    card = (folder / "run" / "README.md").read_text()
    assert "summarize_precision@4" in card and "lantern" not in card
    assert LlaraForPreTraining.from_pretrained(folder / "run").tokenizer.all_special_ids


def trainer_on(folder, output, **settings):
    settings = {"max_length": 128, "max_steps": 6, "streaming": True, "per_device_train_batch_size": 2, **settings}
    args = arguments(LlaraTrainingArguments, output, **settings)
    model = LlaraForPreTraining.from_backbone(tiny_backbone("llama"), tiny_tokenizer())
    return LlaraTrainer(model, args, folder / "text")


@pytest.mark.slow
def test_a_stream_of_text_resumes_in_the_same_place(folder):
    straight = trainer_on(folder, folder / "a", save_strategy="steps", save_steps=3)
    straight.train()
    resumed = trainer_on(folder, folder / "b")
    resumed.train(resume_from_checkpoint=str(folder / "a" / "checkpoint-3"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-6)
    assert len(logged(resumed, "loss")) == 6 and torch.isfinite(torch.tensor(logged(resumed, "loss"))).all()


def test_workers_share_a_stream(folder):
    """The same rows in the same order, whatever the number of workers that read; the stream itself has no end."""
    rows = []
    for workers in (0, 2):
        loader = trainer_on(folder, folder / "run", dataloader_num_workers=workers).get_train_dataloader()
        texts = [ids[ids != 2].tolist() for batch in islice(loader, 6) for ids in batch["input_ids"]]  # 2: padding
        rows.append(texts)
    assert rows[0] == rows[1] and len(rows[0]) > 10


def test_a_row_without_room_is_an_error_before_any_text_is_read(folder):
    with pytest.raises(ValueError, match=r"max_length=64, but prefix and prompts take 91 tokens: give 92 or more"):
        trainer_on(folder, folder / "run", max_length=64)
