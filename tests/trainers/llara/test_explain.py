"""precision@k of the words at the prompts, and `lookback explain`: what they say is what the logits say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from modeling_llara import LlaraForPreTraining, build_row
from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PASSAGES, SENTENCES, arguments, assert_same_weights, logged, weights
from trainers import LlaraTrainer, LlaraTrainingArguments, add_adapter, explain
from trainers.commands import explain as command
from trainers.llara.explain import PROMPTS, precision_at_k, prompt_token_ids
from trainers.llara.stop_words import STOP_WORDS

FAMILIES = ("llama", "gemma", "gpt2", "opt")
ROWS = PASSAGES[:7]


def make_model(family="llama", **settings):
    return LlaraForPreTraining.from_backbone(tiny_backbone(family), tiny_tokenizer(), **settings)


def make_trainer(folder, evaluation=ROWS, family="llama", **settings):
    args = arguments(LlaraTrainingArguments, folder, **{"max_length": 128, "precision_k": 60, **settings})
    return LlaraTrainer(make_model(family), args, PASSAGES, evaluation)


@torch.no_grad()
def words_of(model, input_ids, name):
    """(V,) logits of a single row, the plain way: from the logits of all its positions."""
    logits = model(torch.tensor([input_ids]), output_logits=True).logits[0]
    positions = [input_ids.index(token) for token in prompt_token_ids(model)[name]]
    return logits[positions].amax(0)


def plain_precision(trainer, k):
    """Row by row, with sorting and sets."""
    means = {}
    examples = [trainer.eval_dataset[i] for i in range(len(trainer.eval_dataset))]
    for name in PROMPTS:
        shares = []
        for example in examples:
            if target := set(example[f"output_{name}_ids"]):
                order = words_of(trainer.model, example["input_ids"], name).argsort(descending=True).tolist()
                ignored = trainer.model.config.ignored_target_ids
                likeliest = [token for token in order if token not in ignored][:k]
                shares.append(len(target.intersection(likeliest)) / k)
        means[f"eval_{name}_precision@{k}"] = sum(shares) / len(shares)
    return means


def test_precision_closed_form():
    words = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [5, -torch.inf, 4, 3, 2]])
    targets = torch.tensor([[0, 1, 4], [0, 0, -100], [-100, -100, -100], [2, 1, -100]])
    assert precision_at_k(words, targets, 2).tolist() == [1.0, 0.0, 0.0, 0.5]
    torch.testing.assert_close(precision_at_k(words, targets, 5), torch.tensor([0.6, 0.2, 0.0, 0.4]))
    for k in (0, 6):
        with pytest.raises(ValueError, match=f"k={k} must be from 1 to 5"):
            precision_at_k(words, targets, k)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [3, 7])
def test_evaluation_gives_the_plain_precision(tmp_path, family, batch_size):
    """Rows of unequal lengths, some without a predict target, in batches of unequal size."""
    trainer = make_trainer(tmp_path, family=family, per_device_eval_batch_size=batch_size)
    expected, metrics = plain_precision(trainer, 60), trainer.evaluate()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert min(expected.values()) > 0 and len(set(expected.values())) == 2
    assert set(expected) == {name for name in metrics if "precision" in name}


@pytest.mark.slow
def test_it_rises_with_training_and_leaves_training_as_it_is(tmp_path):
    settings = {"max_steps": 12, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    settings |= {"evaluation": PASSAGES, "precision_k": 4}
    alone = make_trainer(tmp_path / "alone", **settings)
    alone.train()
    probed = make_trainer(tmp_path / "probed", eval_strategy="steps", eval_steps=6, **settings)
    before = probed.evaluate()
    probed.train()
    assert_same_weights(weights(probed.model), weights(alone.model), 0.0)
    for name in PROMPTS:
        values = logged(probed, f"eval_{name}_precision@4")
        assert len(values) == 2 and values[-1] > before[f"eval_{name}_precision@4"] + 0.2
        assert values[-1] == pytest.approx(plain_precision(probed, 4)[f"eval_{name}_precision@4"], abs=1e-6)


def test_a_prompt_without_targets_has_no_precision(tmp_path):
    rows = [{"text": sentence} for sentence in SENTENCES]
    metrics = make_trainer(tmp_path, evaluation={"text": rows}).evaluate()
    assert 0 < metrics["eval_text_summarize_precision@60"] <= 1
    assert "eval_text_predict_precision@60" not in metrics


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_explain_prints_what_the_logits_say(family, side):
    model = make_model(family, num_summary_tokens=3, num_predict_tokens=5)
    tokenizer = model.tokenizer
    tokenizer.padding_side = side
    vocabulary = len(tokenizer)
    explanations = explain(model, SENTENCES[:3], k=vocabulary, batch_size=2)
    for text, explanation in zip(SENTENCES, explanations, strict=False):
        row = build_row(model.config, tokenizer(text, add_special_tokens=False)["input_ids"])["input_ids"]
        for name in PROMPTS:
            probabilities = words_of(model, row, name).softmax(-1)
            decoded = {token: tokenizer.decode([token]) for token in range(vocabulary)}
            left_out = {*tokenizer.all_special_ids, *prompt_token_ids(model)[name], *model.config.ignored_target_ids}
            kept = [i for i in range(vocabulary) if decoded[i].strip() and "\ufffd" not in decoded[i]]
            kept = [i for i in kept if i not in left_out]
            assert len(kept) > 200
            found = explanation[name]
            assert sorted(word for word, _ in found) == sorted(decoded[token] for token in kept)
            expected = sorted(probabilities[kept].tolist(), reverse=True)
            assert [probability for _, probability in found] == pytest.approx(expected, abs=1e-6)
            best = max(kept, key=lambda token: probabilities[token])
            assert found[0][0] == decoded[best]


def test_explain_leaves_out_stop_words_and_cuts_long_texts():
    model = make_model().train()
    words = explain(model, ["the lantern"], k=1000)[0]["summarize"]
    kept = explain(model, ["the lantern"], k=1000, stop_words=STOP_WORDS)[0]["summarize"]
    assert {" the", ".", " it"} <= {word for word, _ in words} - {word for word, _ in kept}
    assert [pair for pair in words if pair in kept] == kept and len(kept) > 100
    assert model.training
    room = 100
    text = "candle hammer " * 100
    assert explain(model, [text], max_length=room) == explain(model, [text * 2], max_length=room)
    assert len(explain(model, [text])[0]["predict"]) == 8
    assert explain(model, []) == []


def test_a_prompt_that_the_model_lacks_is_not_explained():
    full = make_model()
    config = full.config
    model = LlaraForPreTraining.from_backbone(
        full.backbone, full.tokenizer, summarize_prompt_ids=config.summarize_prompt_ids, predict_prompt_ids=[],
        ignored_target_ids=config.ignored_target_ids, prefix_ids=config.prefix_ids,
    )  # fmt: skip
    assert list(explain(model, ["the lantern"])[0]) == ["summarize"]


def test_bad_input():
    model = make_model()
    with pytest.raises(TypeError, match="LlamaForCausalLM; pass a LlaraForPreTraining"):
        explain(tiny_backbone(), ["a"])
    with pytest.raises(ValueError, match=r"Text 1 .* is ' '"):
        explain(model, ["a", " "])
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        explain(model, ["a"], k=0)
    with pytest.raises(ValueError, match="max_length=5, but prefix and prompts take"):
        explain(model, ["a"], max_length=5)


def test_command(tmp_path, capsys):
    model = make_model()
    model.save_pretrained(tmp_path / "m")
    texts = [SENTENCES[0], "word " * 50]
    command.main([*texts, "--model", str(tmp_path / "m"), "--top_k", "3", "--stop_words", "english"])
    printed = capsys.readouterr().out
    explanations = explain(model, texts, 3, STOP_WORDS)
    expected = "\n".join(map(command.format_explanation, texts, explanations))
    assert printed.strip() == expected
    lines = printed.splitlines()
    assert len(lines) == 2 * (1 + 2 * 4) and lines[0] == SENTENCES[0] and lines[9].endswith(" ...")
    word, probability = explanations[0]["summarize"][0]
    assert lines[1:3] == ["  summarize", f"    {probability:8.5f}  {word!r}"]
    command.main(["--model", str(tmp_path / "m"), "--top_k", "3", SENTENCES[0]])
    plain = capsys.readouterr().out
    assert plain.startswith(SENTENCES[0])
    adapted = LlaraForPreTraining.from_pretrained(tmp_path / "m")
    add_adapter(adapted, LoraConfig(r=4, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    command.main(["--model", str(tmp_path / "adapter"), "--top_k", "3", SENTENCES[0]])
    printed = capsys.readouterr().out
    [expected] = explain(adapted, SENTENCES[:1], 3)
    assert printed.strip() == command.format_explanation(SENTENCES[0], expected) != plain.strip()


def test_command_names_what_is_wrong(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=r"is of type 'llama'.*lookback pretrain"):
        command.main(["text", "--model", str(tmp_path / "lm")])
    with pytest.raises(ValueError, match="no folder or Hub repo"):
        command.main(["text", "--model", str(tmp_path / "nothing")])
    with pytest.raises(ValueError, match="must be one or more"):
        command.main(["--model", str(tmp_path / "lm")])


@pytest.mark.slow
def test_two_processes_give_the_precision_of_one(tmp_path):
    """Seven rows on two processes in batches of two: the last batch is filled up with rows that must not count."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = ROOT
    subprocess.run(
        [*command, "tests.trainers.llara.test_explain", str(tmp_path)], cwd=root, env=environment, check=True
    )
    together = torch.load(tmp_path / "metrics.pt")
    expected = plain_precision(make_trainer(tmp_path / "alone"), 60)
    assert {name: together[name] for name in expected} == pytest.approx(expected, abs=1e-6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    metrics = make_trainer(Path(sys.argv[1]) / "together", per_device_eval_batch_size=2).evaluate()
    if os.environ["RANK"] == "0":
        torch.save(metrics, Path(sys.argv[1]) / "metrics.pt")
        print(metrics)
