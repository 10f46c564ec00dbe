"""Keeping the embeddings of training documents for a number of steps."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modeling_srlm import SelfRetrievalLM
from modeling_srlm.encoding_srlm import EmbeddingCache


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
