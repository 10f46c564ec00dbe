"""Configuration of LLaRA pretraining: the backbone, the two prompts and the weights of the losses."""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .format_llara import check_format

# Keywords that every transformers configuration takes besides its dataclass fields.
_COMMON_KEYWORDS = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {
    *("attn_implementation", "auto_map", "experts_implementation", "lookback_format", "model_type", "name_or_path"),
    *("num_labels", "output_attentions", "quantization_config", "tie_word_embeddings", "torch_dtype", "_name_or_path"),
}

LOSS_WEIGHTINGS = ("fixed", "uncertainty")


class LlaraConfig(PreTrainedConfig):
    """Settings of :class:`LlaraForPreTraining`; all of them are saved in `config.json`.

    Args:
        text_config: configuration of the decoder backbone (an object or its dictionary); default a plain Llama.
        summarize_prompt_ids, predict_prompt_ids: token ids of the two prompts as they end a row. The last
            `num_summary_tokens` (`num_predict_tokens`) ids are the prompt's special tokens: they identify the prompt
            in a row, so they must be distinct and appear nowhere else. An empty prompt is never looked for.
        bow_loss_weight, ar_loss_weight: `loss = ar_loss_weight * ar + bow_loss_weight * mean(bag-of-words losses)`.
        loss_weighting: "fixed" takes these two weights; "uncertainty" starts with them and learns a weight for each of
            the three losses (arXiv 1705.07115, see `LossWeighting` in loss_llara.py).
        predict_sees_summarize: let the predict prompt see the summarize prompt, as in plain causal attention, and
            stand behind it; a row with both prompts is then no longer what two rows would give.
        ignored_target_ids: ids that never count as bag-of-words targets (special and padding tokens).
        prefix_ids: token ids before a passage (BOS where the tokenizer adds one, and the opening quote).
        passage_prefix, summarize_prompt, predict_prompt: the texts that the ids were made from, or None.

    Raises:
        TypeError, ValueError: for an unknown keyword or a value out of its range; the message says which.
    """

    model_type = "lookback_llara"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012  (transformers reads this class attribute)

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        summarize_prompt_ids: Sequence[int] = (),
        predict_prompt_ids: Sequence[int] = (),
        num_summary_tokens: int = 8,
        num_predict_tokens: int = 8,
        bow_loss_weight: float = 0.1,
        ar_loss_weight: float = 1.0,
        loss_weighting: str = "fixed",
        predict_sees_summarize: bool = False,
        ignored_target_ids: Sequence[int] = (),
        prefix_ids: Sequence[int] = (),
        passage_prefix: str | None = None,
        summarize_prompt: str | None = None,
        predict_prompt: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs["lookback_format"] = check_format(kwargs.get("lookback_format"))
        # A saved config.json carries transformers_version, and whatever keys the version that wrote it knew.
        if "transformers_version" not in kwargs:
            reject_unknown(kwargs, _COMMON_KEYWORDS, "LlaraConfig")
        if text_config is None:
            text_config = AutoConfig.for_model("llama")
        elif isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.text_config = text_config
        # transformers sets this one on the sub-config, too, so a loaded backbone would lose what it runs with.
        kwargs.setdefault("attn_implementation", text_config._attn_implementation)
        self.num_summary_tokens = _positive_int("num_summary_tokens", num_summary_tokens)
        self.num_predict_tokens = _positive_int("num_predict_tokens", num_predict_tokens)
        self.summarize_prompt_ids = _ids("summarize_prompt_ids", summarize_prompt_ids)
        self.predict_prompt_ids = _ids("predict_prompt_ids", predict_prompt_ids)
        self.bow_loss_weight = _weight("bow_loss_weight", bow_loss_weight)
        self.ar_loss_weight = _weight("ar_loss_weight", ar_loss_weight)
        self.loss_weighting = loss_weighting
        self.predict_sees_summarize = predict_sees_summarize
        self._check_options()
        self.ignored_target_ids = _ids("ignored_target_ids", ignored_target_ids)
        self.prefix_ids = _ids("prefix_ids", prefix_ids)
        self.passage_prefix = passage_prefix
        self.summarize_prompt = summarize_prompt
        self.predict_prompt = predict_prompt
        self._check_prompts()
        super().__init__(**kwargs)
        # peft reads from here whether the head is tied, and not every backbone's configuration says so.
        self.tie_word_embeddings = bool(getattr(text_config, "tie_word_embeddings", False))

    @property
    def summarize_token_ids(self) -> list[int]:
        """Ids of the summarize prompt's special tokens, in order."""
        return self.summarize_prompt_ids[-self.num_summary_tokens :]

    @property
    def predict_token_ids(self) -> list[int]:
        """Ids of the predict prompt's special tokens, in order."""
        return self.predict_prompt_ids[-self.num_predict_tokens :]

    def _check_options(self) -> None:
        if self.loss_weighting not in LOSS_WEIGHTINGS:
            raise ValueError(f"loss_weighting is {self.loss_weighting!r} but must be one of {LOSS_WEIGHTINGS}.")
        weights = {"ar_loss_weight": self.ar_loss_weight, "bow_loss_weight": self.bow_loss_weight}
        for name, weight in weights.items():
            if self.loss_weighting == "uncertainty" and weight == 0:
                raise ValueError(
                    f"{name} is 0 but with loss_weighting='uncertainty' a learned weight starts there: pass a "
                    "positive number, and leave a loss out by giving no labels or targets for it."
                )
        if not isinstance(self.predict_sees_summarize, bool):
            raise TypeError(f"predict_sees_summarize is {self.predict_sees_summarize!r} but must be True or False.")

    def _check_prompts(self) -> None:
        prompts = {
            "summarize_prompt_ids": (self.summarize_prompt_ids, self.num_summary_tokens),
            "predict_prompt_ids": (self.predict_prompt_ids, self.num_predict_tokens),
        }
        for name, (ids, count) in prompts.items():
            if ids and len(ids) < count:
                raise ValueError(f"{name} has {len(ids)} ids but must end with {count} special tokens: add them.")
            if any(ids.count(token) > 1 for token in ids[-count:]):
                raise ValueError(
                    f"the last {count} ids of {name}, {ids[-count:]}, are its special tokens and must each occur "
                    "once in it: give each a token of its own."
                )
        for ours, others in (
            (self.summarize_token_ids, self.predict_prompt_ids),
            (self.predict_token_ids, self.summarize_prompt_ids),
        ):
            if shared := set(ours) & set(others):
                raise ValueError(
                    f"token ids {sorted(shared)} are special in one prompt and occur in the other, which makes the "
                    "prompts impossible to tell apart: use other special tokens."
                )


