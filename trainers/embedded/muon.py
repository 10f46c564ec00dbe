"""Muon for the matrices inside the layers, AdamW for embeddings and norms: one optimizer for the Trainer."""

from collections.abc import Callable
from typing import Any, overload

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` takes matrices only; this pairs it with `torch.optim.AdamW` behind one optimizer interface.

    The parameter groups are those of the two optimizers themselves, so a learning-rate scheduler reaches both.
    """

    def __init__(
        self, matrices: list[torch.nn.Parameter], others: list[torch.nn.Parameter], lr: float, adam_lr: float
    ):
        super().__init__([{"params": matrices}, {"params": others}], {})
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, momentum=0.95)
        adamw = torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @classmethod
    def for_model(cls, model: torch.nn.Module, lr: float = 0.02, adam_lr: float = 3e-3) -> "MuonWithAdamW":
        """Every 2-D weight but the embeddings goes to Muon."""
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
        return cls(matrices, others, lr, adam_lr)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of both; `closure` computes the loss anew, once, and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
