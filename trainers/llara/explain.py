"""The words that a LLaRA embedding stands for."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from modeling_llara import LlaraForPreTraining, build_row

from ..data.padding import pad_id, pad_texts
from .probe import prompt_token_ids, word_logits
from .stop_words import is_stop_word

# Prompt -> its likeliest words with their probabilities.
Explanation = dict[str, list[tuple[str, float]]]


@torch.no_grad()
def explain(
    model: LlaraForPreTraining,
    texts: Sequence[str],
    k: int = 8,
    stop_words: frozenset[str] = frozenset(),
    max_length: int | None = None,
    batch_size: int = 8,
) -> list[Explanation]:
    """The k likeliest words at the `summarize` and the `predict` prompt behind each text, likeliest first.

    A word is a token, decoded; its probability is the softmax, over the whole vocabulary, of its highest logit at one
    of the prompt's special tokens, as in the bag-of-words loss. Left out are the tokenizer's special tokens and those
    of the prompts, white space, parts of characters, and with `stop_words` these and whatever has no letter or digit.

    Args:
        max_length: tokens of a text with both prompts, cut to fit; default: as many as the model has positions for.

    Raises:
        TypeError, ValueError: for another model, a text that is blank or no text, a k under 1.
    """
    if not isinstance(model, LlaraForPreTraining):
        raise TypeError(f"model is a {type(model).__name__}; pass a LlaraForPreTraining.")
    if k < 1:
        raise ValueError(f"k={k} words; it must be 1 or more.")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"Text {number} (the first is 0) is {text!r}; it must be a text that is not blank.")
    max_length = max_length or model.config.text_config.max_position_embeddings
    starts = range(0, len(texts), batch_size)
    training = model.training
    model.eval()
    try:
        return [
            explanation
            for start in tqdm(starts, desc="Explaining", unit="batch", disable=len(starts) < 2)
            for explanation in _explain_batch(model, texts[start : start + batch_size], k, stop_words, max_length)
        ]
    finally:
        model.train(training)


def _explain_batch(
    model: LlaraForPreTraining, texts: Sequence[str], k: int, stop_words: frozenset[str], max_length: int
) -> list[Explanation]:
    tokenizer = model.tokenizer
    passages = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    rows = [build_row(model.config, ids, max_length)["input_ids"] for ids in passages]
    batch = pad_texts(rows, pad_id(tokenizer), tokenizer.padding_side)
    batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
    states = model(**batch, output_hidden_states=True).hidden_states[-1]
    explanations: list[Explanation] = [{} for _ in texts]
    for name, token_ids in prompt_token_ids(model).items():
        if token_ids:
            probabilities = word_logits(model, states, batch["input_ids"], token_ids).softmax(-1).cpu()
            for explanation, row in zip(explanations, probabilities, strict=True):
                explanation[name] = list(islice(_words(model, tokenizer, row, stop_words), k))
    return explanations


def _words(
    model: LlaraForPreTraining, tokenizer: PreTrainedTokenizerBase, probabilities: torch.Tensor, stop_words: frozenset
) -> Iterator[tuple[str, float]]:
    left_out = {*model.config.ignored_target_ids, *tokenizer.all_special_ids}
    for token in probabilities.argsort(descending=True, stable=True).tolist():
        word = str(tokenizer.decode([token]))  # for types: a list of texts for a list of rows alone
        if token in left_out or not word.strip() or "\ufffd" in word:
            continue
        if stop_words and (is_stop_word(word.strip(), stop_words) or not any(map(str.isalnum, word))):
            continue
        yield word, probabilities[token].item()
