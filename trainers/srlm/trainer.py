"""SelfRetrievalTrainer: trains a language model on documents that it looks back into."""

from collections.abc import Callable
from typing import Any

import datasets
import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from modeling_srlm import SelfRetrievalLM, SelfRetrievalOutput
from modeling_srlm.configuration_srlm import RETRIEVER_METHODS
from modeling_srlm.encoding_srlm import EmbeddingCache
from modeling_srlm.moving_srlm import check_family

from ..base.options import check_settings
from ..base.sharding import EvenCalls, shards
from ..base.trainer import FamilyTrainer
from ..data.documents import document_table
from ..data.padding import pad_id
from ..data.sources import Row, RowSource
from ..data.transforms import Transform
from ..models.kind import ModelSource
from ..models.load import build_srlm
from .arguments import SelfRetrievalTrainingArguments
from .collator import SelfRetrievalCollator
from .rows import load_chats, load_token_rows, tokenize_documents

EMBEDDING_METHODS = (*RETRIEVER_METHODS, "self")


class SelfRetrievalTrainer(FamilyTrainer):
    """Trains the language model of a `SelfRetrievalLM`; see `FamilyTrainer` for the arguments.

    What is retrieved, and how, is the model's configuration; its retriever does not train. `index_refresh_steps` keeps
    chunk embeddings for so many steps (with "self" those of slightly older weights). Data are documents (text
    files, a folder of them, rows with `text`) or chat rows (`history`, `query`, `answers`). Logged beside `loss`, and
    with `eval_` before it: perplexity, exp of the mean loss over all scored tokens of the logging window or of the
    evaluation data. With `reuse_states` a document streams through the model, and a gradient goes through the keys and
    values of its own block (`target_size` of the configuration; by default half of the window).

    Example::

        model = SelfRetrievalLM.from_components("path/or/repo", retrieval_method="bm25")
        trainer = SelfRetrievalTrainer(model, SelfRetrievalTrainingArguments("runs/lm"), train_dataset="folder")
        trainer.train()
    """

    arguments_class = SelfRetrievalTrainingArguments
    model_class = SelfRetrievalLM
    component_names = ("token_loss",)
    kept_whole = "retriever"  # it does not train, and each process calls it as often as its own rows need

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.index_refresh_steps is not None:
            self.add_callback(IndexRefreshCallback(self.model, self.args.index_refresh_steps))
        self.model.settles_blocks = not (self.is_deepspeed_enabled or self.args.fp16)

    def check_sizes(self) -> None:
        """ValueError with `reuse_states` for a backbone that cannot do it, and an index that there is not."""
        config = self.model.config
        if self.args.index_refresh_steps is not None and config.retrieval_method not in EMBEDDING_METHODS:
            raise ValueError(
                f"index_refresh_steps={self.args.index_refresh_steps} has no meaning with retrieval_method="
                f"{config.retrieval_method!r}, which embeds nothing: leave it out, or take one of "
                f"{', '.join(EMBEDDING_METHODS)}."
            )
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "stage 3 of deepspeed must be 2 here, as it waits for all processes at each call of a layer, and a "
                "process calls the language model as often as its own rows need: set stage 2, or take fsdp."
            )
        if not config.reuse_states:
            return
        check_family(self.model.language_model)
        if shards(self.args):
            raise ValueError(
                "fsdp cannot be combined with reuse_states=True, whose blocks differ in number between processes: "
                "leave fsdp out (a LoRA and gradient_checkpointing save memory, too), or train without reuse_states."
            )
        if self.args.index_refresh_steps is not None and config.retrieval_method == "self":
            raise ValueError(
                f"index_refresh_steps={self.args.index_refresh_steps} does nothing with reuse_states=True and "
                "retrieval_method='self', whose embeddings are the states at hand: leave it out."
            )

    def build_model(
        self, backbone: ModelSource, tokenizer: PreTrainedTokenizerBase | None, kwargs: dict[str, Any], kind: str
    ) -> PreTrainedModel:
        """A self-retrieval LM, by its retriever or BM25 unless `kwargs` say else; `revision` is the backbone's."""
        return build_srlm(backbone, tokenizer, **kwargs)

    def load_rows(self, source: RowSource) -> datasets.Dataset | datasets.IterableDataset:
        """Documents as blocks of tokens, rows with `history` as chats, rows with `input_ids` as they are.

        Rows of which nothing is scored are left out; see `rows.labelled`.
        """
        table = document_table(source)
        _, first = next(iter(table), ("", {}))
        if "history" in first:
            check_settings(self.args, {"include_num_input_tokens_seen": "chats become tokens within the model"})
            return load_chats(table, self.processing_class)
        if {"input_ids", "labels"}.issubset(first):
            return load_token_rows(table, self.model.config.text_config.vocab_size)
        return tokenize_documents(table, self.processing_class, self.args.document_length, self.args.target_size)

    def prepare_training(self, source: Any) -> Any:
        """As in the base class; ValueError for chats in an order by lengths, which they do not have."""
        prepared = super().prepare_training(source)
        columns = [] if prepared is None else prepared.rows.column_names or []
        if "history" in columns and self.args.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
            raise ValueError(
                f"train_sampling_strategy={str(self.args.train_sampling_strategy)!r} needs the lengths of rows, and "
                "chats become tokens within the model; use random or sequential."
            )
        return prepared

    def metric_names(self) -> list[str]:
        """Perplexity, beside the loss."""
        return ["perplexity"]

    def transform(self) -> Transform:
        """The rows are ready."""
        return _unchanged

    def make_collator(self) -> Callable[[list[Row]], Row]:
        """Documents padded on the left, chats as texts."""
        return SelfRetrievalCollator(pad_id(self.processing_class))

    def run_model(self, model: torch.nn.Module, inputs: dict[str, Any]) -> SelfRetrievalOutput:
        """The forward pass of documents, or of chats."""
        given = {name: value for name, value in inputs.items() if name != "answer_length"}
        if not self.is_fsdp_enabled:
            return model(**given)
        with EvenCalls(self.model.language_model) as calls:
            outputs = model(**given)
            outputs.loss = outputs.loss + calls.rest()
        return outputs

    def count_items(self, batch: dict[str, Any]) -> torch.Tensor:
        """The scored tokens: no row's first one, and an answer's last ones, where it is longer than the window."""
        if "history" not in batch:
            return ((batch["labels"][:, 1:] >= 0) & batch["attention_mask"][:, :-1].bool()).sum()[None].float()
        return batch["answer_length"].clamp(max=self.model.config.context_window_size - 1).sum()[None].float()

    def components(self, outputs: Any) -> list[torch.Tensor | None]:
        """The loss itself."""
        return [outputs.loss]

    def combine(self, components: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """The loss itself."""
        return components[0]

    def readable(self, means: dict[str, float]) -> dict[str, float]:
        """Perplexity of the tokens."""
        return {"perplexity": torch.tensor(means["token_loss"]).exp().item()} if means else {}


def _unchanged(row: Row, number: int, epoch: int) -> Row:
    return row


class IndexRefreshCallback(TrainerCallback):
    """Gives the model a cache of embeddings while it trains, and empties it every `steps` steps.

    It is emptied at a checkpoint too: a resumed run begins with an empty one, and has to end in the same weights.
    """

    def __init__(self, model: SelfRetrievalLM, steps: int):
        self.model, self.steps = model, steps
        self.cache = EmbeddingCache()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The model uses the cache from now on."""
        self.cache.clear()
        self.model.embedding_cache = self.cache

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Every `steps` steps the embeddings are made anew."""
        if state.global_step % self.steps == 0:
            self.cache.clear()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See the class."""
        self.cache.clear()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The model no longer uses the cache."""
        self.model.embedding_cache = None
