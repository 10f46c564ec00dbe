"""An adapter that a Trainer saved loads by every way that its card names: `load_adapted`, merge, the commands."""

import json

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support.srlm import PROMPTS
from tests.support.tiny import TEXT, random_ids, tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, SENTENCES, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    SelfRetrievalTrainer,
    SelfRetrievalTrainingArguments,
    add_adapter,
    load_adapted,
    merge_adapter,
)
from trainers.commands import generate, merge, perplexity
from trainers.models.load import load_srlm

SIZES = {"context_window_size": 32, "chunk_size": 8, "key_num": 1, "target_size": 16}
IDS = random_ids(1, 80)


def trained(folder, **settings):
    """A self-retrieval LM on the plain LM in folder/lm, its LoRA trained and saved in folder/run."""
    tiny_backbone().save_pretrained(folder / "lm")
    tiny_tokenizer().save_pretrained(folder / "lm")
    args = arguments(
        SelfRetrievalTrainingArguments, folder / "run", document_length=48, target_size=16, max_steps=2,
        learning_rate=0.05,
    )  # fmt: skip
    trainer = SelfRetrievalTrainer(
        str(folder / "lm"), args, [{"text": TEXT}], peft_config=LoraConfig(r=4), model_kwargs={**SIZES, **settings}
    )
    trainer.train()
    trainer.save_model()
    return trainer.model.eval()


def loss(model):
    with torch.no_grad():
        return model.eval()(IDS, labels=IDS).loss


@pytest.mark.slow
def test_an_adapter_on_a_plain_lm_loads_and_merges(tmp_path, capsys):
    model = trained(tmp_path, key_num=2, bm25_k1=1.25)
    expected = loss(model)
    plain = SelfRetrievalLM.from_components(
        str(tmp_path / "lm"), retrieval_method="bm25", **{**SIZES, "key_num": 2, "bm25_k1": 1.25}
    )
    assert (loss(plain) - expected).abs() > 1e-3
    merge.main(["--model", str(tmp_path / "run"), "--output", str(tmp_path / "merged")])
    for loaded in (
        load_adapted(tmp_path / "run"),
        load_adapted(tmp_path / "run", tmp_path / "lm", dtype=torch.float32),
        load_srlm(str(tmp_path / "run"), {}),
        SelfRetrievalLM.from_pretrained(tmp_path / "merged"),
    ):
        torch.testing.assert_close(loss(loaded), expected, rtol=0, atol=1e-5)
        assert (loaded.config.key_num, loaded.config.bm25_k1) == (2, 1.25)


@pytest.mark.slow
def test_the_commands_take_an_adapter_on_a_plain_lm(tmp_path, capsys):
    trained(tmp_path)
    merge.main(["--model", str(tmp_path / "run"), "--output", str(tmp_path / "merged")])
    (tmp_path / "text.txt").write_text(TEXT * 4)
    printed = []
    for name in ("run", "merged"):
        capsys.readouterr()
        model = ["--model", str(tmp_path / name)]
        generate.main([*model, "--prompt", TEXT, "--max_new_tokens", "8"])
        perplexity.main([*model, "--data", str(tmp_path / "text.txt")])
        printed.append(capsys.readouterr().out.replace(str(tmp_path / name), ""))
    assert printed[0] == printed[1] and printed[0]


@pytest.mark.slow
def test_a_nested_retriever_is_given_with_the_plain_lm(tmp_path):
    encoder = BiEncoderModel.from_backbone(
        tiny_backbone(seed=1, lm_head=False), tiny_tokenizer(), pooling="mean", prompts=PROMPTS
    )
    encoder.save_pretrained(tmp_path / "retriever")
    retriever = str(tmp_path / "retriever")
    expected = loss(trained(tmp_path, retrieval_method="dense", retriever=retriever))
    with pytest.raises(ValueError, match="without its retriever: give the retriever as well"):
        load_adapted(tmp_path / "run")
    for loaded in (
        load_adapted(tmp_path / "run", retriever=retriever),
        load_srlm(str(tmp_path / "run"), {}, retriever=retriever),
    ):
        torch.testing.assert_close(loss(loaded), expected, rtol=0, atol=1e-6)
    halved = load_adapted(tmp_path / "run", retriever=retriever, dtype=torch.bfloat16)
    assert (halved.language_model.dtype, halved.retriever.backbone.dtype) == (torch.bfloat16, torch.bfloat16)
    other = BiEncoderModel.from_backbone(tiny_backbone(seed=1, lm_head=False), tiny_tokenizer(), pooling="last_token")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="that of the training had"):
        load_adapted(tmp_path / "run", retriever=str(tmp_path / "other"))


def named(folder, *names):
    tiny_backbone(lm_head=False).save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    model = BiEncoderModel.from_backbone(str(folder / "base"), temperature=0.1)
    for name in names:
        model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"]), name)
    args = arguments(
        BiEncoderTrainingArguments, folder / "run", train_group_size=3, max_steps=2, learning_rate=0.05,
        save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
    )  # fmt: skip
    return BiEncoderTrainer(model, args, PAIRS, PAIRS)


@pytest.mark.slow
def test_an_adapter_with_a_name_of_its_own_trains_resumes_and_loads(tmp_path):
    trainer = named(tmp_path, "mine")
    trainer.train()
    trainer.save_model()
    expected = trainer.model.eval().encode(SENTENCES)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    recorded = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert recorded["base_model_name_or_path"] == str(tmp_path / "base")
    torch.testing.assert_close(load_adapted(tmp_path / "run").encode(SENTENCES), expected, rtol=0, atol=1e-6)
    merge.main(["--model", str(tmp_path / "run"), "--output", str(tmp_path / "merged")])
    merged = BiEncoderModel.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged.encode(SENTENCES), expected, rtol=0, atol=1e-5)


def test_several_adapters_are_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match="the adapters 'mine', 'yours', and one is trained"):
        named(tmp_path, "mine", "yours")


@pytest.mark.cases(1)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_added_tokens_come_with_the_adapter_that_trained_them(tmp_path, tied, whole):
    tiny_backbone(tie_word_embeddings=tied).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    model = SelfRetrievalLM.from_components(str(tmp_path / "lm"), retrieval_method="bm25", **SIZES)
    model.resize_token_embeddings(515, mean_resizing=False)
    modules = {"modules_to_save": ["embed_tokens", "lm_head"]} if whole else {}
    add_adapter(model, LoraConfig(r=4, target_modules=["q_proj"], **modules), new_token_ids=[512, 513, 514])
    with torch.no_grad():
        for value in [one for one in model.parameters() if one.requires_grad]:
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    ids = torch.cat([IDS, torch.tensor([[512, 513, 514]])], dim=1)
    with torch.no_grad():
        expected = model.eval()(ids, labels=ids).loss
        model.save_pretrained(tmp_path / "run")
        loaded = load_adapted(tmp_path / "run")
        torch.testing.assert_close(loaded(ids, labels=ids).loss, expected, rtol=0, atol=1e-6)
        merge_adapter(loaded).save_pretrained(tmp_path / "merged")
        merged = SelfRetrievalLM.from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(merged(ids, labels=ids).loss, expected, rtol=0, atol=1e-5)


def test_added_tokens_without_their_rows_are_refused(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    model = SelfRetrievalLM.from_components(str(tmp_path / "lm"), retrieval_method="bm25", **SIZES)
    model.resize_token_embeddings(515, mean_resizing=False)
    add_adapter(model, LoraConfig(r=4), new_token_ids=[512, 513])
    model.save_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="vocab_size is 512 there and was 515"):
        load_adapted(tmp_path / "run")
