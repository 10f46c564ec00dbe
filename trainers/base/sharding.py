"""Weights shared out among processes (FSDP2): on a CPU too, and what cannot work with it is said before any work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainingArguments


class ShardedTrainer(Trainer):
    """A Trainer that shards where it is asked to, or says that it cannot."""

    args: TrainingArguments
    model: Any

    def create_accelerator_and_postprocess(self) -> None:
        """As in transformers; with `fsdp` the processes of a CPU shard, too."""
        state = PartialState()
        if shards(self.args) and state.distributed_type == DistributedType.MULTI_CPU:
            # accelerate (1.15) knows FSDP on accelerators alone, and trains by DDP without a word on a CPU.
            state.distributed_type = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with _ends_with_the_model(self.model) if self.is_fsdp_enabled else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)


def shards(args: TrainingArguments) -> bool:
    """Whether weights are to be sharded, by the arguments or by `accelerate launch`."""
    return bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")


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


@contextmanager
def whole(model: torch.nn.Module) -> Iterator[None]:
    """Sharded weights as a whole on each process, which may then call the model as often as it needs."""
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    if isinstance(model, FSDPModule):
        model._get_fsdp_state()._lazy_init()  # or the first part that is called takes itself for the whole model
    reshards = [part._get_fsdp_state()._fsdp_param_groups[0]._reshard_after_forward for part in parts]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part, reshard in zip(parts, reshards, strict=True):
            part.set_reshard_after_forward(reshard, recurse=False)
            part.reshard()


class EvenCalls:
    """Lets each process call a model whose layers are sharded as often as the process that does so most.

    A sharded layer is brought together by all processes, at each call: one whose rows need less calls would leave the
    others waiting. So they say before each call that it comes (2: with gradient, 1: without, 0: no more), and who is
    done calls along with one token, of which nothing comes into the loss.

    Example::

        with EvenCalls(model) as calls:
            loss = loss_of(model)
            loss = loss + calls.rest()
    """

    def __init__(self, model: torch.nn.Module):
        self.model = model
        parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
        self.layer = parts[0] if parts else None
        # By itself FSDP (torch 2.13) fetches in the backward pass what it saw before in the forward pass. There the
        # end of the whole model's own call stands between ours, at another place in each process: a fixed order.
        for part, before in zip(parts, [*parts[:1], *parts], strict=False):
            part.set_modules_to_backward_prefetch([before])
        self.device = next(model.parameters()).device
        self.with_gradient = 0  # calls

    def __enter__(self) -> "EvenCalls":
        if self.layer is not None:  # a model before its first step of training is whole
            self.hook = self.layer.register_forward_pre_hook(self._announce, prepend=True)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.layer is not None:
            self.hook.remove()

    def rest(self) -> torch.Tensor | float:
        """Makes the calls that are missing; 0, which has to be added to the loss for their backward pass."""
        if self.layer is None:
            return 0.0
        self.hook.remove()
        total: torch.Tensor | float = 0.0
        while kind := self._most(0):
            total = total + self._call(kind == 2)
        # What some made with gradient while others made theirs without.
        while self._most(missing := self._most(self.with_gradient) - self.with_gradient):
            total = total + self._call(missing > 0)
        return total

    def _announce(self, *_: Any) -> None:
        self._most(1 + torch.is_grad_enabled())
        self.with_gradient += torch.is_grad_enabled()

    def _call(self, with_gradient: bool) -> torch.Tensor:
        self.with_gradient += with_gradient
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with torch.set_grad_enabled(with_gradient and torch.is_grad_enabled()):
            return self.model(input_ids=token, use_cache=False).logits.float().sum() * 0.0

    def _most(self, number: int) -> int:
        most = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most)
