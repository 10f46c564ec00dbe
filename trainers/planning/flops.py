"""Operations of a pass: 2 for each weight and token, 4 for each pair of tokens and number of a head.

With T tokens in rows of length S, M the weights that a token is multiplied by, l layers, a = heads x head size:

    forward:   F = 2 M T + 4 l a S T
    backward:  2 (M + M') T + 8 l a S T, M' the weights that train
    head:      2 V d for each scored token forward, as much for its input's gradient, and once more if it trains

`gradient_checkpointing` and `sub_batch_size` add F once more for what they compute again. Softmax, norms, activations,
the embedding's lookup and the optimizer are left out: they are limited by memory, and small beside these.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from .build import body_of, text_config_of
from .shapes import Rows, Shapes

EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk")  # names that families have for one number


@dataclass(frozen=True)
class Operations:
    """What a model multiplies by.

    Attributes:
        weights, trained_weights: M and M', of the layers.
        head, trained_head: V d, 0 without a head, and where it does not train.
        layers, attention: l, a.
        width: d, of an embedding or a hidden state.
    """

    weights: float
    trained_weights: float
    head: int
    trained_head: int
    layers: int
    attention: int
    width: int

    def forward(self, rows: tuple[Rows, ...]) -> float:
        """Of the layers."""
        pairs = sum(one.count * one.length**2 for one in rows)
        return 2 * self.weights * sum(one.tokens for one in rows) + 4 * self.layers * self.attention * pairs

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
    body, config = body_of(model), text_config_of(model)
    head = model.get_output_embeddings()
    # Of ALBERT all layers are one, or a few.
    times = config.num_hidden_layers / (vars(config).get("num_hidden_groups") or config.num_hidden_layers)
    weights = [(size * times, trains) for size, trains in _weights(body, config)]
    return Operations(
        weights=sum(size for size, _ in weights),
        trained_weights=sum(size for size, trains in weights if trains),
        head=0 if head is None else head.weight.numel(),
        trained_head=head.weight.numel() if head is not None and head.weight.requires_grad else 0,
        layers=config.num_hidden_layers,
        attention=config.num_attention_heads * head_size(config),
        width=config.hidden_size,
    )


def head_size(config: Any) -> int:
    """Numbers of a head's query, key and value."""
    return vars(config).get("head_dim") or config.hidden_size // config.num_attention_heads


def kv_heads(config: Any) -> int:
    """Heads of keys and values."""
    return vars(config).get("num_key_value_heads") or config.num_attention_heads


def _weights(body: nn.Module, config: Any) -> Any:
    """(weights that a token meets, whether they train) of each matrix; of experts those that it is sent to."""
    chosen = next((value for name in EXPERTS if (value := vars(config).get(name))), None)
    for module in body.modules():
        if isinstance(module, nn.Embedding | nn.ParameterDict):
            continue
        for weight in module.parameters(recurse=False):
            if weight.ndim == 2:
                yield weight.numel(), weight.requires_grad
            elif weight.ndim == 3:
                yield weight.numel() * min((chosen or weight.shape[0]) / weight.shape[0], 1), weight.requires_grad
