"""Models, tokenizer, documents and encoder that the rows share: random, built on the spot, the same in every run."""

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PAD, FIRST_WORD = 0, 3  # ids below FIRST_WORD never stand in a document


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama, or with `encoder` of a BERT."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int = 32_000
    encoder: bool = False


SHAPES = {
    "quick": Shape(hidden=32, layers=2, intermediate=64, heads=2, key_value_heads=2, vocabulary=512),
    "small": Shape(hidden=256, layers=4, intermediate=688, heads=4, key_value_heads=4),
    "medium": Shape(hidden=512, layers=8, intermediate=1376, heads=8, key_value_heads=8),
    "minilm": Shape(
        hidden=384, layers=6, intermediate=1536, heads=12, key_value_heads=12, vocabulary=30_522, encoder=True
    ),
    "1b": Shape(hidden=2048, layers=16, intermediate=8192, heads=32, key_value_heads=8),
}


def random_backbone(size: str, device: torch.device) -> PreTrainedModel:
    """A random Llama in eval mode: bfloat16 on cuda, otherwise float32. It has no end token, so it never stops."""
    shape = SHAPES[size]
    if shape.encoder:
        raise ValueError(f"size={size!r} is an encoder, and this row needs a decoder: give one of the other sizes.")
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=16_384, bos_token_id=None, eos_token_id=None, pad_token_id=PAD,
        initializer_range=0.05,  # at the usual 0.02 a random model hardly minds its context, and keys would tie
    )  # fmt: skip
    return _random(AutoModelForCausalLM, config, device)


def random_text_backbone(size: str, device: torch.device) -> PreTrainedModel:
    """What a bi-encoder stands on, random: the same Llama, or a BERT without dropout."""
    shape = SHAPES[size]
    if not shape.encoder:
        return random_backbone(size, device)
    config = BertConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, pad_token_id=PAD, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    backbone = _random(AutoModel, config, device)
    for name, weight in backbone.named_parameters():
        if name.endswith("key.bias"):  # attention is blind to it: its gradient is rounding alone
            weight.requires_grad_(False)
    return backbone


def _random(kind: Any, config: PreTrainedConfig, device: torch.device) -> PreTrainedModel:
    torch.manual_seed(0)
    with torch.device(device):
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        return kind.from_config(config, dtype=dtype).eval()


def random_document(length: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    """(length,) token ids, frequencies by Zipf's law."""
    weights = 1 / torch.arange(1, vocabulary - FIRST_WORD + 1)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weights, length, replacement=True, generator=generator) + FIRST_WORD


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with a word for each id, for the sides that decode chunks to text."""
    words = {"<pad>": PAD, "<s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(FIRST_WORD, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", unk_token="<unk>", padding_side="left"
    )


class TextHash:
    """Stands in for a bi-encoder at no cost: a random unit vector for each text, always the same."""

    width = 64

    def encode(self, texts: list[str]) -> torch.Tensor:
        """(n, 64) float32 for n texts."""
        seeds = (torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts)
        vectors = torch.stack([torch.randn(self.width, generator=seed) for seed in seeds])
        return torch.nn.functional.normalize(vectors, dim=-1)
