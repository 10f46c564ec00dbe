"""What the LLaRA rows compute: the losses of one batch, by three sides: ours, the original and a plain one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPast

from modeling_llara import LlaraForPreTraining, build_row
from modeling_llara.loss_llara import autoregressive_loss, bag_of_words_loss, combine_losses

from .outcome import Check
from .reference import load_llara_reference
from .shapes import FIRST_WORD, SHAPES, random_backbone, random_document

SUMMARIZE, PREDICT, SPECIAL = 19, 18, 8  # tokens of the prompts and of their ends, as the original has hard-coded them
IGNORED = tuple(range(FIRST_WORD))
BOW_WEIGHT = 0.1
TOLERANCE = 1e-5

Loss = Callable[[torch.Tensor, nn.Module], torch.Tensor]  # of (B, L, d) last hidden states, under a head


@dataclass(frozen=True)
class Task:
    """A batch (B rows of L tokens, all of them labelled but the prompts) and a model on a random backbone."""

    model: LlaraForPreTraining
    input_ids: torch.Tensor  # (B, L)
    labels: torch.Tensor  # (B, L)
    summarize_ids: torch.Tensor  # (B, T)
    predict_ids: torch.Tensor  # (B, T)

    @property
    def head(self) -> nn.Module:
        return self.model.get_output_embeddings()


def build_task(size: str, device: torch.device, batch: int = 8, length: int = 512) -> Task:
    """Rows of exactly `length` tokens, passages and targets by Zipf's law."""
    vocabulary = SHAPES[size].vocabulary
    prompts = list(range(vocabulary - SUMMARIZE - PREDICT, vocabulary))
    backbone = random_backbone(size, device)
    model = LlaraForPreTraining.from_backbone(
        backbone, summarize_prompt_ids=prompts[:SUMMARIZE], predict_prompt_ids=prompts[SUMMARIZE:],
        num_summary_tokens=SPECIAL, num_predict_tokens=SPECIAL, ignored_target_ids=IGNORED, bow_loss_weight=BOW_WEIGHT,
    )  # fmt: skip
    words, room = vocabulary - len(prompts), length - len(prompts)
    passages = random_document(batch * room, words).view(batch, room).tolist()
    rows = [build_row(model.config, passage) for passage in passages]
    ids, labels = (torch.tensor([row[name] for row in rows], device=device) for name in ("input_ids", "labels"))
    targets = random_document(2 * batch * 64, words, seed=1).view(2, batch, 64).to(device)
    return Task(model.train(), ids, labels, targets[0], targets[1])


def special_states(states: torch.Tensor) -> list[torch.Tensor]:
    """(B, 8, ...) at the special tokens of each prompt, of rows that end with both."""
    return [states[:, -PREDICT - SPECIAL : -PREDICT], states[:, -SPECIAL:]]


def our_loss(task: Task) -> Loss:
    """The losses of the model, on the rows of states that they need."""

    def loss(states: torch.Tensor, head: nn.Module) -> torch.Tensor:
        ignored = torch.tensor(IGNORED, device=states.device)
        targets = (task.summarize_ids, task.predict_ids)
        words = [
            bag_of_words_loss(head(rows), ids, ignored)
            for rows, ids in zip(special_states(states), targets, strict=True)
        ]
        total = combine_losses(autoregressive_loss(states, task.labels, head), words, 1.0, BOW_WEIGHT)
        assert total is not None
        return total

    return loss


def plain_loss(task: Task) -> Loss:
    """Logits of every position in float32, and a loop over rows, as one would write it down."""

    def loss(states: torch.Tensor, head: nn.Module) -> torch.Tensor:
        logits = head(states).float()
        total = functional.cross_entropy(logits[:, :-1].flatten(0, 1), task.labels[:, 1:].flatten())
        for rows, targets in zip(special_states(logits), (task.summarize_ids, task.predict_ids), strict=True):
            total = total + _plain_words_loss(rows.amax(1), targets)
        return total

    return loss


