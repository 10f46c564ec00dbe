"""Adapters of bi-encoders: every kind, on several backbones; saved, reloaded, continued, merged, quantised."""

import json
import math
import sys
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from transformers import AutoModel, BitsAndBytesConfig

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support import quick_first
from tests.support.decoders import backbone as other_backbone
from tests.support.loopback_hub.fixtures import read
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, SENTENCES, arguments, assert_same_weights, logged, weights
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    add_adapter,
    load_adapted,
    load_adapter,
    merge_adapter,
)
from trainers.commands.lora import LoraArguments
from trainers.demo.fresh_process import run_without_lookback

LAYERS = ["q_proj", "v_proj", "down_proj"]
KINDS = {
    "lora": LoraConfig(r=4),
    "dora": LoraConfig(r=4, use_dora=True),
    "rslora": LoraConfig(r=4, use_rslora=True),
    "token rows": LoraConfig(r=4, trainable_token_indices=[5, 6]),
    "whole norm": LoraConfig(r=4, target_modules=LAYERS, modules_to_save=["norm"]),
    "ia3": peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": peft.LoHaConfig(r=4, target_modules=LAYERS),
    "lokr": peft.LoKrConfig(r=4, target_modules=LAYERS),
    "oft": peft.OFTConfig(oft_block_size=4, target_modules=LAYERS),
    "boft": peft.BOFTConfig(boft_block_size=4, target_modules=LAYERS),
    "hra": peft.HRAConfig(r=4, target_modules=LAYERS),
    "fourierft": peft.FourierFTConfig(n_frequency=10, target_modules=LAYERS),
    "layer norm": peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "tokens": peft.TrainableTokensConfig(token_indices=list(range(3, 512)), target_modules=["embed_tokens"]),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A plain backbone's folder."""
    tiny_backbone().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


def model(family: str = "llama", **config) -> BiEncoderModel:
    known = family in ("llama", "gpt2", "bert", "mistral")
    backbone = tiny_backbone(family, lm_head=False) if known else other_backbone(family)
    return BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), **config)


def disturb(adapted: BiEncoderModel) -> torch.Tensor:
    """Embeddings under adapter weights that are anything but their initial ones."""
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return adapted.encode(SENTENCES)


def trainer(source, folder: Path, peft_config=None, model_kwargs=None, **settings) -> BiEncoderTrainer:
    args = arguments(BiEncoderTrainingArguments, folder, train_group_size=2, **settings)
    return BiEncoderTrainer(source, args, PAIRS, PAIRS, peft_config=peft_config, model_kwargs=model_kwargs)


def assert_equal_embeddings(one: BiEncoderModel, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one.encode(SENTENCES), expected, rtol=0, atol=tolerance)


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_adapter_is_reloaded_wrapped_and_merged(tmp_path: Path, kind: str) -> None:
    adapted = model()
    plain = adapted.encode(SENTENCES)
    add_adapter(adapted, KINDS[kind])
    expected = disturb(adapted)
    assert (expected - plain).abs().max() > 1e-3
    adapted.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    reloaded = model()
    load_adapter(reloaded, tmp_path)
    assert_equal_embeddings(reloaded, expected, 1e-6)
    assert not any(parameter.requires_grad for parameter in reloaded.parameters())
    assert_equal_embeddings(PeftModel.from_pretrained(model(), str(tmp_path)).merge_and_unload(), expected)
    if kind == "dora":  # transformers reads its magnitudes under another name
        with pytest.raises(ValueError, match=r"lora_magnitude_vector.*PeftModel\.from_pretrained"):
            model().load_adapter(str(tmp_path))
    else:
        by_transformers = model()
        by_transformers.load_adapter(str(tmp_path))
        assert_equal_embeddings(by_transformers, expected, 1e-6)
    merged = merge_adapter(adapted)
    assert_equal_embeddings(merged, expected)
    assert weights(merged).keys() == weights(model()).keys()
    assert all(parameter.requires_grad for parameter in merged.parameters())


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["gpt2", "bert", "mistral", "qwen2", "qwen3"])
def test_other_backbones_reload_and_merge(tmp_path: Path, family: str) -> None:
    adapted = model(family)
    add_adapter(adapted, LoraConfig(r=4, modules_to_save=["ln_f"] if family == "gpt2" else None))
    expected = disturb(adapted)
    adapted.save_pretrained(tmp_path)
    reloaded = model(family)
    reloaded.load_adapter(str(tmp_path))
    assert_equal_embeddings(reloaded, expected, 1e-6)
    assert_equal_embeddings(merge_adapter(adapted), expected)


