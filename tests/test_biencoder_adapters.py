"""Adapters of bi-encoders: saved, reloaded, continued, resumed, on every kind of base."""

from pathlib import Path

from modeling_llara import LlaraForPreTraining
from tests.tiny import tiny_backbone, tiny_tokenizer
from tests.trainers_support import PAIRS, arguments
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments


def test_a_llara_base_is_loaded_with_the_hub_keywords(tmp_path: Path) -> None:
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_pretrained(tmp_path / "repo" / "inner")
    args = arguments(BiEncoderTrainingArguments, tmp_path / "run")
    keywords = {"subfolder": "inner", "attn_implementation": "eager", "temperature": 0.5}
    model = BiEncoderTrainer(str(tmp_path / "repo"), args, PAIRS, model_kwargs=keywords).model
    assert (model.config.pooling, model.config.temperature) == ("mean_last_k", 0.5)
    assert model.backbone.config._attn_implementation == "eager"
