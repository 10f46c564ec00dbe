"""Tiny random models in the shape of published retrievers, in folders with the files that those have."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
)

from tests.support.tiny import tiny_backbone, tiny_tokenizer

_LETTERS = [chr(code) for code in range(33, 127)]
_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


def wordpiece() -> PreTrainedTokenizerFast:
    """A tokenizer as BERT has it: [CLS] text [SEP], padded on the right."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        padding_side="right",
    )  # fmt: skip


def bpe(template: str, extra: tuple[str, ...] = (), **settings: Any) -> PreTrainedTokenizerFast:
    """The tiny decoder's tokenizer with tokens of its own, and the special tokens of `template` around a text."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(extra), special_tokens=True)
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in template.split() if token != "$A"]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=ids)
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


def decoder(kind: str, tokenizer: Any) -> PreTrainedModel:
    """A random base model of the family, with a row for every token."""
    if kind not in ("qwen3", "gemma3_text"):
        return tiny_backbone(kind, lm_head=False, vocab_size=max(512, len(tokenizer)))
    config_class, model_class = {
        "qwen3": (Qwen3Config, Qwen3Model),
        "gemma3_text": (Gemma3TextConfig, Gemma3TextModel),
    }[kind]
    settings = {"use_bidirectional_attention": True, "sliding_window": 6} if kind == "gemma3_text" else {}
    torch.manual_seed(0)
    return model_class(config_class(vocab_size=max(512, len(tokenizer)), **_SIZES, **settings)).eval()


def saved(folder: Path, model: PreTrainedModel, tokenizer: Any) -> Path:
    """The folder, with both in it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentence_files(
    folder: Path, pooling: str, width: int, prompts: dict[str, str], dense: tuple[int, ...] = ()
) -> None:
    """What sentence-transformers writes beside a model, with dense layers of these widths."""
    names = [("", "Transformer"), ("1_Pooling", "Pooling")]
    files = {
        "1_Pooling/config.json": {"word_embedding_dimension": width, f"pooling_mode_{pooling}": True},
        "config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": None},
        "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": False},
    }
    for number, wide in enumerate(dense, start=2):
        from safetensors.torch import save_file

        place = f"{number}_Dense"
        names.append((place, "Dense"))
        files[f"{place}/config.json"] = {
            "in_features": width, "out_features": wide, "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }  # fmt: skip
        (folder / place).mkdir(parents=True)
        save_file({"linear.weight": torch.randn(wide, width)}, folder / place / "model.safetensors")
        width = wide
    names.append((f"{len(names)}_Normalize", "Normalize"))
    files["modules.json"] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(names)
    ]
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def lora(folder: Path, base: Path, auto_class: Any = AutoModel) -> PeftModel:
    """A random LoRA on the base in another folder, saved as peft saves it; and the model under it."""
    settings = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False,
        task_type="FEATURE_EXTRACTION",
    )  # fmt: skip
    torch.manual_seed(1)
    model = get_peft_model(auto_class.from_pretrained(base), settings)
    model.save_pretrained(folder)
    return model.eval()