def test_trained_token_rows_merge_exactly() -> None:
    adapted, before = model(), model().get_input_embeddings().weight
    add_adapter(adapted, LoraConfig(r=4), new_token_ids=[5, 6])
    disturb(adapted)
    rows = adapted.get_input_embeddings().token_adapter.trainable_tokens_delta["default"].detach().clone()
    after = merge_adapter(adapted).get_input_embeddings().weight
    assert torch.equal(after[[5, 6]], rows) and not torch.equal(rows, before[[5, 6]])
    others = [token for token in range(len(before)) if token not in (5, 6)]
    assert torch.equal(after[others], before[others])


@pytest.mark.slow
@pytest.mark.parametrize("form", quick_first(["repo", "backbone", "llara"]))
def test_an_adapter_names_its_base_and_loads_by_its_folder_alone(tmp_path: Path, base: Path, form: str) -> None:
    if form == "repo":
        BiEncoderModel.from_backbone(base).save_pretrained(tmp_path / form)
    elif form == "llara":
        LlaraForPreTraining.from_backbone(base).save_pretrained(tmp_path / form)
    settings = {"pooling": "mean", "bidirectional": True, "prompts": {"default": {"query": "ask: "}}}
    trained = trainer(str(tmp_path / form), tmp_path / "run", LoraConfig(r=4), settings, save_strategy="steps")
    trained.train()
    trained.save_model()
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-4"):
        saved = json.loads((folder / "adapter_config.json").read_text())
        assert saved["base_model_name_or_path"] == str(tmp_path / form)
        expected = trained.model.encode(SENTENCES, role="query")
        loaded = load_adapted(folder)
        torch.testing.assert_close(loaded.encode(SENTENCES, role="query"), expected, rtol=0, atol=1e-6)
        assert loaded.config.bidirectional and not loaded.training
    assert load_adapted(folder, dtype=torch.bfloat16, temperature=0.5).config.temperature == 0.5


def test_the_commit_of_a_base_from_the_hub_is_recorded() -> None:
    adapted = model()
    adapted.config.text_config.name_or_path, adapted.config.text_config._commit_hash = "user/backbone", "abc123"
    add_adapter(adapted, LoraConfig(r=4))
    recorded = adapted.peft_config["default"]
    assert (recorded.base_model_name_or_path, recorded.revision) == ("user/backbone", "abc123")
    adapted = model()
    adapted.name_or_path, adapted.config._commit_hash = "user/repo", "def456"
    add_adapter(adapted, LoraConfig(r=4))
    recorded = adapted.peft_config["default"]
    assert (recorded.base_model_name_or_path, recorded.revision) == ("user/repo", "def456")


def test_push_sends_the_adapter_alone(hub, base: Path) -> None:
    adapted = BiEncoderModel.from_backbone(base)
    add_adapter(adapted, LoraConfig(r=4))
    adapted.push_to_hub("user/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json"} <= set(
        files := hub.repos["user/adapter"].files()
    )
    assert "model.safetensors" not in files
    assert "lookback" in ModelCard(read(hub, "README.md", "user/adapter")).data.tags


