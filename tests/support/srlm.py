"""What the tests of SelfRetrievalLM share: a retriever that counts, and a model with a bi-encoder as its retriever."""

import torch

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "target_size": 32}
PROMPTS = {"default": {"query": "ask: ", "passage": "text: ", "passage_suffix": " end", "query_suffix": "?"}}


class ByteCounter:
    """The stand-in retriever of the golden cases: byte counts modulo 64, L2-normalised."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        vectors = torch.zeros(len(texts), 64)
        for row, text in enumerate(texts):
            for byte in text.encode():
                vectors[row, byte % 64] += 1
        return torch.nn.functional.normalize(vectors, dim=-1)


def build(family: str = "llama", retriever: str = "llama", **backbone: object) -> SelfRetrievalLM:
    """`backbone`: settings of the language model's backbone."""
    encoder = BiEncoderModel.from_backbone(
        tiny_backbone(retriever, seed=1, lm_head=retriever != "bert"), tiny_tokenizer(),
        pooling="cls" if retriever == "bert" else "mean_last_k", prompts=PROMPTS,
    )  # fmt: skip
    return SelfRetrievalLM.from_components(tiny_backbone(family, **backbone), tiny_tokenizer(), encoder, **SETTINGS)
