"""A bi-encoder in the form that mteb evaluates: prompts by task and role, similarity, and who it is.

mteb is imported when it asks who the model is, which it does first.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hub_cards.transfer.folder_names import shared_name
from hub_cards.travelling.checks import checked
from hub_cards.travelling.loading import commit_of
from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.encoding_biencoder import prompt_affixes
from modeling_biencoder.inputs_biencoder import check_truncate_dim

from .identity import encoding_settings
from .kind import place_of, weights_of
from .load import load_biencoder

Array = np.ndarray | torch.Tensor


def require_mteb() -> Any:
    """The package; ImportError where it is not installed."""
    try:
        return import_module("mteb")
    except ModuleNotFoundError as error:
        raise ImportError("mteb is not installed: pip install mteb.") from error


def _check_fit(config: BiEncoderConfig, task: str | None, widths: Iterable[int | None]) -> None:
    prompt_affixes(config.prompts, None, task)
    for width in widths:
        check_truncate_dim(width, config.embedding_dims, config.hidden_size)


class MtebEncoder:
    """A bi-encoder as mteb takes it.

    >>> mteb.evaluate(MtebEncoder("runs/finetune"), mteb.get_tasks(["SciFact"]))  # doctest: +SKIP

    A text has the prompt of the model's task that is called as mteb's task ("SciFact"), else as its type ("STS",
    "Clustering"), else of the task "default". A text that is neither query nor document (all but retrieval and
    reranking) has a query's prompt where the model has such a task, and of "default" none; or a passage's, where that
    ends in a suffix, which the embedding is read from (LLaRA's). So it is with sentence-transformers, too.

    Args:
        model: a bi-encoder, or what `lookback evaluate --model` takes: the folder or Hub id of one, of a LLaRA model,
            of a published retriever.
        revision: of a Hub id: branch, tag or commit. Of a model, what its results are filed under; default a digest of
            its weights, settings and tokenizer, so that no other model's results are taken for its own.
        device: such as "cuda:0"; default where the model is, of a folder or Hub id the first GPU, if there is one.
        name: `owner/name` that results are filed under; default the Hub id, or `local/` and the folder's name.
        task: a task of the model's prompts that holds for all of mteb's.
        truncate_dim: keep the first numbers of the embeddings only (Matryoshka).
        widths: those that `narrowed` will be asked for, to be checked before the weights of a folder or repo are read.
        loading: keywords of loading from a folder or Hub id: `pooling`, `preset`, `trust_remote_code`, `token`, ...

    Raises ValueError for a task that the model does not have, and for a width that it cannot have.
    """

    @checked
    def __init__(
        self,
        model: BiEncoderModel | str | Path,
        revision: str | None = None,
        *,
        device: str | torch.device | None = None,
        name: str | None = None,
        task: str | None = None,
        truncate_dim: int | None = None,
        widths: Sequence[int] = (),
        **loading: Any,
    ) -> None:
        given = isinstance(model, BiEncoderModel)
        if given and loading:
            raise ValueError(f"{sorted(loading)} are for loading, and the model is there: leave them out.")
        if name is not None and name.count("/") != 1:
            raise ValueError(f"name={name!r} must be of the form owner/name: mteb files results under it.")
        self._source = (model.name_or_path or "") if isinstance(model, BiEncoderModel) else os.fspath(model)
        self._revision = revision
        if isinstance(model, BiEncoderModel):
            self.model = model
        else:
            place: dict[str, Any] = {} if revision is None else {"revision": revision}
            fits = partial(_check_fit, task=task, widths=(truncate_dim, *widths))
            self.model = load_biencoder(self._source, check=fits, **place, **loading)
            device = device or ("cuda" if torch.cuda.is_available() else None)
            self._revision = commit_of(self._source, place_of({**place, **loading}))
        if device is not None:
            self.model.to(device)  # type: ignore[arg-type]
        _check_fit(self.model.config, task, (truncate_dim, *widths))
        self.name, self.task, self.truncate_dim = name, task, truncate_dim
        base = None if loading.get("base") is None else shared_name(str(loading["base"]))
        weights = {name: _named(value) for name, value in weights_of(loading).items()}
        chosen = {"task": task, "truncate_dim": truncate_dim, **loading, "base": base, **weights}
        names = ("task", "truncate_dim", "pooling", "preset", "gguf_file", "base", "base_revision", *weights)
        self._chosen = {key: chosen[key] for key in names if chosen.get(key)}

    def narrowed(self, truncate_dim: int) -> "MtebEncoder":
        """The same model with embeddings cut to this width, under the same name and revision."""
        other = MtebEncoder(
            self.model, self.mteb_model_meta.revision, name=self.mteb_model_meta.name, task=self.task,
            truncate_dim=truncate_dim,
        )  # fmt: skip
        other._chosen = {**self._chosen, "truncate_dim": truncate_dim}
        return other

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool = True,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embeddings of the texts of all batches, (texts, d) float32.

        Args:
            inputs: batches, each with a list of texts under "text".
            task_metadata: mteb's task, with its name and type.
            prompt_type: "query" or "document" in retrieval and reranking, else None.

        Raises ValueError for `encode_kwargs` of `mteb.evaluate` beside `batch_size` and `show_progress_bar`.
        """
        if strange := sorted(name for name, value in kwargs.items() if value is not None):
            raise ValueError(
                f"encode_kwargs has {strange}, and takes batch_size and show_progress_bar: leave them out."
            )
        texts = [text for batch in inputs for text in batch["text"]]
        role, task = self.prompt_of(task_metadata.name, task_metadata.type, prompt_type)
        progress = None if show_progress_bar else False
        vectors = self.model.encode(
            texts, role, task, batch_size=batch_size, truncate_dim=self.truncate_dim, show_progress=progress
        )
        return vectors.numpy()

    def prompt_of(self, name: str, kind: str, prompt_type: str | None = None) -> tuple[str | None, str | None]:
        """(role, task) of `BiEncoderModel.encode` for a text of mteb's task of this name and type."""
        prompts = self.model.config.prompts
        task = self.task or next((task for task in (name, kind) if task in prompts), None)
        if prompt_type is not None:
            return ("passage" if prompt_type == "document" else "query"), task
        if task is not None:
            return "query", task
        return ("passage" if prompt_affixes(prompts, "passage")[1] else None), None

    def similarity(self, embeddings1: Array, embeddings2: Array) -> torch.Tensor:
        """(n, d) and (m, d) -> (n, m): cosine or dot product, as the model has it."""
        return self.model.similarity(_rows(embeddings1), _rows(embeddings2))

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> torch.Tensor:
        """(n, d) twice -> (n,): that of each row with the other's."""
        a, b = _rows(embeddings1), _rows(embeddings2)
        if self.model.config.similarity == "cosine":
            a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        return (a * b).sum(dim=-1)

    @cached_property
    def mteb_model_meta(self) -> Any:
        """Who the model is: name and revision, which mteb files results under, sizes and similarity.

        The digest in it is of the model as it was at first: make a new encoder of one that was trained since.
        """
        meta, config = require_mteb().models.ModelMeta, self.model.config
        return meta.create_empty(
            overwrites={
                "name": self.name or self._own_name(),
                "revision": self._revision or _digest(encoding_settings(self.model)),
                "loader": type(self),
                "n_parameters": self.model.num_parameters(),
                "max_tokens": config.max_length,
                "embed_dim": self.truncate_dim or config.hidden_size,
                "open_weights": True,
                "similarity_fn_name": import_module("mteb.models.model_meta").ScoringFunction(config.similarity),
                "use_instructions": bool(config.prompts),
                "framework": ["PyTorch", "Transformers", "Sentence Transformers"],
                "modalities": ["text"],
                "experiment_kwargs": self._chosen or None,
            }
        )

    def _own_name(self) -> str:
        name = shared_name(self._source)
        return name if name.count("/") == 1 else f"local/{name or 'bi-encoder'}"


def _named(weights: Any) -> str:
    """What weights become, as an experiment is called after it: a type, or torchao's kind of quantisation."""
    kind = getattr(weights, "quant_type", None)
    return str(weights).removeprefix("torch.") if kind is None else type(kind).__name__


def _rows(vectors: Array) -> torch.Tensor:
    """(n, d) float32; one vector is a row."""
    return torch.atleast_2d(torch.as_tensor(vectors).float())


def _digest(settings: dict[str, Any]) -> str:
    """40 hexadecimal digits, as a commit has."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:40]