FRESH = """
import torch
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from transformers import AutoModel
base, adapter, texts = sys.argv[1], sys.argv[2], sys.argv[3:]
model = AutoModel.from_pretrained(base, trust_remote_code=True)
plain = model.encode(texts)
model.load_adapter(adapter)
wrapped = PeftModel.from_pretrained(AutoModel.from_pretrained(base, trust_remote_code=True), adapter)
by_name = AutoPeftModelForFeatureExtraction.from_pretrained(adapter, trust_remote_code=True)
torch.save([plain, model.encode(texts), wrapped.encode(texts), by_name.encode(texts)], adapter + ".pt")
"""


@pytest.mark.slow
def test_a_fresh_process_without_lookback_puts_the_adapter_on_its_base(tmp_path: Path, base: Path) -> None:
    BiEncoderModel.from_backbone(base, bidirectional=True, pooling="cls").save_pretrained(tmp_path / "repo")
    adapted = BiEncoderModel.from_pretrained(tmp_path / "repo")
    add_adapter(adapted, LoraConfig(r=4))
    expected = disturb(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "elsewhere").mkdir()
    run_without_lookback(FRESH, tmp_path / "repo", tmp_path / "adapter", *SENTENCES, folder=tmp_path / "elsewhere")
    plain, *adapted_ways = torch.load(tmp_path / "adapter.pt")
    assert (plain - expected).abs().max() > 1e-3
    for embeddings in adapted_ways:
        torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_training_goes_on_from_an_adapter(tmp_path: Path, base: Path) -> None:
    first = trainer(str(base), tmp_path / "first", LoraConfig(r=4), {"pooling": "mean"})
    first.train()
    first.save_model()
    continued = trainer(load_adapted(tmp_path / "first", is_trainable=True), tmp_path / "second")
    start = weights(continued.model)
    assert_same_weights(start, weights(first.model), 1e-7)
    continued.train()
    for name, parameter in continued.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name) == (not torch.equal(start[name], parameter)), name
    continued.save_model()
    reloaded = load_adapted(tmp_path / "second")  # still names the base, not the adapter it came from
    assert_equal_embeddings(reloaded, continued.model.encode(SENTENCES), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora", "token rows", "whole norm", "ia3", "loha"])
def test_interrupted_and_best_checkpoints_of_other_kinds(tmp_path: Path, kind: str) -> None:
    steps = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    worst = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    straight = trainer(model(temperature=0.1), tmp_path, KINDS[kind], **steps)
    straight.train()
    resumed = trainer(model(temperature=0.1), tmp_path / "other", KINDS[kind])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same_weights(weights(resumed.model), weights(straight.model), 1e-5)
    best = trainer(model(temperature=0.1), tmp_path / "best", KINDS[kind], **steps, **worst)
    best.train()
    losses = [entry["eval_loss"] for entry in best.state.log_history if "eval_loss" in entry]
    assert losses[0] != losses[1]
    assert best.evaluate()["eval_loss"] == pytest.approx(max(losses), rel=1e-5)


def test_a_llara_base_is_loaded_with_the_hub_keywords(tmp_path: Path) -> None:
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_pretrained(tmp_path / "repo" / "inner")
    keywords = {"subfolder": "inner", "attn_implementation": "eager", "temperature": 0.5}
    loaded = trainer(str(tmp_path / "repo"), tmp_path / "run", model_kwargs=keywords).model
    assert (loaded.config.pooling, loaded.config.temperature) == ("mean_last_k", 0.5)
    assert loaded.backbone.config._attn_implementation == "eager"


def test_bad_input(tmp_path: Path, base: Path) -> None:
    adapted = model()
    adalora = peft.AdaLoraConfig(target_modules=LAYERS, total_step=10)
    for config in (adalora, peft.VeraConfig(target_modules=LAYERS), peft.PromptTuningConfig(num_virtual_tokens=4)):
        with pytest.raises(ValueError, match=f"A {type(config).__name__} cannot be an adapter here"):
            add_adapter(adapted, config)
    with pytest.raises(ValueError, match="no adapter to merge"):
        merge_adapter(adapted)
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        load_adapted(base)
    add_adapter(adapted, LoraConfig(r=4))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="does not name the model that it was trained on"):
        load_adapted(tmp_path / "adapter")
    tiny_backbone(num_hidden_layers=1).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ValueError, match="num_hidden_layers is 1 there and was 2"):
        load_adapted(tmp_path / "adapter", base=tmp_path / "shallow")
    shallow = BiEncoderModel.from_backbone(tmp_path / "shallow")
    with pytest.raises(ValueError, match="the model's adapter lacks"):
        load_adapter(shallow, tmp_path / "adapter")
    with pytest.raises(ValueError, match="does not fit"):
        BiEncoderModel.from_backbone(tmp_path / "shallow").load_adapter(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="has an adapter already"):
        load_adapter(adapted, tmp_path / "adapter")


