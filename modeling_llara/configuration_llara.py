"""Configuration of LLaRA pretraining: the backbone, the two prompts and the weights of the losses."""

import inspect
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .checks_llara import (
    check_choice,
    check_keywords,
    check_number,
    check_positive_int,
    check_token_ids,
    check_types,
    plain,
)
from .format_llara import check_format
from .loading_llara import CONFIG_KEYWORDS, part_config
from .saving_llara import FolderlessConfig

LOSS_WEIGHTINGS = ("fixed", "uncertainty")
MOST_PROMPT_TOKENS = 1024
NO_LIMIT = 2**31 - 1
# What the ids of a prompt were made from.
_OF_IDS = {
    "summarize_prompt_ids": ("num_summary_tokens", "summarize_prompt"),
    "predict_prompt_ids": ("num_predict_tokens", "predict_prompt"),
    "prefix_ids": ("passage_prefix",),
}


class LlaraConfig(FolderlessConfig, PreTrainedConfig):
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
            check_keywords(kwargs, [*self.keywords(), *CONFIG_KEYWORDS], type(self).__name__)
        self.text_config = text_config = part_config("text_config", text_config) or AutoConfig.for_model("llama")
        # transformers sets this one on the sub-config, too, so a loaded backbone would lose what it runs with.
        kwargs.setdefault("attn_implementation", text_config._attn_implementation)
        self.num_summary_tokens = num_summary_tokens
        self.num_predict_tokens = num_predict_tokens
        self.bow_loss_weight = bow_loss_weight
        self.ar_loss_weight = ar_loss_weight
        self.loss_weighting = loss_weighting
        self.predict_sees_summarize = predict_sees_summarize
        self.passage_prefix = passage_prefix
        self.summarize_prompt = summarize_prompt
        self.predict_prompt = predict_prompt
        # ids have checks of their own, which take any sequence
        check_types(self, {name: hint for name, hint in self._types().items() if not name.endswith("_ids")})
        self._check_options()
        self.summarize_prompt_ids = _ids("summarize_prompt_ids", summarize_prompt_ids)
        self.predict_prompt_ids = _ids("predict_prompt_ids", predict_prompt_ids)
        self.ignored_target_ids = _ids("ignored_target_ids", ignored_target_ids)
        self.prefix_ids = _ids("prefix_ids", prefix_ids)
        self._check_prompts()
        super().__init__(**kwargs)
        # peft reads from here whether the head is tied, and not every backbone's configuration says so.
        self.tie_word_embeddings = bool(getattr(text_config, "tie_word_embeddings", False))

    @property
    def max_positions(self) -> int:
        """How many positions the backbone has; of one that names no number, as many as anyone could ask for."""
        names = ("max_position_embeddings", "max_target_positions")
        named = (getattr(self.text_config, name, None) for name in names)
        return next((number for number in named if number), NO_LIMIT)

    @property
    def summarize_token_ids(self) -> list[int]:
        """Ids of the summarize prompt's special tokens, in order."""
        return self.summarize_prompt_ids[-self.num_summary_tokens :]

    @property
    def predict_token_ids(self) -> list[int]:
        """Ids of the predict prompt's special tokens, in order."""
        return self.predict_prompt_ids[-self.num_predict_tokens :]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; settings given beside a saved configuration are checked like those of a new one.

        Raises ValueError for another count or text of a prompt without its ids: the tokens would be others.
        """
        given = {name: kwargs.pop(name) for name in cls.keywords() if name in kwargs and name not in cls.sub_configs}
        _check_given(config_dict, given)
        return super().from_dict({**config_dict, **given}, **kwargs)

    @classmethod
    def keywords(cls) -> list[str]:
        """Names of the settings that belong to LLaRA itself."""
        return list(cls._types())

    @classmethod
    def _types(cls) -> dict[str, Any]:
        parameters = inspect.signature(cls.__init__).parameters
        return {name: one.annotation for name, one in parameters.items() if name not in ("self", "kwargs")}

    def _check_options(self) -> None:
        for name in ("num_summary_tokens", "num_predict_tokens"):
            check_positive_int(name, getattr(self, name), "give the number of the prompt's special tokens")
            if getattr(self, name) > MOST_PROMPT_TOKENS:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be at most {MOST_PROMPT_TOKENS}, as each row carries them "
                    "all: give fewer, such as 8."
                )
        check_choice("loss_weighting", self.loss_weighting, LOSS_WEIGHTINGS)
        for name in ("bow_loss_weight", "ar_loss_weight"):
            check_number(name, getattr(self, name), least=0.0, fix="give 0 to switch the loss off")
            setattr(self, name, float(getattr(self, name)))
            if self.loss_weighting == "uncertainty" and getattr(self, name) == 0:
                raise ValueError(
                    f"{name}=0 must be above 0 with loss_weighting='uncertainty', as a learned weight starts there: "
                    "give a positive number, and leave a loss out by giving no labels or targets for it."
                )

    def _check_prompts(self) -> None:
        prompts = {
            "summarize_prompt_ids": (self.summarize_prompt_ids, self.num_summary_tokens),
            "predict_prompt_ids": (self.predict_prompt_ids, self.num_predict_tokens),
        }
        for name, (ids, count) in prompts.items():
            if ids and len(ids) < count:
                raise ValueError(f"{name} has {len(ids)} ids, and must end with {count} special tokens: add them.")
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


def _check_given(saved: dict[str, Any], given: dict[str, Any]) -> None:
    for ids, names in _OF_IDS.items():
        for name in names if saved.get(ids) and ids not in given else ():
            was = saved.get(name)
            if name in given and was is not None and given[name] != was:
                raise ValueError(
                    f"{name}={given[name]!r} would redefine a prompt of the saved model, which has {name}={was!r} and "
                    f"the ids to it: leave it out, give {ids} as well, or adapt the plain backbone anew."
                )


def _ids(name: str, values: Sequence[int]) -> list[int]:
    check_token_ids(name, values := plain(values))
    return list(values)


LlaraConfig.register_for_auto_class()