def _plain_words_loss(highest: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One prompt's part of the loss; (B, V) highest logits, (B, T) target ids."""
    total = highest.new_zeros(())
    for row, ids in zip(highest.log_softmax(-1), targets, strict=True):
        words = ids[ids >= FIRST_WORD].unique()
        total = total - row[words].mean() * BOW_WEIGHT / (2 * len(highest))
    return total


def reference_loss(task: Task, checkout: Path) -> Loss:
    """The original's forward pass behind its decoder; the states come from ours, which transformers 5 can run."""
    original = load_llara_reference(checkout)
    config = SimpleNamespace(
        vocab_size=task.model.config.text_config.vocab_size, pretraining_tp=1, output_attentions=False,
        output_hidden_states=False, use_return_dict=True,
    )  # fmt: skip

    def loss(states: torch.Tensor, head: nn.Module) -> torch.Tensor:
        model = SimpleNamespace(
            config=config, lm_head=head, predict_prompt_ids=range(PREDICT), log_softmax=nn.LogSoftmax(dim=-1),
            model=lambda **_: BaseModelOutputWithPast(last_hidden_state=states),
        )  # fmt: skip
        targets = {"output_summarize_ids": task.summarize_ids, "output_predict_ids": task.predict_ids}
        return original.forward(model, task.input_ids, labels=task.labels, **targets).loss

    return loss


def other_loss(task: Task, checkout: Path | None) -> tuple[str, Loss]:
    """Name and loss of the other side."""
    if checkout is None:
        return "all logits in float32", plain_loss(task)
    return "FlagEmbedding", reference_loss(task, checkout)


@dataclass(frozen=True)
class Ties:
    """Words whose highest logits are so near that float32 cannot tell whose they are, and what hangs on it.

    Which special token's state a word's gradient goes to is then left to the order of the additions, and no order is
    the right one: the maximum has no derivative at a tie. (Of 512,000 maxima of a random batch some are always so
    near.) What may lie between two sides is what such words can move, and nothing else.

    Args:
        count: of words, over all rows.
        moved: for "states" (B, L, d) and "head" (V, d) the most by which a number of their gradients may differ.
    """

    count: int
    moved: dict[str, torch.Tensor]


def find_ties(task: Task, states: torch.Tensor) -> Ties:
    """The ties of (B, L, d) states, in float64."""
    states, weight = states.detach().double(), task.head.get_parameter("weight").detach().double()
    moved, count = {"states": torch.zeros_like(states), "head": torch.zeros_like(weight)}, 0
    parts = (special_states(states), special_states(moved["states"]), (task.summarize_ids, task.predict_ids))
    for rows, moved_rows, targets in zip(*parts, strict=True):
        logits = rows @ weight.T  # (B, 8, V)
        with torch.enable_grad():
            highest = logits.amax(1).requires_grad_()
            (slopes,) = torch.autograd.grad(_plain_words_loss(highest, targets), highest)  # (B, V)
        near = highest.detach()[:, None] - logits <= 2 * _rounding(rows, weight)
        for row, word in (near.sum(1) > 1).nonzero().tolist():
            tied, slope = near[row, :, word], slopes[row, word].abs()
            moved_rows[row, tied] += slope * weight[word].abs()
            moved["head"][word] += slope * (rows[row, tied].amax(0) - rows[row, tied].amin(0))
            count += 1
    return Ties(count, moved)


def _rounding(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(B, 8, V) by how much a float32 logit may be off: sqrt(d) u |s| |w| for d products, u half of float32's eps.

    That errors of random sign add up like the root of their number: Higham and Mary, doi:10.1137/18M1226312.
    """
    unit = torch.finfo(torch.float32).eps / 2
    return unit * rows.shape[-1] ** 0.5 * rows.norm(dim=-1, keepdim=True) * weight.norm(dim=-1)


def same_gradients(ours: dict[str, Any], theirs: dict[str, Any], ties: Ties | None = None) -> Check:
    """Within 1e-5: the loss of its value, gradients of their largest entry, beside what ties move."""
    moved = ties.moved if ties else {}
    apart = {name: _apart(ours[name], value, moved.get(name)) for name, value in theirs.items()}
    wrong = [name for name, value in apart.items() if not value <= TOLERANCE]  # written so that a NaN is not equal
    if wrong:
        return Check(False, f"{wrong[0]} {apart[wrong[0]]:.1e} apart")
    beside = f", beside {ties.count} words whose maximum is tied" if ties and ties.count else ""
    return Check(True, f"loss {apart.pop('loss'):.0e} apart, gradients at most {max(apart.values()):.0e}{beside}")


def _apart(ours: torch.Tensor, theirs: torch.Tensor, moved: torch.Tensor | None) -> float:
    difference = (ours - theirs).abs()
    if moved is not None:
        difference = (difference - moved).clamp(min=0)
    return (difference.max() / theirs.abs().max()).item()
