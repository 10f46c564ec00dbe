"""A pass over documents: each row block by block, with what each block retrieves; and the perplexity of many."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging
from transformers.utils.logging import tqdm

from .assembly_srlm import ModelInput, group_targets
from .checks_srlm import check_bool, check_choice
from .chunking_srlm import split_rows
from .gradient_srlm import LossSum
from .inputs_srlm import check_prompt_length, warn_of_padding
from .output_srlm import LogitsBuffer, Row, SelfRetrievalOutput, pad_rows, retrieval_fields
from .planning_srlm import Plan
from .retrieval_srlm import arrange
from .reuse_srlm import run_reusing, streamed_rows
from .scoring_srlm import run_inputs, token_losses
from .selection_srlm import KeySelector

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM

logger = logging.get_logger(__name__)

AVERAGES = ("tokens", "batches")  # what weighs the same in a perplexity


def run_documents(
    plan: Plan,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    output_logits: bool,
    show_progress: bool,
    prompt_length: int | None,
) -> SelfRetrievalOutput:
    """What `SelfRetrievalLM.forward` returns for (B, L) tensors that it has checked: a loss, or all logits."""
    if prompt_length is not None:
        check_prompt_length(prompt_length, input_ids, attention_mask)
    elif attention_mask is None and input_ids.shape[1] >= plan.config.max_target_size:
        warn_of_padding(input_ids, labels, plan.config.get_text_config())
    rows = _rows(plan, input_ids, attention_mask, labels, prompt_length)
    logits = LogitsBuffer(input_ids, attention_mask)
    if labels is None:
        return _all_logits(plan, rows, logits)
    return _score(plan, rows, logits if output_logits else None, show_progress)


def _rows(
    plan: Plan,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
    prompt_length: int | None,
) -> list[Row]:
    if plan.config.reuse_states:  # on a grid that is the same wherever a prompt ended
        return [*streamed_rows(plan, input_ids, attention_mask, labels, prompt_length)]
    documents = split_rows(input_ids, attention_mask, labels, plan.config.chunk_size, prompt_length)
    return [Row(document, plan.cut(document), plan.config.key_num) for document in documents]


def _score(plan: Plan, rows: list[Row], logits: LogitsBuffer | None, show_progress: bool) -> SelfRetrievalOutput:
    takes = plan.settles and logits is None and plan.language_model.training and torch.is_grad_enabled()
    total, count = LossSum(plan.language_model, rows[0].document.tokens.device, takes), 0
    bar = _progress_bar(plan, rows, show_progress)
    for item, item_logits in _run(plan, rows, total.settle):
        losses = token_losses(item_logits, rows[item.row].document.labels[item.targets])
        rows[item.row].count_losses(item.targets, losses)
        total.add(losses)
        count += len(losses)
        bar.update(len(losses))
        if logits is not None:
            logits.add(item, item_logits, rows[item.row].shift)
    bar.close()
    if not count:
        raise ValueError("the only label stands on a row's first token, which nothing predicts; label a later one.")
    return SelfRetrievalOutput(
        loss=(total.total() / count).float(),
        logits=None if logits is None else logits.build(),
        target_losses=pad_rows([row.loss_sums / row.token_counts for row in rows], float("nan")),
        num_scored_tokens=count,
        **retrieval_fields(rows),
    )


def _all_logits(plan: Plan, rows: list[Row], logits: LogitsBuffer) -> SelfRetrievalOutput:
    for item, item_logits in _run(plan, rows):
        logits.add(item, item_logits, rows[item.row].shift)
    return SelfRetrievalOutput(logits=logits.build(), **retrieval_fields(rows))


def _run(
    plan: Plan, rows: list[Row], settle: Callable[[], None] | None = None
) -> Iterator[tuple[ModelInput, torch.Tensor]]:
    if plan.config.reuse_states:
        return run_reusing(plan, rows, settle=settle)  # type: ignore[arg-type]
    return run_inputs(plan.language_model, _inputs(plan, rows), plan.config.chunk_batch_size)


def _inputs(plan: Plan, rows: list[Row]) -> Iterator[ModelInput]:
    """The inputs of all rows one after the other, each made when it is needed."""
    for number, row in enumerate(rows):
        selector = KeySelector(plan)
        selector.prepare(row.document, row.blocks)
        for block in row.blocks:
            indices, scores = selector.select(block, block.targets)
            row.keep_selection(block, indices, scores)
            retrieved = [arrange(keys, plan.config.order_method) for keys in indices.tolist()]
            for keys, targets in group_targets(block, retrieved):
                yield plan.layout.assemble(row.document, block, number, keys, targets)


def _progress_bar(plan: Plan, rows: list[Row], show_progress: bool) -> Any:
    """A bar over the scored tokens, where there is more than one block."""
    long = any(len(row.blocks) > 1 for row in rows)
    total = sum(row.document.num_labels for row in rows)
    description = f"Scoring ({plan.config.retrieval_method})"
    return tqdm(total=total, unit="token", leave=False, desc=description, disable=not (show_progress and long))


@torch.no_grad()
def perplexity(
    model: "SelfRetrievalLM", dataloader: Iterable[dict[str, Any]], show_progress: bool, average: str
) -> float:
    """What `SelfRetrievalLM.compute_perplexity` returns."""
    check_choice("average", average, AVERAGES)
    check_bool("show_progress", show_progress)
    if not isinstance(dataloader, Iterable) or isinstance(dataloader, str | bytes | Mapping | torch.Tensor):
        kind = type(dataloader).__name__
        raise TypeError(f"dataloader is a {kind}; it must give batches, dicts of forward's arguments: [{{...}}, ...].")
    training = model.training
    model.eval()
    total, count, rows, without = 0.0, 0.0, 0, 0
    try:
        for number, batch in enumerate(tqdm(dataloader, desc=_description(model), disable=not show_progress)):
            scored = _scored_rows(batch, number)
            rows, without = rows + len(scored), without + scored.count(False)
            if any(scored):
                loss, weight = _batch_loss(model, batch, show_progress, average)
                total, count = total + loss * weight, count + weight
    finally:
        model.train(training)
    if average == "tokens":
        total, count = _sum_over_processes([total, count], model.device)
    if not count:
        found = f"{rows} rows, of which none has a label: row 0 is all -100 too" if rows else "no batch"
        raise ValueError(f"the dataloader gave {found}; perplexity needs at least one document with a label.")
    if without:
        logger.warning(f"{without} of {rows} rows have no label and add nothing to the perplexity.")
    value = math.exp(total / count)
    return value if average == "tokens" else _mean_over_processes(value, model.device)


def _description(model: "SelfRetrievalLM") -> str:
    return f"Perplexity ({model.config.retrieval_method})"


def _batch_loss(
    model: "SelfRetrievalLM", batch: Mapping[str, Any], show_progress: bool, average: str
) -> tuple[float, int]:
    """(mean loss of a batch's scored tokens, what it weighs)."""
    moved = {name: part.to(model.device) if isinstance(part, torch.Tensor) else part for name, part in batch.items()}
    output = model(**moved, show_progress=show_progress)
    return output["loss"].double().item(), int(output["num_scored_tokens"]) if average == "tokens" else 1


def _scored_rows(batch: Any, number: int) -> list[bool]:
    """Of each row whether a token is scored: one that has a label, and another before it."""
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"batch {number} of the dataloader is a {type(batch).__name__}; it must be a dict of forward's arguments: "
            "{'input_ids': ..., 'labels': ...}."
        )
    labels, mask = batch.get("labels"), batch.get("attention_mask")
    if labels is None:
        if batch.get("answer") is None:
            raise ValueError(
                f"batch {number} has {sorted(batch)} and no labels; perplexity needs them: say what to score."
            )
        return [True] * len(batch["answer"])
    for name, part in (("labels", labels), ("attention_mask", mask)):
        if part is not None and (not isinstance(part, torch.Tensor) or part.ndim != 2):
            found = tuple(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__
            raise TypeError(f"{name} of batch {number} is {found}; it must be a tensor of shape (batch, length).")
    real = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.bool()
    return ((labels[:, 1:] != -100) & real[:, 1:] & real[:, :-1]).any(dim=1).tolist()


def _sum_over_processes(values: list[float], device: torch.device) -> list[float]:
    if not torch.distributed.is_initialized():
        return values
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(summed)
    return summed.tolist()


def _mean_over_processes(value: float, device: torch.device) -> float:
    (summed,) = _sum_over_processes([value], device)
    return summed / (torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1)