def reject_unknown(given: dict[str, Any], extra: set[str], where: str) -> None:
    """Raise ValueError for the first keyword that neither LlaraConfig nor `extra` knows, naming the nearest one."""
    own = set(inspect.signature(LlaraConfig.__init__).parameters) - {"self", "kwargs"}
    for name in given:
        if name not in own | extra:
            nearest = difflib.get_close_matches(name, sorted(own | extra), n=1, cutoff=0.0)
            raise ValueError(f"{where} has no keyword {name!r}: did you mean {nearest[0]!r}? It takes {sorted(own)}.")


def _positive_int(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}) but must be an int: pass a whole number.")
    if value < 1:
        raise ValueError(f"{name} is {value} but must be at least 1: pass a positive number.")
    return value


def _weight(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}) but must be a number: pass a float.")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} is {value} but must be finite and not negative: pass 0 to switch the loss off.")
    return float(value)


def _ids(name: str, values: Sequence[int]) -> list[int]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} is {values!r} but must be a list or tuple of token ids: tokenize the text first.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} holds {value!r} but must hold ints: pass token ids, not tokens or tensors.")
        if value < 0:
            raise ValueError(f"{name} holds {value} but token ids are not negative: remove it.")
    return list(values)


LlaraConfig.register_for_auto_class()
