"""SelfRetrievalLM: a language model that retrieves from its own past.

A long row is cut into chunks; each target chunk's predecessor is the query, the chunks before the window are the
keys, and the best keys' values (a chunk and the one after it) go into the input before the target is scored. The
semantics are those of LLM-Embedder's long-range language modelling (Zhang et al., 2023, arXiv 2310.07554).
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .candidates_srlm import score_candidates
from .chat_srlm import ChatReply, Message, answer_chat
from .checks_srlm import typed
from .components_srlm import from_components
from .configuration_srlm import SelfRetrievalConfig
from .dialogue_srlm import score_answers, score_continuations
from .documents_srlm import perplexity, run_documents
from .encoding_srlm import EmbeddingCache
from .generation_srlm import RetrievalState, finish_generation, prepare_generation, refuse_continuous_batching
from .inputs_srlm import check_inputs, is_dialogue
from .output_srlm import SelfRetrievalOutput
from .planning_srlm import Plan
from .proof_srlm import proven_states
from .retriever_srlm import NestedRetriever, TextEncoder
from .tokenizers_srlm import TwoTokenizers


class SelfRetrievalLM(TwoTokenizers, GenerationMixin):
    """A causal LM with a retriever over its own past. Build one with [`~SelfRetrievalLM.from_components`].

    Attributes:
        embedding_cache: None, or an [`EmbeddingCache`] that keeps chunk embeddings from one training step to another.
        settles_blocks: with `reuse_states`, `forward` takes a block's gradient before it reads the next block. False
            keeps the graphs of all: for weights in pieces (FSDP, ZeRO 3), and losses that are scaled up (fp16).
    """

    config: SelfRetrievalConfig
    config_class = SelfRetrievalConfig
    base_model_prefix = "language_model"
    settles_blocks: bool = True
    _proven: Any = None  # of `reuse_states`: how keys move; and what the last text left
    _kept_states: Any = None
    _tied_weights_keys = {}  # noqa: RUF012  (none here; as a dict it sends peft to those of the backbone)
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean already: the Trainer must not multiply it by its accumulation
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: SelfRetrievalConfig):
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.retriever = NestedRetriever(config) if config.retriever_config is not None else None
        self.embedding_cache: EmbeddingCache | None = None
        self.post_init()

    @classmethod
    def from_components(
        cls,
        model: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerBase | None = None,
        retriever: TextEncoder | str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        retriever_kwargs: dict[str, Any] | None = None,
        **config: Any,
    ) -> "SelfRetrievalLM":
        """A self-retrieval LM around a causal LM and a retriever.

        Args:
            model: a causal LM, or the Hub id or folder of one.
            tokenizer: the LM's own; default: the one beside `model` when that is an id or a folder.
            retriever: a BiEncoderModel, a SentenceTransformer or a bi-encoder's Hub id or folder (saved inside this
                model's repo), or any object with `encode(list[str]) -> (n, d)` (given anew after loading).
            model_kwargs, retriever_kwargs: passed to the `from_pretrained` of either (`revision`, `dtype`, ...). Where
                they do not say so, no code of a repo is run and no pickle is read.
            config: settings of [`SelfRetrievalConfig`]; also `dtype`, for both.
        """
        return from_components(cls, model, tokenizer, retriever, model_kwargs, retriever_kwargs, config)

    def _remember_source(self, source: str | os.PathLike, keywords: dict[str, Any]) -> None:
        super()._remember_source(source, keywords)
        proven_states(self)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_logits: bool = False,
        show_progress: bool = False,
        past_key_values: RetrievalState | None = None,
        return_dict: bool | None = None,
        query: list[str] | None = None,
        history: list[list[str]] | None = None,
        answer: list[str] | None = None,
        history_mask: torch.Tensor | None = None,
        prompt_length: int | None = None,
        **kwargs: Any,
    ) -> SelfRetrievalOutput | tuple:
        """Scores the labelled span of each row, block by block, with what each block retrieves.

        Args:
            input_ids: (B, L) token ids. attention_mask: (B, L), padding on either side.
            labels: (B, L), the tokens to score, -100 elsewhere; a label belongs to its own position. Without labels
                the logits of every position are returned and no loss: `model(ids[:, :-1]).logits` are those that
                `model(ids, labels=ids)` scores `ids` by.
            output_logits: with labels, also return logits (zero at positions that predict no label). show_progress:
                a bar over the scored tokens, where there is more than one block.
            past_key_values: of `generate`, for the next token alone. return_dict: False for a plain tuple.
            prompt_length: of rows that `generate` returned, the columns of their prompts: each new token then has the
                probability that it was chosen by. (Without it: if `target_size` is set and divides their number.)
            query, history, answer, history_mask: in place of all that, a dialogue: `forward_with_history_retrieval`.
            kwargs: None or False; peft names all that language models know.
        Raises TypeError or ValueError for tensors that do not fit, a missing tokenizer or retriever.
        """
        switches = {"output_logits": output_logits, "show_progress": show_progress, "return_dict": return_dict}
        texts = {"query": query, "history": history, "answer": answer, "history_mask": history_mask}
        if is_dialogue(kwargs, input_ids, texts, switches):
            output = self.forward_with_history_retrieval(query, history, answer, history_mask)  # type: ignore[arg-type]
        elif typed("past_key_values", past_key_values, RetrievalState | None) is not None:
            logits = past_key_values.next_logits(input_ids, attention_mask)  # type: ignore[union-attr,arg-type]
            output = SelfRetrievalOutput(logits=logits, past_key_values=past_key_values)
        else:
            rows: tuple[Any, Any, Any] = (input_ids, attention_mask, labels)
            check_inputs(*rows, self.config.get_text_config().vocab_size, self._one_device)
            output = run_documents(Plan.of(self), *rows, bool(output_logits), bool(show_progress), prompt_length)
        return output.to_tuple() if return_dict is False else output

    def forward_with_history_retrieval(
        self, query: list[str], history: list[list[str]], answer: list[str], history_mask: torch.Tensor | None = None
    ) -> SelfRetrievalOutput:
        """Scores each answer behind its query and the k turns of the history that it retrieves.

        Args:
            query, answer: B texts. history: B lists of turns, the oldest first.
            history_mask: (B, N), 0 for turns that are padding; they are never retrieved.
        Returns the output with `retrieved_indices` (B, 1, k), turn numbers most relevant first.
        """
        return score_answers(self, query, history, answer, history_mask)

    def score_continuations(self, prompts: list[str], continuations: list[str]) -> torch.Tensor:
        """(n,) log-likelihood of each continuation's tokens behind its prompt, summed, in nats.

        The last `context_window_size` tokens of both together count, in one pass, with `reuse_states` or without.
        """
        return score_continuations(self, prompts, continuations)

    @torch.no_grad()
    def score_candidates(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Log-likelihood of each target chunk under each single candidate key: the LM's feedback on retrieval.

        Args:
            candidates: (B, c) or (B, n_target, c) chunk numbers, -1 for none; default: every key. Others as `forward`.

        Returns (B, n_target, c) sums over the target's scored tokens, in nats; -inf where a candidate is not a key of
        the target's window. Without `candidates` the columns are the chunk numbers.
        """
        check_inputs(input_ids, attention_mask, labels, self.config.get_text_config().vocab_size, self._one_device)
        return score_candidates(Plan.of_candidates(self), input_ids, attention_mask, labels, candidates)

    def compute_perplexity(
        self, dataloader: Iterable[dict], show_progress: bool = True, average: str = "tokens"
    ) -> float:
        """exp of the mean loss of all scored tokens, whatever batch or process they are in.

        Args:
            dataloader: batches of keyword arguments of `forward`, or of `forward_with_history_retrieval`.
            average: "batches": of batches' mean losses, and of processes' perplexities, as LLM-Embedder's figures do.
        """
        return perplexity(self, dataloader, show_progress, average)

    def generate(  # type: ignore[override]  # transformers' other arguments pass through
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, retrieving anew after every `chunk_size` new tokens, in memory that the window bounds.

        Args:
            input_ids (or `inputs`): (B, L) prompts of any length.
            attention_mask: (B, L); prompts that are padded on the right come back padded on the left.
            generation_config, kwargs: those of transformers' `generate`: sampling, beams, stopping criteria, streamer,
                `num_return_sequences`, ... `prompt_lookup_num_tokens`: tokens to guess ahead for a single prompt, from
                what followed the same words before (default 8; 0 for none). It saves time and changes nothing.

        Returns what transformers' `generate` returns: (B, L + new) ids, or with `return_dict_in_generate` an output
        whose `past_key_values.retrievals` says what was retrieved when.
        Raises ValueError for "oracle", which needs the target, and for what works on the backbone's own sequence.
        """
        ids, given, arguments = prepare_generation(self, inputs, input_ids, attention_mask, generation_config, kwargs)
        found = super().generate(ids, given, **arguments)  # type: ignore[misc]  # its self is private
        return finish_generation(self, arguments["past_key_values"], found)

    init_continuous_batching = refuse_continuous_batching

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: torch.Tensor, past_key_values: Any = None, attention_mask: Any = None, **_: Any
    ) -> dict[str, Any]:
        return {"input_ids": input_ids, "past_key_values": past_key_values, "attention_mask": attention_mask}

    def chat(self, messages: list[Message], **kwargs: Any) -> ChatReply:
        """Answers the last message, through the tokenizer's chat template.

        The last turns that fit the window stand there; of the older ones the `key_num` most relevant to the last
        message are put before them. With `reuse_states` the conversation is one text that goes on.

        Args:
            messages: [{"role": "system" | "user" | "assistant" | ..., "content": text}, ...], the last a user's.
            kwargs: of the backbone's `generate`, such as `max_new_tokens`, `do_sample` or a `streamer`.

        Raises ValueError without a chat template, for a last message that fills the window, and for "oracle".
        """
        return answer_chat(self, messages, **kwargs)


SelfRetrievalLM.register_for_auto_class("AutoModelForCausalLM")

__all__ = ["SelfRetrievalLM", "SelfRetrievalOutput"]
