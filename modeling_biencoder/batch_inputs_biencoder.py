"""Checks of a batch of queries and passages, and of what its loss is made of, before any compute."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .checks_biencoder import check_bool, check_positive_int, typed
from .false_negatives_biencoder import Identity
from .inputs_biencoder import check_tokens
from .objectives_biencoder import Objectives

# What transformers' attention takes beside the arguments of a backbone's forward, and what many a tokenizer gives to
# models that have no use for it.
_ALWAYS_TAKEN = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "token_type_ids")


def check_group(queries: int, passages: int) -> int:
    """The number of passages for each query; ValueError when the passages do not divide evenly."""
    if queries < 1 or passages < 1:
        raise ValueError(f"the batch has {queries} queries and {passages} passages: it needs at least one of each.")
    if passages % queries:
        raise ValueError(
            f"{passages} passages are not a multiple of {queries} queries: give each query the same number of "
            "passages, its positive first (query i owns passages i * group_size to (i + 1) * group_size - 1)."
        )
    return passages // queries


def check_teacher_scores(teacher_scores: object, queries: int, group_size: int, device: torch.device) -> None:
    """Raise unless `teacher_scores` is None or (queries, group_size) finite floating point on `device`."""
    if teacher_scores is None:
        return
    if not isinstance(teacher_scores, torch.Tensor):
        raise TypeError(f"teacher_scores must be a tensor or None, not {type(teacher_scores).__name__}.")
    if not teacher_scores.is_floating_point():
        raise TypeError(f"teacher_scores has dtype {teacher_scores.dtype}: scores must be floating point.")
    if teacher_scores.shape != (queries, group_size):
        raise ValueError(
            f"teacher_scores has shape {tuple(teacher_scores.shape)}: it must be (queries, passages for each query) "
            f"= ({queries}, {group_size})."
        )
    if teacher_scores.device != device:
        raise ValueError(f"teacher_scores is on {teacher_scores.device}, the batch on {device}: use .to(...).")
    if not (finite := teacher_scores.isfinite().all(dim=1)).all():
        row = int(finite.long().argmin())
        raise ValueError(
            f"teacher_scores has NaN or infinity in row {row}, and a score must be finite: give the rows without "
            "scores, or mend the teacher's."
        )


def check_terms(
    in_batch_negatives: object, identity: Any, objectives: object, queries: int, passages: int, device: torch.device
) -> Identity | None:
    """The numbers of a batch's texts, if any; raises unless what the loss is made of fits `queries` and `passages`."""
    check_bool("in_batch_negatives", in_batch_negatives)
    typed("objectives", objectives, Objectives | None)
    return Identity.of(identity, queries, passages, device)


def check_alone(**given: object) -> None:
    """Raise ValueError for what belongs to a loss beside `input_ids`, which are embedded alone."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is given with input_ids, which have no loss: give query and passage, or drop it."
            )


def backbone_keywords(backbone: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `given` that are not None (peft names all it knows); TypeError for one that the backbone does not take.

    transformers' models take any keyword without a word.
    """
    kept = {name: value for name, value in given.items() if value is not None}
    if "past_key_values" in kept:
        raise TypeError("past_key_values: an embedding is of a whole text; give all of its tokens, and leave it out.")
    known = [*inspect.signature(type(backbone).forward).parameters, *_ALWAYS_TAKEN]
    for name in kept if "input_ids" in known else ():  # a wrapper's (FSDP's) says nothing
        if name not in known:
            raise TypeError(f"forward has no argument {name!r}, and the backbone none: leave it out.")
    return kept


def check_batch(
    input_ids: object,
    query: Any,
    passage: Any,
    model: Any,
    loss: Sequence[Any],
    return_loss: object,
    sub_batch_size: object,
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """(query, passage); raises unless they are one batch's tokens on the model's device, and the rest fits.

    Args:
        loss: teacher_scores, and the first three arguments of `check_terms`.
    """
    if input_ids is not None or query is None or passage is None:
        named = {"input_ids": input_ids, "query": query, "passage": passage}
        given = [name for name, value in named.items() if value is not None] or "none of them"
        raise ValueError(f"give either input_ids, or both query and passage: got {given}.")
    for name, tokens in (("query", query), ("passage", passage)):
        if not isinstance(tokens, Mapping) or "input_ids" not in tokens:
            raise TypeError(f"{name} must be a dict with input_ids and attention_mask, not {type(tokens).__name__}.")
        check_tokens(tokens["input_ids"], tokens.get("attention_mask"), model, f"{name} ")
    check_bool("return_loss", return_loss)
    if sub_batch_size is not None:
        check_positive_int("sub_batch_size", sub_batch_size, "give the texts to embed at a time", most=2**31)
    ids, passages = query["input_ids"], len(passage["input_ids"])
    check_teacher_scores(loss[0], len(ids), check_group(len(ids), passages), ids.device)
    check_terms(loss[1], loss[2], loss[3], len(ids), passages, ids.device)
    return _of_rows("query", query, model), _of_rows("passage", passage, model)


def _of_rows(name: str, tokens: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Those of a batch's tensors that are not None; raises for what is not the backbone's, or no tokens'."""
    kept, shape = {key: value for key, value in tokens.items() if value is not None}, tokens["input_ids"].shape
    for key, value in kept.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} holds {key!r} of type {type(value).__name__}, and must hold tensors: drop it.")
    backbone_keywords(model.backbone, kept)
    for key, value in kept.items():
        if value.shape != shape:
            raise ValueError(
                f"{name} holds {key!r} of shape {tuple(value.shape)}, and must hold one for each token, "
                f"{tuple(shape)}: drop it."
            )
    return kept


def check_embeddings(queries: Any, passages: Any) -> None:
    """Raise TypeError or ValueError unless these are (B, d) and (N, d) vectors that a loss can compare."""
    for name, value in (("q_reps", queries), ("p_reps", passages)):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            found = getattr(value, "dtype", None) or type(value).__name__
            raise TypeError(
                f"{name} must be a floating-point tensor of embeddings, not {found}: use what embed gives."
            )
        if value.dim() != 2 or 0 in value.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: it must be (n, d), an embedding a text.")
    one, other = ((value.shape[1], value.dtype, value.device) for value in (queries, passages))
    if one != other:
        raise ValueError(
            f"q_reps have width, dtype and device {one}, p_reps {other}, and these must agree: embed both with one "
            "model."
        )
