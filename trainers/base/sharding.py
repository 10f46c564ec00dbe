"""Weights shared out among processes (FSDP2): on a CPU too, and what cannot work with it is said before any work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import Trainer, TrainingArguments


class ShardedTrainer(Trainer):
    """A Trainer that shards where it is asked to, or says that it cannot."""

    args: TrainingArguments
    model: Any

    def create_accelerator_and_postprocess(self) -> None:
        """As in transformers; with `fsdp` the processes of a CPU shard, too."""
        wanted = bool(self.args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")
        state = PartialState()
        if wanted and state.distributed_type == DistributedType.MULTI_CPU:
            # accelerate (1.15) knows FSDP on accelerators alone, and trains by DDP without a word on a CPU.
            state.distributed_type = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with _ends_with_the_model(self.model) if self.is_fsdp_enabled else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)


@contextmanager
def _ends_with_the_model(model: torch.nn.Module) -> Iterator[None]:
    """Leave embeddings and head to the unit of the whole model, which has them for the length of a step.

    accelerate makes units of them, head and last norm one together. A head may be called as often as a process's rows
    need it, also without the norm; such a unit loses count then, and the processes wait for each other for ever.
    """
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        setattr(model, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)
