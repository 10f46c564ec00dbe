"""Operations of a pass: 2 for each weight and token, 4 for each pair of tokens and number of a head.

With T tokens in rows of length S, M the weights that a token is multiplied by, A the numbers of all heads and layers:

    forward:   F = 2 M T + 4 A S T
    backward:  2 (M + M') T + 8 A S T, M' the weights that train
    head:      2 V d for each scored token forward, as much for its input's gradient, and once more if it trains

M, M' and A are counted in the model's own code on tensors without contents.
`gradient_checkpointing` and `sub_batch_size` add F once more for what they compute again. Softmax, norms, activations,
the embedding's lookup and the optimizer are left out: they are limited by memory, and small beside these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers.integrations import moe

from .build import body_of, text_config_of
from .contentless import by_layers, per_length
from .memory import storage_of, trained
from .shapes import Rows, Shapes


@dataclass(frozen=True)
class Operations:
    """What a model multiplies by.

    Attributes:
        weights, trained_weights: M and M', of the layers; of experts those that a token is sent to.
        head, trained_head: V d, 0 without a head, and where it does not train.
        attention: A, the mean of a key's and a value's numbers in each head and layer.
        width: d, of an embedding or a hidden state.
    """

    weights: float
    trained_weights: float
    head: int
    trained_head: int
    attention: float
    width: int

    def forward(self, rows: tuple[Rows, ...]) -> float:
        """Of the layers."""
        pairs = sum(one.count * one.length**2 for one in rows)
        return 2 * self.weights * sum(one.tokens for one in rows) + 4 * self.attention * pairs

    def step(self, shapes: Shapes, checkpointing: bool, gpus: int = 1, head_again: bool = False) -> float:
        """Of a micro-batch on one device, forward and backward.

        Args:
            gpus: devices whose passages serve a bi-encoder's queries as negatives.
            head_again: LLaRA: the logits are computed once more in the backward pass (`autoregressive_loss`).
        """
        tokens = shapes.tokens
        forward = self.forward(shapes.rows)
        backward = 2 * forward - 2 * (self.weights - self.trained_weights) * tokens
        again = self.forward(shapes.again) + (forward if checkpointing else 0)
        scored = sum(one.count * one.scored for one in shapes.rows)
        words = shapes.rows[0].count * shapes.words
        head = 2 * (scored + words) * (2 * self.head + self.trained_head) + (
            2 * scored * self.head if head_again else 0
        )
        return forward + backward + again + head + self._scores(shapes, gpus)

    def _scores(self, shapes: Shapes, gpus: int) -> float:
        """Of queries by passages, where there is no head."""
        if self.head or len(shapes.rows) < 2:
            return 0
        return 6 * shapes.rows[0].count * shapes.rows[1].count * gpus * self.width


def operations_of(model: Any) -> Operations:
    """The numbers of a model, with or without a LoRA."""
    # What is computed once for a row, such as a pooler, is left out.
    (_, token, pair), _ = by_layers(body_of(model), lambda part: per_length(part, _counted, mask=True))
    head = model.get_output_embeddings()
    return Operations(
        weights=token[0] / 2,
        trained_weights=token[1] / 2,
        head=0 if head is None else head.weight.numel(),
        trained_head=head.weight.numel() if head is not None and head.weight.requires_grad else 0,
        attention=pair[0] / 4,
        width=text_config_of(model).hidden_size,
    )


def _counted(there: Any, inputs: dict[str, Any]) -> list[int]:
    """Operations of the forward pass, and those by weights that train; attention as plain products."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _any_expert(), _Counter(trained(there)) as counter:
        there(**inputs)
    return [counter.all, counter.by_trained]


class _Counter(TorchDispatchMode):
    """Operations by torch's own formulas; its `FlopCounterMode` takes five times as long and sees no weights."""

    def __init__(self, weights: list[torch.nn.Parameter]):
        super().__init__()
        self.weights = {storage_of(one) for one in weights}
        self.all = self.by_trained = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            count = formula(*args, **(kwargs or {}), out_val=result)
            self.all += count
            if any(isinstance(one, torch.Tensor) and storage_of(one) in self.weights for one in args):
                self.by_trained += count
        return result


@contextmanager
def _any_expert() -> Iterator[None]:
    """Each token meets the first of the experts' matrices, as all are of one shape: a product that is counted."""

    def product(input: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
        return input.to(weight.dtype) @ weight[0]

    known = moe._grouped_mm
    moe._grouped_mm = product
    try:
        yield
    finally:
        moe._grouped_mm = known
