"""How many positions the inputs of a backbone may take, and how many the settings need."""

from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

_BY_LENGTH = "longrope"  # positions that turn by other angles, all of them, in an input that is longer than a limit


def check_positions(config: Any) -> None:
    """Raises ValueError where the longest input needs more positions than the backbone has, or turns alike.

    Beyond that limit LongRoPE turns the first tokens of an input by other angles, too: an input's logits would depend
    on the others in its batch, and a cache that was begun below the limit would not fit what comes behind it.
    """
    limit, why = position_limit(config.text_config)
    added = 0 if config.retrieval_method == "no" or config.integrate_method == "replace" else config.key_num
    needed = config.context_window_size + added * config.value_size + int(config.add_bos)
    if config.reuse_states:
        needed += config.num_sink_tokens + config.chunk_size
    if limit is not None and needed > limit:
        raise ValueError(
            f"context_window_size {config.context_window_size} and key_num {added} retrieved values of "
            f"{config.value_size} tokens need {needed} positions; the backbone has {limit}{why}. "
            f"Lower context_window_size, key_num or chunk_size, or use integrate_method='replace'."
        )
    if config.retrieval_method != "no":
        check_sight(config)


def check_sight(config: Any) -> None:
    """With `reuse_states`, ValueError where no layer sees past the window; a warning where none sees all there is.

    A layer that slides a window of n tokens lets a token see itself and the n - 1 before it.
    """
    seen = _sight(config.text_config) if config.reuse_states else None
    if seen is None or seen >= config.stream_positions:
        return
    window, beside = config.context_window_size, config.stream_positions - config.context_window_size
    replaced = config.key_num * config.value_size if config.integrate_method == "replace" else 0
    fitting = (seen - beside) // config.chunk_size * config.chunk_size
    roomy = fitting >= replaced + 2 * config.chunk_size  # a query chunk and a target must stay in the window
    fix = f"set context_window_size to {fitting} or less" if roomy else "lower key_num and chunk_size"
    window -= replaced
    if seen <= window + 1:  # the last retrieved token stands that far before the first that reads it
        raise ValueError(
            f"reuse_states=True puts what is retrieved before a window of {window} tokens, and no layer of the "
            f"backbone sees past its sliding_window of {seen}: looking back would have no effect. {fix.capitalize()}, "
            "or reuse_states=False, or retrieval_method='no'."
        )
    logger.warning_once(
        f"No layer of the backbone sees past its sliding_window of {seen}; first tokens, retrieved values, window and "
        f"chunk take {config.stream_positions}, so a part of what is retrieved is out of sight: to see all, {fix}."
    )


def _sight(text_config: Any) -> int | None:
    """Tokens that a token sees, itself among them, where every layer slides a window; None where one does not."""
    kinds = getattr(text_config, "layer_types", None) or ["sliding_attention"]  # without kinds, all are alike
    return getattr(text_config, "sliding_window", None) if set(kinds) == {"sliding_attention"} else None


def position_limit(text_config: Any) -> tuple[int | None, str]:
    """Positions that a backbone turns alike, None where there is no limit, and why they end there."""
    positions = getattr(text_config, "max_position_embeddings", None)
    settings = getattr(text_config, "rope_parameters", None) or {}
    parts = [settings, *(part for part in settings.values() if isinstance(part, dict))]  # one for each type of layer
    own = getattr(text_config, "original_max_position_embeddings", None)
    found = [
        part.get("original_max_position_embeddings", own) for part in parts if part.get("rope_type") == _BY_LENGTH
    ]
    shortest = min((limit for limit in found if limit is not None), default=None)
    if shortest is None or (positions is not None and positions <= shortest):
        return positions, ""
    return shortest, f" before its {_BY_LENGTH!r} turns them all by other angles"


def hide_positions(config: Any) -> None:
    """Lets lm-evaluation-harness find `n_positions` of `config`, not the positions of the backbone.

    It takes `config.text_config or config` (0.4.13), so that the former is false here, and the same in all else; a
    copy is plain again. This can go when the harness asks the configuration of the model first.
    """
    kind = type(config.text_config)

    def plain(self: Any, protocol: Any) -> tuple[Any, ...]:
        return object.__new__, (kind,), vars(self)

    own = {"__bool__": lambda self: False, "__reduce_ex__": plain, "__module__": kind.__module__}
    config.text_config.__class__ = type(kind.__name__, (kind,), {**own, "__qualname__": kind.__qualname__})
