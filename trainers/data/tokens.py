"""One question to tokenizers that the data loaders share."""

from transformers import PreTrainedTokenizerBase


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to fill up rows with: the pad token's, else the eos token's, else 0 (the mask says what is padding)."""
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
