"""What from_backbone makes of a backbone, and that Trainer, PEFT, checkpointing and generation work on it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from modeling_llara import LlaraConfig, LlaraForPreTraining, build_row
from tests.support.tiny import DECODERS, random_ids, tiny_backbone, tiny_tokenizer


def adapted(family: str = "llama", **config) -> LlaraForPreTraining:
    return LlaraForPreTraining.from_backbone(tiny_backbone(family, **config), tiny_tokenizer())


def training_batch(model, rows: int = 2, length: int = 20) -> dict[str, torch.Tensor]:
    built = [build_row(model.config, (random_ids(length, seed=i) % 250 + 3).tolist()) for i in range(rows)]
    batch = {name: torch.tensor([row[name] for row in built]) for name in ("input_ids", "labels")}
    targets = {name: random_ids(rows, 6, seed=9) % 250 + 3 for name in ("output_summarize_ids", "output_predict_ids")}
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"]), **targets}


@pytest.mark.parametrize("family", [*DECODERS, "llama-tied"])
def test_new_rows_are_the_mean_of_the_old(family):
    tokenizer, tied = tiny_tokenizer(), {"tie_word_embeddings": True} if family == "llama-tied" else {}
    known = len(tokenizer)
    backbone = tiny_backbone(family.removesuffix("-tied"), vocab_size=known, **tied)
    before = backbone.get_input_embeddings().weight.detach().clone()
    model = LlaraForPreTraining.from_backbone(backbone, tokenizer)
    rows = model.get_input_embeddings().weight
    assert len(tokenizer) == known  # the caller's own tokenizer is left as it was
    assert model.config.text_config.vocab_size == len(rows) == len(model.tokenizer) == known + 16
    assert torch.equal(rows[:known], before)
    torch.testing.assert_close(rows[known:], before.mean(0).expand(16, -1), rtol=0, atol=1e-6)
    assert model.get_output_embeddings().weight.shape == rows.shape
    head_is_rows = model.get_output_embeddings().weight.data_ptr() == rows.data_ptr()
    assert head_is_rows == backbone.config.tie_word_embeddings


def test_backbone_weights_and_spare_rows_are_kept():
    backbone = tiny_backbone()
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    model = LlaraForPreTraining.from_backbone(backbone, tiny_tokenizer())
    assert model.get_input_embeddings().weight.shape[0] == 512  # more rows than tokens already: nothing grows
    known = len(tiny_tokenizer())
    for name, weight in model.backbone.state_dict().items():
        same = slice(0, known) if before[name].shape[0] == 512 else slice(None)
        assert torch.equal(weight[same], before[name][same]), name


def test_prompts_are_those_of_the_paper():
    model = adapted()
    decode = model.tokenizer.decode
    row = build_row(model.config, model.tokenizer("the copper lantern")["input_ids"])
    names = {name: "".join(f"<|{name}_{i}|>" for i in range(1, 9)) for name in ("summarize", "predict")}
    assert decode(row["input_ids"]) == (
        f'"the copper lantern", summarize the above passage within eight words: {names["summarize"]}'
        f'", predict the following passage within eight words: {names["predict"]}'
    )
    special = {*model.tokenizer.all_special_ids, *model.config.summarize_token_ids, *model.config.predict_token_ids}
    assert set(model.config.ignored_target_ids) == special
    keywords = model.to_biencoder()
    assert (keywords["pooling"], keywords["pooling_k"], keywords["temperature"]) == ("mean_last_k", 8, 0.01)
    prompts = keywords["prompts"]["default"]
    for role, ids in (("query", model.config.predict_prompt_ids), ("passage", model.config.summarize_prompt_ids)):
        assert model.tokenizer(prompts[role])["input_ids"] == model.config.prefix_ids
        assert model.tokenizer(prompts[f"{role}_suffix"], add_special_tokens=False)["input_ids"] == ids


def test_prefix_keeps_bos_and_drops_eos():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tokenizer)
    assert model.config.prefix_ids == [0, *tokenizer('"', add_special_tokens=False)["input_ids"]]


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", DECODERS)
def test_generate_is_the_backbones_and_the_saved_backbone_is_plain(family, tmp_path):
    model = adapted(family)
    ids = random_ids(2, 6)
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False}
    model.save_backbone(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(plain) is type(model.backbone)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert len(tokenizer) == len(model.tokenizer)
    assert torch.equal(model.generate(ids, **settings), plain.generate(ids, **settings))
    again = LlaraForPreTraining.from_backbone(tmp_path, tokenizer)  # its special tokens are found, not added twice
    assert again.config.predict_prompt_ids == model.config.predict_prompt_ids
    batch = training_batch(model)
    torch.testing.assert_close(again(**batch).loss, model.eval()(**batch).loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_changes_nothing(family):
    model = adapted(family).train()
    batch = training_batch(model)
    gradients = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
            assert any(vars(module).get("gradient_checkpointing") for module in model.backbone.modules())
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append(model.get_input_embeddings().weight.grad.clone())
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", "FEATURE_EXTRACTION"])
def test_lora_trains_and_merges(task_type, tmp_path):
    model = adapted()
    batch = training_batch(model)
    lora = LoraConfig(task_type=task_type, r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = get_peft_model(model, lora).eval()
    loss = wrapped(**batch).loss
    loss.backward()
    moving = [name for name, weight in wrapped.named_parameters() if weight.grad is not None]
    assert moving
    assert all("lora_" in name for name in moving)
    with pytest.raises(ValueError, match="merge them first"):
        model.save_backbone(tmp_path)
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(merged(**batch).loss, loss, rtol=1e-5, atol=0)
    merged.save_backbone(tmp_path)


def test_added_adapter_is_saved_alone(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path / "base")
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    batch = training_batch(model)
    wanted = model.eval()(**batch).loss
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = LlaraForPreTraining.from_pretrained(tmp_path / "base")
    assert abs(again(**batch).loss - wanted) > 1e-4
    again.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(again.eval()(**batch).loss, wanted, rtol=1e-6, atol=0)


@pytest.mark.slow
def test_trainer_accumulates_evaluates_and_resumes(tmp_path):
    """Two steps of one row weigh like one of two rows (equal label counts), which accepts_loss_kwargs decides."""
    losses = {}
    for size, accumulation in ((2, 1), (1, 2)):
        model = adapted()
        batch = training_batch(model)
        rows = [{name: values[i] for name, values in batch.items()} for i in range(2)]
        arguments = TrainingArguments(
            str(tmp_path / str(size)), per_device_train_batch_size=size, gradient_accumulation_steps=accumulation,
            max_steps=3, learning_rate=1e-3, logging_steps=1, save_steps=2, use_cpu=True, report_to="none",
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=model.tokenizer)
        trainer.train()
        losses[size] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[size][-1] < losses[size][0]
        assert trainer.evaluate()["eval_loss"] < losses[size][0]
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)
    final = trainer.model.get_input_embeddings().weight.detach().clone()
    resumed = Trainer(adapted(), arguments, train_dataset=rows)
    resumed.train(resume_from_checkpoint=str(tmp_path / "1" / "checkpoint-2"))
    torch.testing.assert_close(resumed.model.get_input_embeddings().weight, final, rtol=0, atol=1e-6)


def test_configuring_a_loaded_backbone_leaves_its_attention():
    backbone = tiny_backbone(attn_implementation="eager")
    LlaraConfig(text_config=backbone.config)
    assert backbone.config._attn_implementation == "eager"


def test_resize_keeps_both_configs_in_step():
    model = adapted()
    model.resize_token_embeddings(600)
    assert model.config.text_config.vocab_size == model.backbone.config.vocab_size == 600
    model(torch.tensor([[599, 3]]), output_logits=True)


def test_a_tokenizer_without_the_prompts_tokens_is_refused(tmp_path):
    model = adapted()
    with pytest.raises(
        ValueError, match=r"ends the summarize prompt with the ids .* take the tokenizer that is saved"
    ):
        model.tokenizer = tiny_tokenizer()
    swapped = tiny_tokenizer()  # the same tokens, the two prompts' the other way round
    names = [f"<|{name}_{i}|>" for name in ("predict", "summarize") for i in range(1, 9)]
    swapped.add_tokens(names, special_tokens=True)
    with pytest.raises(ValueError, match="ends the summarize prompt"):
        model.tokenizer = swapped
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ends the summarize prompt"):
        _ = LlaraForPreTraining.from_pretrained(tmp_path).tokenizer
    longer = adapted().tokenizer
    longer.add_tokens(["<|turn|>"])
    model.tokenizer = longer  # more words are no fault


def test_a_count_alone_does_not_redefine_a_saved_prompt(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"num_summary_tokens=4 would redefine a prompt .* num_summary_tokens=8"):
        LlaraForPreTraining.from_pretrained(tmp_path, num_summary_tokens=4, num_predict_tokens=4)
    with pytest.raises(ValueError, match=r"predict_prompt='x' would redefine"):
        LlaraForPreTraining.from_pretrained(tmp_path, predict_prompt="x")
    same = {"num_summary_tokens": 8, "num_predict_tokens": 8, "bow_loss_weight": 0.5}
    assert LlaraForPreTraining.from_pretrained(tmp_path, **same).config.bow_loss_weight == 0.5
    ids = model.config.predict_prompt_ids
    other = {"num_predict_tokens": 4, "predict_prompt_ids": ids[:-8] + ids[-4:], "predict_prompt": None}
    assert LlaraForPreTraining.from_pretrained(tmp_path, **other).config.predict_token_ids == ids[-4:]


def test_a_model_of_ours_is_no_backbone(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    for backbone in (model, tmp_path, str(tmp_path)):
        with pytest.raises(
            ValueError, match=r"'lookback_llara', no plain causal LM: load it with LlaraForPreTraining"
        ):
            LlaraForPreTraining.from_backbone(backbone, model.tokenizer)


def test_prompts_of_ids_alone_take_any_tokenizer():
    prompts = {"summarize_prompt_ids": [500], "predict_prompt_ids": [501]}
    counts = {"num_summary_tokens": 1, "num_predict_tokens": 1}
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer(), **prompts, **counts)
    assert isinstance(model.tokenizer, PreTrainedTokenizerFast)
