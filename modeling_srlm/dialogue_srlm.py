"""Dialogue mode: the text of a conversation around retrieved turns, and the choice of turns."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .assembly_srlm import ModelInput
from .output_srlm import SelfRetrievalOutput
from .retrieval_srlm import arrange, top_k
from .scoring_srlm import run_inputs, token_losses
from .turns_srlm import turn_scores

ANSWER_PREFIX = "\nSpeaker 2: "
QUERY_PREFIX = "Speaker 1: "


def check_dialogue(
    query: list[str], history: list[list[str]], answer: list[str], history_mask: torch.Tensor | None
) -> torch.Tensor:
    """The (B, N) bool mask of real turns; raises where the parts do not fit each other."""
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
    if tuple(history_mask.shape) != (len(query), longest):
        raise ValueError(
            f"history_mask has shape {tuple(history_mask.shape)}; it must be (conversations, turns) = "
            f"{(len(query), longest)}, 1 for a turn and 0 for padding."
        )
    return mask & history_mask.cpu().bool()


def conversation_prompt(turns: list[str], query: str) -> str:
    """What stands before the answer: the retrieved turns and the query."""
    return "\n".join([*turns, QUERY_PREFIX + query + ANSWER_PREFIX])


def continuation_input(
    tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str, window_size: int, row: int
) -> tuple[ModelInput, torch.Tensor]:
    """The last `window_size` tokens of prompt + continuation as a model input, and the labels of the continuation.

    How many tokens are scored is counted on the continuation alone, without special tokens.
    """
    tokens = torch.tensor(tokenizer(prompt + continuation, verbose=False)["input_ids"][-window_size:])
    length = len(tokenizer(continuation, add_special_tokens=False, verbose=False)["input_ids"])
    scored = torch.arange(max(len(tokens) - length, 1), len(tokens))
    return ModelInput(row, tokens, scored - 1, scored), tokens[scored]


def choose(scores: torch.Tensor, turn_indices: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(k,) indices into the whole history, -1 where there are fewer turns, and their scores."""
    indices, ranked = top_k(scores[None], k)
    chosen = torch.where(indices[0] >= 0, turn_indices[indices[0].clamp(min=0)], -1)
    return chosen, ranked[0]


class DialogueMixin:
    """Scoring of answers behind turns retrieved from the history; mixed into [`SelfRetrievalLM`]."""

    config: Any
    language_model: Any
    retriever: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    _check_components: Any

    def forward_with_history_retrieval(
        self,
        query: list[str],
        history: list[list[str]],
        answer: list[str],
        history_mask: torch.Tensor | None = None,
    ) -> SelfRetrievalOutput:
        """Scores each answer behind its query and the k turns of the history that it retrieves.

        Args:
            query, answer: B texts. history: B lists of turns, the oldest first.
            history_mask: (B, N), 0 for turns that are padding; they are never retrieved.

        Returns the output with `retrieved_indices` (B, 1, k), turn numbers most relevant first.
        """
        mask = check_dialogue(query, history, answer, history_mask)
        self._check_components()
        chosen = [
            self._choose_turns(query[row], history[row], answer[row], mask[row].nonzero().flatten())
            for row in range(len(query))
        ]
        prompts = [
            conversation_prompt(
                [history[row][i] for i in arrange(turns.tolist(), self.config.order_method)], query[row]
            )
            for row, (turns, _) in enumerate(chosen)
        ]
        losses = self._continuation_losses(prompts, answer)
        count = sum(len(row) for row in losses)
        return SelfRetrievalOutput(
            loss=torch.cat(losses).sum() / count,
            retrieved_indices=torch.stack([indices for indices, _ in chosen])[:, None],
            retrieved_scores=torch.stack([scores for _, scores in chosen])[:, None],
            target_losses=torch.stack([row.detach().mean().cpu() for row in losses])[:, None],
            num_scored_tokens=count,
        )

    @torch.no_grad()
    def score_continuations(self, prompts: list[str], continuations: list[str]) -> torch.Tensor:
        """(n,) log-likelihood of each continuation's tokens behind its prompt, summed, in nats.

        Of prompt and continuation together the last `context_window_size` tokens count.
        """
        return -torch.stack([losses.sum().cpu() for losses in self._continuation_losses(prompts, continuations)])

    def _continuation_losses(self, prompts: list[str], continuations: list[str]) -> list[torch.Tensor]:
        window_size = self.config.context_window_size
        pairs = enumerate(zip(prompts, continuations, strict=True))
        prepared = [continuation_input(self.tokenizer, *pair, window_size, row) for row, pair in pairs]
        inputs = [ModelInput(item.row, *(tensor.to(self.device) for tensor in item[1:])) for item, _ in prepared]
        inputs.sort(key=lambda item: len(item.tokens))
        results = run_inputs(self.language_model, inputs, self.config.chunk_batch_size)
        losses = {item.row: token_losses(logits, prepared[item.row][1].to(self.device)) for item, logits in results}
        return [losses[row] for row in range(len(prompts))]

    def _choose_turns(
        self, query: str, turns: list[str], answer: str, real: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        method, k = self.config.retrieval_method, self.config.key_num
        if method == "no" or not len(real):
            return torch.full((k,), -1), torch.full((k,), float("-inf"))
        kept = [turns[i] for i in real.tolist()]
        if method == "oracle":
            prompts = [conversation_prompt([turn], query) for turn in kept]
            scores = self.score_continuations(prompts, [answer] * len(kept))
        else:
            seed = self.config.seed + len(query) + len(answer)  # of the row itself, so that the batch changes nothing
            scores = turn_scores(self, query, kept, seed)
        return choose(scores, real, k)
