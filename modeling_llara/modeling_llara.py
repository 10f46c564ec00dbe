"""LlaraForPreTraining: a decoder backbone under the LLaRA objectives (Llama2Vec, arXiv 2312.15503)."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.utils import ModelOutput

from .backbone_llara import (
    LOADING_KEYWORDS,
    add_token_rows,
    check_backbone,
    load_backbone,
    load_tokenizer,
    logits_head,
    run_decoder,
)
from .configuration_llara import LlaraConfig, reject_unknown
from .inputs_llara import check_rows, check_shapes
from .loss_llara import (
    IGNORED_LABEL,
    LossWeighting,
    autoregressive_loss,
    bag_of_words_loss,
    combine_losses,
    weigh_by_uncertainty,
)
from .masking_llara import Span, check_attention, check_implementation, find_span, find_streams, two_stream_positions
from .prompts_llara import add_prompts, biencoder_keywords
from .repository_llara import CompleteRepository
from .saving_llara import saved_whole

AUTO_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForPreTraining")


@dataclass
class LlaraOutput(ModelOutput):
    """What a forward pass gives; B rows of L tokens, vocabulary V, hidden size d.

    Attributes:
        loss: scalar, the weighted sum of what was asked for; None without labels and targets.
        ar_loss: scalar, mean next-token loss over the labels; not weighted.
        bow_summarize_loss, bow_predict_loss: scalars, bag-of-words loss of each prompt; not weighted.
        log_variances: (3,) the learned s of these three losses, with `loss_weighting="uncertainty"`.
        logits: (B, L, V), only with `output_logits=True`.
        hidden_states: tuple of (B, L, d), the last one as the head sees it; only with `output_hidden_states=True`.
        attentions: tuple of (B, heads, L, L); only with `output_attentions=True` under eager attention.
    """

    loss: torch.Tensor | None = None
    ar_loss: torch.Tensor | None = None
    bow_summarize_loss: torch.Tensor | None = None
    bow_predict_loss: torch.Tensor | None = None
    log_variances: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class LlaraForPreTraining(CompleteRepository, GenerationMixin):
    """Any decoder of transformers, trained to say at its prompts' special tokens what a text is about.

    Example::

        model = LlaraForPreTraining.from_backbone("path/or/repo")
        row = build_row(model.config, model.tokenizer("a passage", add_special_tokens=False)["input_ids"])
    """

    config_class = LlaraConfig
    config: LlaraConfig
    base_model_prefix = "backbone"
    _tied_weights_keys = {}  # noqa: RUF012  (none here; as a dict it sends peft to those of the backbone)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True  # for generate; forward refuses it with an error that says what to use
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["loss_weighting"]  # noqa: RUF012  (a plain list, as in transformers)
    # The losses are means over one batch, so the Trainer must divide them by the accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: LlaraConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        _check_ids(config)
        if backbone is None:
            self.backbone = AutoModelForCausalLM.from_config(config.text_config)
        else:
            self.backbone = backbone
        learned = config.loss_weighting == "uncertainty"
        # Beside the backbone: a plain checkpoint of that one has no place for it, and needs none.
        self.loss_weighting = LossWeighting(config.ar_loss_weight, config.bow_loss_weight) if learned else None
        if backbone is None:
            self.post_init()
        else:
            with init.no_init_weights():
                self.post_init()
        self.generation_config = self.backbone.generation_config

    @classmethod
    def from_backbone(
        cls,
        backbone: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        **kwargs: Any,
    ) -> "LlaraForPreTraining":
        """Put a causal LM under the LLaRA objectives.

        Unless both prompts' ids are given, special tokens are added to a copy of the tokenizer (by default the
        backbone's own), the embeddings grow by them (each new row the mean of the old), and the prompts are made.

        Args:
            backbone: repo id, folder, or a loaded causal LM, which is then used itself, not copied.
            tokenizer: a tokenizer, or its repo id or folder.
            **kwargs: LlaraConfig keywords; for a backbone to load also `revision`, `token`, `cache_dir`, `dtype`,
                `attn_implementation` and the other loading keywords of `from_pretrained`.

        Raises:
            ValueError: for an unknown keyword, a missing tokenizer, or a backbone that the two-stream mask or the
                losses cannot serve.
        """
        reject_unknown(kwargs, LOADING_KEYWORDS, "from_backbone")
        loading = {name: kwargs.pop(name) for name in list(kwargs) if name in LOADING_KEYWORDS}
        check_implementation(loading.get("attn_implementation"))  # before transformers asks for its package
        source = str(backbone) if isinstance(backbone, Path) else backbone
        given = ("summarize_prompt_ids" in kwargs, "predict_prompt_ids" in kwargs)
        if any(given) != all(given):
            raise ValueError(
                "only one of summarize_prompt_ids and predict_prompt_ids is given: pass both (an empty list for a "
                "prompt that is not used), or neither to have them made."
            )
        settings = LlaraConfig(**kwargs)  # wrong values raise before anything is loaded
        words = None if all(given) and tokenizer is None else load_tokenizer(tokenizer, source, loading)
        decoder = load_backbone(source, **loading)
        if words is not None and not all(given):
            num_known = len(words)
            words, prompts = add_prompts(words, settings.num_summary_tokens, settings.num_predict_tokens)
            add_token_rows(decoder, list(range(num_known, len(words))), num_known)
            kwargs = {**prompts, **kwargs}
        check_backbone(decoder)
        attention = decoder.config._attn_implementation
        config = LlaraConfig(text_config=decoder.config, dtype=decoder.dtype, attn_implementation=attention, **kwargs)
        model = cls(config, backbone=decoder)
        model._tokenizer = words
        return model

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_summarize_ids: torch.Tensor | None = None,
        output_predict_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_logits: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> LlaraOutput | tuple[Any, ...]:
        """Losses of a batch of rows `[passage | summarize prompt | predict prompt]`; either prompt may be missing.

        Args:
            input_ids: (B, L); the prompts are found by their special tokens, row by row.
            attention_mask: (B, L), 1 at tokens and 0 at padding, on either side.
            position_ids: (B, L) positions to use in place of the two-stream ones.
            labels: (B, L), the passage's ids, -100 elsewhere; asks for the autoregressive loss.
            output_summarize_ids, output_predict_ids: (B, T) words that the prompt's special tokens have to predict,
                padded with -100 or with ids that the config ignores; each asks for its bag-of-words loss.
            inputs_embeds: not supported, must be None.
            output_logits: also give the (B, L, V) logits of all positions.

        Raises:
            TypeError, ValueError: before any compute; the message names the row, the rule and the fix.
        """
        if inputs_embeds is not None:
            raise ValueError("inputs_embeds is given but the prompts are found by their ids: pass input_ids.")
        targets = {"output_summarize_ids": output_summarize_ids, "output_predict_ids": output_predict_ids}
        check_attention(self.backbone.config)
        input_ids = check_shapes(input_ids, attention_mask, position_ids, labels, targets).long()
        mask = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
        spans = self._find_spans(input_ids, mask)
        streams = find_streams(input_ids.shape[1], spans["summarize"], spans["predict"])
        if self.config.predict_sees_summarize:
            streams = torch.zeros_like(streams)  # one stream: plain causal attention
        positions = two_stream_positions(mask, streams) if position_ids is None else position_ids
        check_rows(self.config, input_ids, mask, positions, labels, spans, targets)
        states = run_decoder(
            self.backbone, input_ids, mask, streams, positions,
            output_hidden_states=bool(output_hidden_states), output_attentions=bool(output_attentions),
        )  # fmt: skip
        output = self._losses(states.last_hidden_state, labels, spans, targets)
        if output_logits:
            output.logits = logits_head(self.backbone)(states.last_hidden_state)
        output.hidden_states, output.attentions = states.hidden_states, states.attentions
        return output.to_tuple() if return_dict is False else output

    def _find_spans(self, input_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Span]:
        config = self.config
        return {
            "summarize": find_span(input_ids, mask, config.summarize_prompt_ids, config.num_summary_tokens),
            "predict": find_span(input_ids, mask, config.predict_prompt_ids, config.num_predict_tokens),
        }

    def _losses(
        self,
        states: torch.Tensor,
        labels: torch.Tensor | None,
        spans: dict[str, Span],
        targets: dict[str, torch.Tensor | None],
    ) -> LlaraOutput:
        output, head = LlaraOutput(), logits_head(self.backbone)
        if labels is not None:
            output.ar_loss = autoregressive_loss(states, labels.long(), head)
        counts = {"summarize": self.config.num_summary_tokens, "predict": self.config.num_predict_tokens}
        ignored = torch.tensor(self.config.ignored_target_ids, dtype=torch.long, device=states.device)
        rows = {}  # how many have a target, for each prompt
        for name, span in spans.items():
            ids = targets[f"output_{name}_ids"]
            if ids is not None:
                indices = span.special_token_indices(counts[name])  # (B, n)
                special = states.gather(1, indices[..., None].expand(-1, -1, states.shape[-1]))  # (B, n, d)
                output[f"bow_{name}_loss"], rows[name] = bag_of_words_loss(head(special), ids.long(), ignored)
        output.loss = self._weigh(output, labels, rows)
        return output

    def _weigh(
        self, output: LlaraOutput, labels: torch.Tensor | None, rows: dict[str, torch.Tensor]
    ) -> torch.Tensor | None:
        if self.loss_weighting is None:
            words = [(output[f"bow_{name}_loss"], count) for name, count in rows.items()]
            return combine_losses(output.ar_loss, words, self.config.ar_loss_weight, self.config.bow_loss_weight)
        output.log_variances = self.loss_weighting()
        tokens = None if labels is None else (labels[:, 1:] != IGNORED_LABEL).sum()
        parts = [
            (output.ar_loss, tokens),
            (output.bow_summarize_loss, rows.get("summarize")),
            (output.bow_predict_loss, rows.get("predict")),
        ]
        terms = [
            weigh_by_uncertainty(loss, log_variance) * (count > 0)  # a loss over nothing has no term
            for (loss, count), log_variance in zip(parts, output.log_variances, strict=True)
            if loss is not None and count is not None
        ]
        return torch.stack(terms).sum() if terms else None

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LossWeighting):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Plain causal generation of the backbone, for inputs without prompts; arguments as in transformers."""
        if kwargs.get("generation_config") is None and len(args) < 2:
            kwargs["generation_config"] = self.generation_config
        return self.backbone.generate(*args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save weights, config, code, tokenizer and model card: a repo that loads with `trust_remote_code=True`."""
        self.config.auto_map = {name: f"modeling_llara.{type(self).__name__}" for name in AUTO_CLASSES}
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_backbone(self, folder: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save the backbone alone, with the tokenizer if there is one: a plain checkpoint that any tool loads.

        The folder changes when everything is written, or not at all, as in `save_pretrained`.

        Args:
            state_dict: this model's weights, where FSDP or ZeRO gathered them; default the model's own.

        Raises:
            ValueError: while adapters are on the model, as a plain checkpoint has no place for them.
        """
        if any("lora_" in name for name, _ in self.named_parameters()) or self._hf_peft_config_loaded:
            raise ValueError(
                "the model carries adapters, which a plain checkpoint cannot hold: merge them first, with "
                "get_peft_model(...).merge_and_unload()."
            )
        prefix = f"{self.base_model_prefix}."
        given = {name: value for name, value in (state_dict or {}).items() if name.startswith(prefix)}
        weights = {name.removeprefix(prefix): value for name, value in given.items()}
        with saved_whole(Path(folder)) as place:
            self.backbone.save_pretrained(place, state_dict=None if state_dict is None else weights)
            self._save_tokenizer(place)

    def to_biencoder(self) -> dict[str, Any]:
        """Keywords for `BiEncoderModel.from_backbone(folder_of_save_backbone, **keywords)`: both prompts and pooling.

        A query is read with the predict prompt, a passage with the summarize prompt; the embedding is the mean of
        the last hidden states at the special tokens, normalised; temperature 0.01 (reference: the paper, section 4).

        Raises:
            ValueError: when the prompts' texts are unknown, or the prompts have unequal numbers of special tokens.
        """
        return biencoder_keywords(self.config)

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's token embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's token embeddings."""
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The backbone's language-model head."""
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's language-model head."""
        self.backbone.set_output_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers, on the backbone, whose configuration is this one's `text_config`."""
        return self.backbone.resize_token_embeddings(*args, **kwargs)


def _check_ids(config: LlaraConfig) -> None:
    size = config.text_config.vocab_size
    for name in ("summarize_prompt_ids", "predict_prompt_ids", "ignored_target_ids", "prefix_ids"):
        if (largest := max([-1, *config.to_dict()[name]])) >= size:
            raise ValueError(
                f"{name} holds {largest} but the backbone's vocabulary ends at {size - 1}: resize the backbone's "
                "embeddings first, or correct the ids."
            )
    if not config.summarize_prompt_ids and not config.predict_prompt_ids:
        raise ValueError(
            "summarize_prompt_ids and predict_prompt_ids are both empty: pass them, or a tokenizer to from_backbone."
        )


LlaraForPreTraining.register_for_auto_class("AutoModelForPreTraining")
