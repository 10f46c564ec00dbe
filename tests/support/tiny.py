"""Tiny random models of every backbone family, and a tokenizer for them: built on the spot, no network."""

from functools import lru_cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers import trainers as bpe_trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY_SIZE = 512
TEXT = (
    "The library reads long documents and looks back at what came before. A query finds the passage that answers it. "
    "Speaker 1: where did we leave the copper lantern? Speaker 2: on the island, next to the candle and the hammer. "
)
_ROPE_SIZES = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
}  # fmt: skip
_SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
# Family -> (config class, sizes). GPT-2 and OPT have absolute positions; BERT is an encoder without an LM head.
FAMILIES = {
    "llama": ("LlamaConfig", _ROPE_SIZES),
    "qwen": ("Qwen2Config", _ROPE_SIZES),
    "mistral": ("MistralConfig", {**_ROPE_SIZES, "sliding_window": None}),
    "gemma": ("GemmaConfig", {**_ROPE_SIZES, "head_dim": 8}),
    "gpt2": ("GPT2Config", {"vocab_size": VOCABULARY_SIZE, "n_embd": 32, "n_layer": 2, "n_head": 4,
                            "n_positions": 2048, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "opt": ("OPTConfig", {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
                          "num_attention_heads": 4, "word_embed_proj_dim": 32, "max_position_embeddings": 2048,
                          "dropout": 0.0}),
    "bert": ("BertConfig", {"vocab_size": VOCABULARY_SIZE, "hidden_size": 32, "intermediate_size": 64,
                            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 2048,
                            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
}  # fmt: skip
DECODERS = tuple(family for family in FAMILIES if family != "bert")


def tiny_backbone(family: str = "llama", seed: int = 0, lm_head: bool = True, **config: object) -> PreTrainedModel:
    """A random float32 model in eval mode: with `lm_head` the causal LM, without it the base model."""
    name, sizes = FAMILIES[family]
    settings = getattr(transformers, name)(**{**sizes, **_SPECIAL_IDS, "initializer_range": 0.2, **config})
    torch.default_generator.manual_seed(seed)  # those of other devices would note where they were called
    auto_class = transformers.AutoModelForCausalLM if lm_head else transformers.AutoModel
    return auto_class.from_config(settings).eval()


@lru_cache
def _trained_tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = bpe_trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer.to_str()


def tiny_tokenizer(padding_side: str = "left") -> PreTrainedTokenizerFast:
    """Byte-level BPE with `<s>`, `</s>` and `<pad>` at 0, 1 and 2; it adds no special tokens by itself."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side=padding_side,
    )  # fmt: skip


def with_special_tokens(template: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    """`tiny_tokenizer` as those are that put special tokens around each text by themselves, BOS as Llama's does."""
    tokenizer = tiny_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    assert tokenizer("the")["input_ids"] != tiny_tokenizer()("the")["input_ids"]
    return tokenizer


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Token ids without special tokens."""
    return torch.randint(3, VOCABULARY_SIZE, shape, generator=torch.Generator().manual_seed(seed))
