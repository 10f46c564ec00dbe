"""Weights shared out among processes (FSDP2): on a CPU too, and what cannot work with it is said before any work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, parse_flag_from_env
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, StateDictType
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput


class ShardedTrainer(Trainer):
    """A Trainer that shards where it is asked to, or says that it cannot."""

    kept_whole: ClassVar[str | None] = None  # the module of a model whose weights each process has as a whole
    args: TrainingArguments
    model: Any

    def create_accelerator_and_postprocess(self) -> None:
        """As in transformers; with `fsdp` the processes of a CPU shard, too."""
        state = PartialState()
        if shards(self.args) and state.distributed_type == DistributedType.MULTI_CPU:
            # accelerate (1.15) knows FSDP on accelerators alone, and trains by DDP without a word on a CPU.
            state.distributed_type = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()
        if not self.is_fsdp_enabled:
            return
        plugin = self.accelerator.state.fsdp_plugin
        self.check_plugin(plugin)
        if self.kept_whole is not None:
            given = plugin.ignored_modules
            plugin.ignored_modules = self.kept_whole if given is None else f"{given}|{self.kept_whole}"
        if isinstance(plugin.cpu_offload, CPUOffloadPolicy) and not torch.accelerator.is_available():
            plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)  # which a CPU alone cannot do

    def check_plugin(self, plugin: Any) -> None:
        """ValueError for settings of FSDP, from the arguments or from `accelerate launch`, that do not work here."""
        refused = {
            "version=1": (plugin.fsdp_version != 2, "version=2", "it is no longer kept up"),
            "state_dict_type=SHARDED_STATE_DICT": (
                plugin.state_dict_type != StateDictType.FULL_STATE_DICT,
                "state_dict_type=FULL_STATE_DICT",
                "a checkpoint is a repo, which loads anywhere",
            ),
            "auto_wrap_policy=SIZE_BASED_WRAP": (
                plugin.auto_wrap_policy is size_based_auto_wrap_policy,
                "auto_wrap_policy=TRANSFORMER_BASED_WRAP",
                "parts of a layer are not called equally often by all processes",
            ),
            "cpu_ram_efficient_loading=true": (
                plugin.cpu_ram_efficient_loading and getattr(self.model, self.kept_whole or "", None) is not None,
                "cpu_ram_efficient_loading=false",
                f"each process has the {self.kept_whole} as a whole",
            ),
        }
        for given, (there, wanted, why) in refused.items():
            if there:
                raise ValueError(f"fsdp_config has {given}, which does not work here, as {why}: set {wanted}.")

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in transformers, which (5.23) fails on a model that is to be sharded and did not train yet."""
        if self.is_fsdp_enabled and not isinstance(self.model, FSDPModule):
            # accelerate (1.15) shards a model beside its optimizer alone.
            unused = torch.optim.SGD([weight for weight in self.model.parameters() if weight.requires_grad])
            with _ends_with_the_model(self.model):
                self.model, _ = self.accelerator.prepare(self.model, unused)
            self.model_wrapped = self.model
        output = super().evaluation_loop(*args, **kwargs)
        for part in sharded_parts(self.model):
            part.reshard()  # else embeddings and head stay whole, and an optimizer made now would train such copies
        return output

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with _ends_with_the_model(self.model) if self.is_fsdp_enabled else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)


def shards(args: TrainingArguments) -> bool:
    """Whether weights are to be sharded, by the arguments or by `accelerate launch`."""
    return bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP")


def as_tied(model: Any, gathered: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gathered weights, of which those that are tied are one again: else each of them would be saved."""
    pairs = model.all_tied_weights_keys.items()
    return gathered | {name: gathered[source] for name, source in pairs if name in gathered and source in gathered}


def sharded_parts(model: torch.nn.Module) -> list[Any]:
    """The modules whose weights are brought together by all processes when they are called; none are kept whole."""
    parts = (part for part in model.modules() if isinstance(part, FSDPModule))
    return [part for part in parts if part._get_fsdp_state()._fsdp_param_groups]


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
    parts = sharded_parts(model)
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
        parts = sharded_parts(model)
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
