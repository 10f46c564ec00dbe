"""Generation with retrieval as one would write it around a backbone's own `generate`: for each chunk of new tokens
assemble [values | window] and generate a chunk."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .shapes import TextHash


class PlainGenerator:
    """Greedy generation, one chunk at a time; each chunk's input is read anew.

    Chunks are counted on a grid that ends where the prompt ends. New tokens come in blocks of `target` tokens; a block
    has one window, the W tokens before the block's end, and its keys are the chunks before that window whose
    continuation is before it as well.
    """

    name = "generate() chunk by chunk"

    def __init__(
        self,
        backbone: Any,  # a PreTrainedModel with GenerationMixin, which no type in transformers says
        tokenizer: PreTrainedTokenizerBase,
        window: int,
        chunk: int,
        keys: int,
        target: int,
    ):
        self.backbone, self.tokenizer, self.encoder = backbone, tokenizer, TextHash()
        self.window, self.chunk, self.keys, self.target = window, chunk, keys, target

    def generate(self, prompt: torch.Tensor, new_tokens: int) -> torch.Tensor:
        """(length + new_tokens,) from a prompt (length,); the length is a multiple of the chunk."""
        document, encoded = prompt, self._encode(prompt)
        for made in range(0, new_tokens, self.chunk):
            block_end = len(prompt) + (made // self.target + 1) * self.target
            num_keys = max((block_end - self.window) // self.chunk - 1, 0)
            if num_keys > len(encoded):
                encoded = torch.cat([encoded, self._encode(document[len(encoded) * self.chunk :])])
            values = self._values(document, encoded[:num_keys])
            input_ids = torch.cat([*values, document[max(block_end - self.window, 0) :]])
            new = self._continue(input_ids, min(self.chunk, new_tokens - made))
            document = torch.cat([document, new])
        return document

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(tokens.view(-1, self.chunk), skip_special_tokens=True)
        return self.encoder.encode(texts)

    def _values(self, document: torch.Tensor, keys: torch.Tensor) -> list[torch.Tensor]:
        query = self._encode(document[-self.chunk :])[0]
        best = (keys @ query).topk(min(self.keys, len(keys))).indices.sort().values.tolist()
        return [document[key * self.chunk : (key + 2) * self.chunk] for key in best]

    def _continue(self, input_ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
        batch = input_ids[None]
        mask = torch.ones_like(batch)
        found = self.backbone.generate(batch, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
        return found[0, len(input_ids) :]
