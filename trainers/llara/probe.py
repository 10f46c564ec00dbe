"""What an embedding says: the likeliest words at a prompt's special tokens, and how many of them are in its target."""

from typing import Any

import torch

from modeling_llara import LlaraForPreTraining
from modeling_llara.backbone_llara import scale_logits

PROMPTS = ("summarize", "predict")


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
        raise ValueError(f"k={k} of {words.shape[-1]} words; it must be 1 or more, and no more than the words.")
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
            if targets is None:
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
