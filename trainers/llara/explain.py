"""What a LLaRA embedding stands for: the likeliest words at the prompts' special tokens, and how many are right."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from hub_cards.travelling.checks import check_positive_int, shown
from modeling_biencoder.prompting_biencoder import text_list
from modeling_llara import LlaraForPreTraining, build_row
from modeling_llara.decoder_llara import scale_logits

from ..data.padding import pad_id, pad_texts
from .rows import passage_room
from .stop_words import is_stop_word

PROMPTS = ("summarize", "predict")
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
    check_positive_int("k", k, "give the number of words to name")
    check_positive_int("batch_size", batch_size, "give the texts that go through the model at once")
    if max_length is not None:
        check_positive_int("max_length", max_length, "give the tokens of a text with both prompts")
    if isinstance(stop_words, str) or not isinstance(stop_words, Collection):
        raise TypeError(f"stop_words={shown(stop_words)} must be a set of words: use load_stop_words.")
    texts, stop_words = text_list(texts), frozenset(stop_words)
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"Text {number} (the first is 0) is {text!r}; it must be a text that is not blank.")
    max_length = max_length or model.config.max_positions
    passage_room(model.config, max_length)
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


def prompt_token_ids(model: LlaraForPreTraining) -> dict[str, list[int]]:
    """{"summarize": ids, "predict": ids}: the special tokens of each prompt, none for a missing one."""
    return {"summarize": model.config.summarize_token_ids, "predict": model.config.predict_token_ids}


def word_logits(
    model: LlaraForPreTraining, states: torch.Tensor, input_ids: torch.Tensor, token_ids: list[int]
) -> torch.Tensor:
    """(B, V) float32: for each word the highest logit that it has at one of a prompt's special tokens.

    That is what the bag-of-words loss takes the softmax of. A row without the prompt gets values that mean nothing.

    Args:
        states: (B, L, d) last hidden states, as the head sees them. input_ids: (B, L).
        token_ids: ids of the special tokens, one or more.
    """
    tokens = torch.tensor(token_ids, device=input_ids.device)
    indices = (input_ids[:, None] == tokens[:, None]).long().argmax(-1)  # (B, n)
    rows = states.gather(1, indices[..., None].expand(-1, -1, states.shape[-1]))  # (B, n, d)
    logits = scale_logits(model.get_output_embeddings()(rows), model.config.text_config)
    return logits.float().amax(1)


def precision_at_k(words: torch.Tensor, target_ids: torch.Tensor, k: int) -> torch.Tensor:
    """(B,) float32: which share of the k likeliest words of each row is among its targets; 0 for a row without any.

    Args:
        words: (B, V) logits, -inf for a word that shall not count. target_ids: (B, T), padded with negative ids.

    Raises ValueError for a k that is not in 1..V.
    """
    if not 1 <= k <= words.shape[-1]:
        raise ValueError(f"k={k} must be from 1 to {words.shape[-1]}, the number of words: choose a k among these.")
    likeliest = words.topk(k).indices  # (B, k)
    return (likeliest[..., None] == target_ids[:, None]).any(-1).float().mean(1)


class WordPrecision:
    """Mean precision@k of each prompt over the rows that have a target, summed up batch by batch.

    Ids that the model ignores as targets are left out of the k likeliest words.
    """

    def __init__(self, model: LlaraForPreTraining, k: int):
        self.model, self.k = model, k
        self.sums = torch.zeros(2 * len(PROMPTS), device=model.device)

    @torch.no_grad()
    def of_rows(self, states: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """(B, 4) of a batch: for each prompt the row's precision, and whether it has a target; zeros where it has not.

        Args:
            states: (B, L, d) last hidden states. inputs: the batch, targets padded with negative ids.
        """
        columns = []
        for name, token_ids in prompt_token_ids(self.model).items():
            targets = inputs.get(f"output_{name}_ids")
            if targets is None or not token_ids:  # the model may have no such prompt
                columns += [torch.zeros(len(states), device=states.device)] * 2
                continue
            words = word_logits(self.model, states, inputs["input_ids"], token_ids)
            words[:, self.model.config.ignored_target_ids] = -torch.inf
            has_target = (targets >= 0).any(1).float()
            columns += [precision_at_k(words, targets, self.k) * has_target, has_target]
        return torch.stack(columns, dim=1)

    def add(self, rows: torch.Tensor) -> None:
        """Rows as `of_rows` gives them."""
        self.sums += rows.sum(0)

    def means(self) -> dict[str, float]:
        """{"summarize_precision@8": ...}, without a prompt for which no row has a target."""
        pairs = zip(PROMPTS, self.sums.view(-1, 2).tolist(), strict=True)
        return {f"{name}_precision@{self.k}": total / rows for name, (total, rows) in pairs if rows}
