"""What stands before every text, read once: in-context examples or a long instruction, and their keys and values.

In a causal backbone the states of a text's first tokens do not depend on what follows them. So where all texts begin
alike, `encode` reads what they share once, and of each text the rest alone, behind the keys and values of the
beginning: the embeddings are those of reading all of it, but for the order of additions. What is shared is found in
the token ids themselves, so a text that changes how the end of its prompt is tokenised only shares less.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import proxy

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from .backbone_biencoder import BIDIRECTIONAL_DECODERS, is_own_code, sees_both_ways
from .inputs_biencoder import check_tokens
from .placement_biencoder import to_inputs
from .pooling_biencoder import finish, pool, project
from .prompting_biencoder import embed_rows

LEAST_SHARED = 32  # tokens; for fewer, reading behind them (an attention mask, copies) costs about what it saves

_ATTENTIONS = ("sdpa", "eager")
_BY_LENGTH = "longrope"  # positions that turn by other angles where a row is longer than in its training


class RowReader:
    """Embeds rows of token ids, in any number of calls: what they have in common with `shared` is read once in all.

    Args:
        shared: token ids that rows may begin with; none for a model that has to read rows whole.
    """

    def __init__(self, model: Any, shared: Sequence[int], truncate_dim: int | None) -> None:
        self.model, self.shared, self.truncate_dim = model, list(shared), truncate_dim
        self.prefix: KeptPrefix | None = None

    def embed(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """(len(rows), d) float32 on the CPU, in the order given, as `embed_rows` gives it."""
        model, count = self.model, self._count(rows)
        if count < LEAST_SHARED:
            embed = partial(model.embed, truncate_dim=self.truncate_dim)
            return embed_rows(rows, embed, model.tokenizer, model.device)
        if self.prefix is None:
            self.prefix = KeptPrefix(model, self.shared)
        self.prefix.count = count
        return embed_rows([row[count:] for row in rows], self._embed_behind, model.tokenizer, model.device)

    def _count(self, rows: Sequence[Sequence[int]]) -> int:
        """Of how many tokens the keys and values can stand for the tokens: what is pooled is still to be read."""
        config = self.model.config
        own = config.pooling_k if config.pooling == "mean_last_k" else 1
        return min(_in_common(self.shared, row, len(row) - own) for row in rows)

    def _embed_behind(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, length) tokens, padded on the right, behind the prefix -> (n, d) embeddings."""
        model, prefix = self.model, self.prefix
        assert prefix is not None
        check_tokens(input_ids, attention_mask, model)
        mask = torch.cat([attention_mask.new_ones(len(input_ids), prefix.count), attention_mask], dim=1)
        states = prefix.read(model, input_ids, mask)
        if model.config.pooling in ("mean", "cls"):
            states = torch.cat([prefix.states[:, : prefix.count].expand(len(states), -1, -1), states], dim=1)
        pooled = pool(states, mask[:, -states.shape[1] :], model.config.pooling, model.config.pooling_k)
        return finish(project(pooled, model.dense), model.config.normalize, self.truncate_dim)


def _in_common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many tokens two rows begin alike with, up to `most`."""
    pairs = zip(one, other[: max(most, 0)], strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), most))


def shares_prefixes(model: Any) -> bool:
    """Whether a model's backbone can read texts behind a beginning that was read before: causal, and known to.

    Known are those whose code goes through transformers' own making of masks, which the named families' does.
    """
    config = model.config.text_config.get_text_config()
    causal = all(getattr(module, "is_causal", True) is not False for module in model.backbone.modules())
    return (
        config.model_type in BIDIRECTIONAL_DECODERS
        and causal
        and not sees_both_ways(model)
        and is_own_code(model.backbone)
        and config._attn_implementation in _ATTENTIONS
        and _BY_LENGTH not in _rope_types(config)
    )


def _rope_types(config: Any) -> set[str]:
    """The kinds of rotary positions of a configuration, which may be given for each type of layer."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [settings, *(part for part in settings.values() if isinstance(part, dict))]
    return {kind for part in parts for name in ("rope_type", "type") if isinstance(kind := part.get(name), str)}


class KeptPrefix(Cache):
    """Keys and values of a beginning, in transformers' eyes a cache that holds it for any number of rows.

    Attributes:
        count: so many of its tokens stand before the rows that are read. states: (1, tokens, d), its last ones.
    """

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        layers = model.config.text_config.get_text_config().num_hidden_layers
        super().__init__(layers=[_KeptLayer(self) for _ in range(layers)])
        self.count = 0
        rows = torch.tensor([ids], device=model.device)
        check_tokens(rows, None, model)
        self.states = self.read(model, rows, torch.ones_like(rows))

    def read(self, model: Any, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, length) tokens behind the beginning, (n, count + length) mask -> (n, length, d) last states."""
        ids, placed = to_inputs(model, input_ids, mask)
        found = model.backbone(input_ids=ids, attention_mask=placed, past_key_values=self, use_cache=True)
        return found[0].to(input_ids.device)


class _KeptLayer(DynamicLayer):
    """One layer: keeps what is read first, then gives it to every row, before the row's own, and keeps no more."""

    def __init__(self, owner: KeptPrefix) -> None:
        super().__init__()
        self.owner = proxy(owner)  # no cycle of references: the states go with their owner

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, heads, length, size) keys and values -> the same of all that the rows attend to."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        return self._behind(self.keys, key_states), self._behind(self.values, value_states)

    def _behind(self, kept: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        shared = kept[:, :, : self.owner.count].expand(len(states), -1, -1, -1)
        return torch.cat([shared, states], dim=-2)

    def get_seq_length(self) -> int:
        """Tokens before those that are read."""
        return self.owner.count