def test_flags_make_the_configuration() -> None:
    config = LoraArguments(
        lora_rank=4, lora_dropout=0.1, use_rslora=True, use_dora=True, lora_modules_to_save=["norm"]
    ).peft_config()
    assert (config.r, config.lora_alpha, config.use_rslora, config.use_dora) == (4, 32, True, True)
    assert config.modules_to_save == ["norm"] and LoraArguments().peft_config() is None
    assert LoraArguments().loading_keywords() == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"lora_rank": 0}, "lora_rank=0 must be at least 1"),
        ({"adapter": "x", "lora_rank": 4}, "brings its own configuration"),
        ({"use_dora": True}, "give a lora_rank too"),
        ({"load_in_4bit": True}, "cannot train themselves"),
        ({"load_in_4bit": True, "load_in_8bit": True, "lora_rank": 4}, "choose one"),
        ({"load_in_4bit": True, "lora_rank": 4, "bnb_4bit_compute_dtype": "half"}, "must be one of bfloat16"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraArguments(**flags)


def test_quantisation_needs_cuda_and_bitsandbytes(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="load_in_8bit needs a CUDA device"):
        LoraArguments(load_in_8bit=True, lora_rank=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        LoraArguments(load_in_4bit=True, lora_rank=4)
    monkeypatch.setattr("trainers.commands.lora.check_quantization", lambda bits: None)
    config = LoraArguments(load_in_4bit=True, lora_rank=4, bnb_4bit_use_double_quant=True).loading_keywords()
    quantization = config["quantization_config"]
    assert (quantization.load_in_4bit, quantization.bnb_4bit_use_double_quant) == (True, True)
    assert quantization.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes needs CUDA")
@pytest.mark.parametrize("form", ["repo", "backbone"])
@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_trains_reloads_and_merges_into_the_whole_weights(tmp_path: Path, form: str, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    tiny_backbone(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    BiEncoderModel.from_backbone(tmp_path / "backbone").save_pretrained(tmp_path / "repo")
    quantized = {"quantization_config": BitsAndBytesConfig(**{f"load_in_{bits}bit": True})}
    trained = trainer(
        str(tmp_path / form), tmp_path / "run", LoraConfig(r=4), quantized, use_cpu=False, gradient_checkpointing=True
    )
    before = weights(trained.model)
    trained.train()
    losses = logged(trained, "loss")
    assert losses and all(map(math.isfinite, losses))
    moved = {name for name, value in trained.model.named_parameters() if not torch.equal(before[name], value)}
    assert moved and all("lora_" in name for name in moved)
    trained.save_model()
    with pytest.raises(ValueError, match="quantised"):
        merge_adapter(trained.model)
    again = load_adapted(tmp_path / "run", **quantized)
    assert_equal_embeddings(again, trained.model.encode(SENTENCES), 1e-2)
    whole = load_adapted(tmp_path / "run")
    expected = whole.encode(SENTENCES)
    assert_equal_embeddings(merge_adapter(whole), expected)
    assert isinstance(whole, type(AutoModel.from_pretrained(tmp_path / "repo")))
