"""The bi-encoder as the one module of a sentence-transformers model: the same tokens, vectors and files.

A saved model says so in `modules.json`; `SentenceTransformer(repo, trust_remote_code=True)` then loads this file of
the repo. It needs no sentence-transformers, which takes any `torch.nn.Module` with these methods (5.4 to 6.2).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from .bases_biencoder import load_whole
from .configuration_biencoder import BiEncoderConfig
from .encoding_biencoder import prompt_affixes
from .inputs_biencoder import check_max_length
from .prompting_biencoder import pad_rows, tokenize_in_prompt
from .sentence_modules_biencoder import say_width
from .sentence_settings_biencoder import (
    affixes,
    flat_prompts,
    own_width,
    read_own_width,
    saved_prompts,
    settings_of,
    write_json,
)
from .sentence_transformers_biencoder import MODULES, OUR_MODULE, SETTINGS

_CUTS = ContextVar("_CUTS", default=False)  # whether what loads a model cuts its vectors


class SentenceEncoder(nn.Module):
    """A bi-encoder with the methods that a SentenceTransformer calls on its first and only module.

    Args:
        model: a `BiEncoderModel`.
        truncate_dim: vectors are cut to this width, and normalised anew.
    """

    save_in_root = True
    forward_kwargs = frozenset({"examples"})  # what `encode` passes on: in-context examples
    modalities = ("text",)

    def __init__(self, model: Any, truncate_dim: int | None = None) -> None:
        super().__init__()
        self.model, self.truncate_dim = model, truncate_dim

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> "SentenceEncoder":
        """The module of a repo; an adapter without the weights of its base is put onto that.

        Args:
            model_kwargs: of `BiEncoderModel.from_pretrained`, such as `dtype`.
            config_kwargs: fields of `BiEncoderConfig`.

        Raises ValueError for what a bi-encoder does not take, and for an adapter whose base has to be built.
        """
        if backend != "torch":
            raise ValueError(f"backend={backend!r}: a bi-encoder of Lookback runs with backend='torch' alone.")
        if processor_kwargs:
            raise ValueError(
                f"processor_kwargs={processor_kwargs} are for a tokenizer, and a bi-encoder reads texts by its "
                "configuration: give config_kwargs, such as {'max_length': 256}."
            )
        given = {"subfolder": subfolder, "token": token, "cache_dir": cache_folder, "revision": revision}
        place = {name: value for name, value in given.items() if value}
        if local_files_only:
            place["local_files_only"] = True
        settings = {**(model_kwargs or {}), **(config_kwargs or {})}
        with _cutting():
            model = load_whole(model_name_or_path, place, {"trust_remote_code": trust_remote_code, **settings})
        return cls(model.eval(), read_own_width(model_name_or_path, place))

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write what `BiEncoderModel.save_pretrained` does; sentence-transformers' settings, written before, stay.

        Prompts among them that are not the bi-encoder's are those of its saved configuration, too.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write a pickle: leave it out.")
        settings = Path(output_path, SETTINGS)
        theirs = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        with saved_prompts(self.model.config, theirs.get("prompts") or {}) as prompts:
            self.model.save_pretrained(output_path)
        if theirs:
            write_json(settings, theirs | {"prompts": prompts} | own_width(self.truncate_dim))

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        examples: Sequence[tuple[str, str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """Texts -> `input_ids` and `attention_mask`, (len(inputs), longest) int64, padded on the right.

        Args:
            prompt: what stands before each text; or around it, as in "query: {text}?".
            task: "query" or "document", as `encode_query` and `encode_document` have it; for `examples` alone.
            examples: (query, answer) pairs put before each query.

        Raises ValueError for anything but texts, and for keywords that a bi-encoder does not have.
        """
        if strange := sorted(name for name, value in kwargs.items() if value is not None):
            raise ValueError(f"{strange} have no meaning for a bi-encoder: leave them out.")
        try:
            prefix, suffix = affixes(prompt, self.model.config)
            known = {"default": {"query": prefix, "query_suffix": suffix}}
            role = "passage" if task == "document" else "query"
            if examples:
                prefix, suffix = prompt_affixes(known, role, None, examples)
            rows = tokenize_in_prompt(inputs, prefix, suffix, self.tokenizer, self.model.config)
            return pad_rows(rows, self.tokenizer)
        except (TypeError, AttributeError) as error:  # sentence-transformers would try again, without the prompt
            raise ValueError(str(error)) from error

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The features with `sentence_embedding`, (batch, d), at least float32."""
        vectors = self.model.embed(features["input_ids"], features["attention_mask"], self.truncate_dim)
        return _Features({**features, "sentence_embedding": vectors})

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.truncate_dim or self.model.config.hidden_size

    @property
    def max_seq_length(self) -> int:
        """`max_length` of the bi-encoder; ValueError where it is set to more than the backbone's positions."""
        return self.model.config.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        check_max_length("max_seq_length", value, self.model.config.max_positions)
        self.model.config.max_length = value

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The bi-encoder's own."""
        return self.model.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model.tokenizer = tokenizer


class _Features(dict[str, Any]):
    """What the module returns; what it does not have is named."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"output_value={name!r}: a bi-encoder of Lookback gives 'sentence_embedding' alone; the states of its "
            "tokens are those of its `backbone`."
        )


def write_sentence_files(config: BiEncoderConfig, folder: Path, truncate_dim: int | None = None) -> None:
    """Write the two files by which sentence-transformers finds the module, and its prompts, in a saved model."""
    files = {
        MODULES: [{"idx": 0, "name": "0", "path": "", "type": OUR_MODULE}],
        SETTINGS: settings_of(config, flat_prompts(config.prompts)) | own_width(truncate_dim),
    }
    for name, content in files.items():
        write_json(folder / name, content)


def say_own_width(source: Any, place: dict[str, Any]) -> None:
    """Say once that the vectors of an export are cut, where the model alone is loaded, which gives them whole."""
    if _CUTS.get():
        return
    try:
        say_width(repr(str(source)), read_own_width(str(source), place))
    except (OSError, ValueError):  # not in the cache of a machine without network, or no JSON: the model needs it not
        return


@contextmanager
def _cutting() -> Iterator[None]:
    """Meanwhile a model is loaded by what cuts its vectors."""
    token = _CUTS.set(True)
    try:
        yield
    finally:
        _CUTS.reset(token)
