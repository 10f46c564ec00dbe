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

from .backbone_llara import adopt_backbone, save_backbone
from .batch_loss_llara import batch_losses
from .configuration_llara import LlaraConfig
from .decoder_llara import logits_head, run_decoder
from .inputs_llara import check_generation, check_switches, check_vocabulary, read_batch
from .loss_llara import LossWeighting
from .placement_llara import own_class, to_inputs
from .prompts_llara import biencoder_keywords, check_prompts
from .repository_llara import CompleteRepository

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
    _begins_anew = ("loss_weighting.",)  # a model with fixed weights may begin to learn them
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
        check_vocabulary(config)
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
        config, decoder, words = adopt_backbone(backbone, tokenizer, kwargs)
        model = cls(config, backbone=decoder)
        if words is not None:
            model.tokenizer = words
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
            labels: (B, L), the passage's ids, -100 elsewhere; asks for the autoregressive loss. Those under padding do
                not count.
            output_summarize_ids, output_predict_ids: (B, T) words that the prompt's special tokens have to predict,
                padded with -100 or with ids that the config ignores; each asks for its bag-of-words loss.
            inputs_embeds: not supported, must be None.
            output_logits: also give the (B, L, V) logits of all positions.

        Raises:
            TypeError, ValueError: before any compute; the message names the row, the rule and the fix.
        """
        check_switches(
            output_logits=output_logits, output_hidden_states=output_hidden_states,
            output_attentions=output_attentions, return_dict=return_dict,
        )  # fmt: skip
        if inputs_embeds is not None:
            raise ValueError("inputs_embeds is given but the prompts are found by their ids: pass input_ids.")
        input_ids, attention_mask, position_ids, labels, *words = to_inputs(
            self.backbone, input_ids, attention_mask, position_ids, labels, output_summarize_ids, output_predict_ids
        )
        targets = dict(zip(("output_summarize_ids", "output_predict_ids"), words, strict=True))
        rows = read_batch(self.config, self.backbone.config, input_ids, attention_mask, position_ids, labels, targets)
        states = run_decoder(
            self.backbone, rows.input_ids, rows.mask, rows.streams, rows.positions,
            output_hidden_states=bool(output_hidden_states), output_attentions=bool(output_attentions),
        )  # fmt: skip
        head = logits_head(self.backbone)
        losses = batch_losses(
            states.last_hidden_state, rows.labels, rows.spans, targets, head, self.config, self.loss_weighting
        )
        output = LlaraOutput(**losses)
        if output_logits:
            output.logits = head(states.last_hidden_state)
        output.hidden_states, output.attentions = states.hidden_states, states.attentions
        return output.to_tuple() if return_dict is False else output

    def _check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super()._check_tokenizer(tokenizer)
        check_prompts(self.config, tokenizer)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LossWeighting):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Plain causal generation of the backbone, for inputs without prompts; arguments as in transformers."""
        kwargs = check_generation(self.backbone.config.get_text_config().vocab_size, args, kwargs)
        if kwargs.get("generation_config") is None and len(args) < 2:
            kwargs["generation_config"] = self.generation_config
        return self.backbone.generate(*args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save weights, config, code, tokenizer and model card: a repo that loads with `trust_remote_code=True`."""
        self.config.auto_map = {name: f"modeling_llara.{own_class(self).__name__}" for name in AUTO_CLASSES}
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_backbone(self, folder: str | Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save the backbone alone, with the tokenizer if there is one: a plain checkpoint that any tool loads.

        The folder changes when everything is written, or not at all, as in `save_pretrained`.

        Args:
            state_dict: this model's weights, where FSDP or ZeRO gathered them; default the model's own.

        Raises:
            ValueError: while adapters are on the model, as a plain checkpoint has no place for them.
        """
        save_backbone(self, Path(folder), state_dict)

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


LlaraForPreTraining.register_for_auto_class("AutoModelForPreTraining")
