"""Dialogue mode: the text of a conversation around retrieved turns, and the choice of turns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from .assembly_srlm import ModelInput
from .checks_srlm import check_mask
from .configuration_srlm import SelfRetrievalConfig
from .output_srlm import SelfRetrievalOutput
from .planning_srlm import check_components
from .retrieval_srlm import arrange, top_k
from .scoring_srlm import run_inputs, token_losses
from .tokenizers_srlm import behind_bos, text_ids
from .turns_srlm import turn_scores

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM

ANSWER_PREFIX = "\nSpeaker 2: "
QUERY_PREFIX = "Speaker 1: "


def check_dialogue(
    query: list[str], history: list[list[str]], answer: list[str], history_mask: torch.Tensor | None
) -> torch.Tensor:
    """The (B, N) bool mask of real turns; raises where the parts are no lists of texts or do not fit each other."""
    _check_texts("query", query)
    _check_texts("answer", answer)
    if isinstance(history, str) or not isinstance(history, Sequence):
        raise TypeError(
            f"history is a {type(history).__name__} and must be a list of lists of turns: [[turn, ...], ...]."
        )
    for row, turns in enumerate(history):
        _check_texts(f"history[{row}]", turns)
    sizes = {"query": len(query), "history": len(history), "answer": len(answer)}
    if len(set(sizes.values())) != 1 or not query:
        raise ValueError(f"{sizes} conversations; query, history and answer must have the same number, at least 1.")
    for row, text in enumerate(answer):
        if not text:
            raise ValueError(f"answer {row} is empty: nothing can be scored. Leave the row out.")
    longest = max(len(turns) for turns in history)
    lengths = torch.tensor([len(turns) for turns in history])
    mask = torch.arange(longest) < lengths[:, None]
    if history_mask is None:
        return mask
    if not isinstance(history_mask, torch.Tensor):
        raise TypeError(
            f"history_mask is a {type(history_mask).__name__} and must be a tensor: use torch.tensor(...)."
        )
    if tuple(history_mask.shape) != (len(query), longest):
        raise ValueError(
            f"history_mask has shape {tuple(history_mask.shape)}; it must be (conversations, turns) = "
            f"{(len(query), longest)}, 1 for a turn and 0 for padding."
        )
    check_mask("history_mask", history_mask)
    return mask & history_mask.cpu().bool()


def _check_texts(name: str, texts: object) -> None:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"{name} is a {type(texts).__name__} and must be a list of texts: [text, ...].")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{number}] is a {type(text).__name__} and must be a text: str(...) makes one.")


def conversation_prompt(turns: list[str], query: str) -> str:
    """What stands before the answer: the retrieved turns and the query."""
    return "\n".join([*turns, QUERY_PREFIX + query + ANSWER_PREFIX])


def continuation_input(
    tokenizer: PreTrainedTokenizerBase, config: SelfRetrievalConfig, prompt: str, continuation: str, row: int
) -> tuple[ModelInput, torch.Tensor]:
    """The last `context_window_size` tokens of prompt + continuation as a model input, and the continuation's labels.

    How many tokens are scored is counted on the continuation alone. With `add_bos` BOS stands before the window, as in
    a document's inputs, and the same tokens are scored.
    """
    ids, alone = text_ids(tokenizer, [prompt + continuation, continuation])
    window = ids[-config.context_window_size :]
    tokens = torch.tensor(behind_bos(config, window), dtype=torch.long)
    shift = len(tokens) - len(window)
    scored = torch.arange(max(len(window) - len(alone), 1), len(window))
    if not len(scored):
        raise ValueError(
            f"text {row}, {continuation!r} behind {prompt!r}, is one token, which nothing predicts: give a longer "
            "prompt."
        )
    return ModelInput(row, tokens, scored + shift - 1, scored), tokens[scored + shift]


def score_answers(
    model: "SelfRetrievalLM",
    query: list[str],
    history: list[list[str]],
    answer: list[str],
    history_mask: torch.Tensor | None,
) -> SelfRetrievalOutput:
    """What `SelfRetrievalLM.forward_with_history_retrieval` returns."""
    mask = check_dialogue(query, history, answer, history_mask)
    check_components(model)
    chosen = [
        _choose_turns(model, query[row], history[row], answer[row], mask[row].nonzero().flatten())
        for row in range(len(query))
    ]
    order = model.config.order_method
    prompts = [
        conversation_prompt([history[row][i] for i in arrange(turns.tolist(), order)], query[row])
        for row, (turns, _) in enumerate(chosen)
    ]
    losses = _continuation_losses(model, prompts, answer)
    count = sum(len(row) for row in losses)
    return SelfRetrievalOutput(
        loss=torch.cat(losses).sum() / count,
        retrieved_indices=torch.stack([indices for indices, _ in chosen])[:, None],
        retrieved_scores=torch.stack([scores for _, scores in chosen])[:, None],
        target_losses=torch.stack([row.detach().mean().cpu() for row in losses])[:, None],
        num_scored_tokens=count,
    )


@torch.no_grad()
def score_continuations(model: "SelfRetrievalLM", prompts: list[str], continuations: list[str]) -> torch.Tensor:
    """(n,) as `SelfRetrievalLM.score_continuations` returns them."""
    check_pairs(prompts, continuations)
    if not prompts:
        return torch.zeros(0)
    return -torch.stack([losses.sum().cpu() for losses in _continuation_losses(model, prompts, continuations)])


def check_pairs(prompts: list[str], continuations: list[str]) -> None:
    """Raises TypeError or ValueError unless these are as many prompts as continuations, of which none is empty."""
    _check_texts("prompts", prompts)
    _check_texts("continuations", continuations)
    if len(prompts) != len(continuations):
        raise ValueError(
            f"there are {len(prompts)} prompts and {len(continuations)} continuations; give each prompt one."
        )
    for number, text in enumerate(continuations):
        if not text:
            raise ValueError(f"continuations[{number}] is empty: nothing can be scored. Leave the pair out.")


def _continuation_losses(model: "SelfRetrievalLM", prompts: list[str], continuations: list[str]) -> list[torch.Tensor]:
    """Of each continuation the losses of its tokens, (m,)."""
    pairs = enumerate(zip(prompts, continuations, strict=True))
    prepared = [continuation_input(model.tokenizer, model.config, *pair, row) for row, pair in pairs]
    inputs = [ModelInput(item.row, *(tensor.to(model.device) for tensor in item[1:])) for item, _ in prepared]
    inputs.sort(key=lambda item: len(item.tokens))
    results = run_inputs(model.language_model, inputs, model.config.chunk_batch_size)
    losses = {item.row: token_losses(logits, prepared[item.row][1].to(model.device)) for item, logits in results}
    return [losses[row] for row in range(len(prompts))]


def _choose_turns(
    model: "SelfRetrievalLM", query: str, turns: list[str], answer: str, real: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(k,) numbers of the turns to retrieve among those that are `real` (m,), -1 for none, and (k,) their scores."""
    config = model.config
    if config.retrieval_method == "no" or not len(real):
        return torch.full((config.key_num,), -1), torch.full((config.key_num,), float("-inf"))
    kept = [turns[i] for i in real.tolist()]
    if config.retrieval_method == "oracle":
        prompts = [conversation_prompt([turn], query) for turn in kept]
        scores = score_continuations(model, prompts, [answer] * len(kept))
    else:
        seed = config.seed + len(query) + len(answer)  # of the row itself, so that the batch changes nothing
        scores = turn_scores(model, query, kept, seed)
    indices, ranked = top_k(scores[None], config.key_num)
    return torch.where(indices[0] >= 0, real[indices[0].clamp(min=0)], -1), ranked[0]
