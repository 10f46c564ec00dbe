"""The bi-encoder as the one module of a sentence-transformers model: the same tokens, vectors and files.

A saved model says so in `modules.json`; `SentenceTransformer(repo, trust_remote_code=True)` then loads this file of
the repo. It needs no sentence-transformers, which takes any `torch.nn.Module` with these methods (5.4 to 6.2).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from .bases_biencoder import load_whole
from .configuration_biencoder import BiEncoderConfig
from .encoding_biencoder import prompt_affixes
from .inputs_biencoder import check_max_length
from .prompting_biencoder import pad_rows, tokenize_in_prompt
from .sentence_transformers_biencoder import MODULES, OUR_MODULE, SETTINGS

TEXT = "{text}"  # stands for the text in a prompt of theirs, which is one string, where ours has a suffix


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
        model = load_whole(model_name_or_path, place, {"trust_remote_code": trust_remote_code, **settings})
        return cls(model.eval(), _truncate_dim(model_name_or_path, place))

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write what `BiEncoderModel.save_pretrained` does; sentence-transformers' settings, written before, stay."""
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write a pickle: leave it out.")
        settings = Path(output_path, SETTINGS)
        theirs = settings.read_text(encoding="utf-8") if settings.is_file() else None
        self.model.save_pretrained(output_path)
        if theirs is not None:
            settings.write_text(theirs, encoding="utf-8")

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
        return {**features, "sentence_embedding": vectors}

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


def write_sentence_files(config: BiEncoderConfig, folder: Path, truncate_dim: int | None = None) -> None:
    """Write the two files by which sentence-transformers finds the module, and its prompts, in a saved model."""
    files = {
        MODULES: [{"idx": 0, "name": "0", "path": "", "type": OUR_MODULE}],
        SETTINGS: settings_of(config, flat_prompts(config.prompts), truncate_dim),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def settings_of(config: BiEncoderConfig, prompts: dict[str, str], truncate_dim: int | None = None) -> dict[str, Any]:
    """A SentenceTransformer's settings.

    A text of no role gets no prompt, or that of a passage where the embedding is read from behind the text (LLaRA's).
    """
    width = {} if truncate_dim is None else {"truncate_dim": truncate_dim}
    default = "document" if prompt_affixes(config.prompts, "passage")[1] else None
    return {"prompts": prompts, "default_prompt_name": default, "similarity_fn_name": config.similarity, **width}


def flat_prompts(prompts: dict[str, dict[str, str]]) -> dict[str, str]:
    """Their prompts of ours, each one string, under the names that sentence-transformers and mteb ask for.

    Those of the task "default" are `query` and `document`, others `task-role`; a text of no role has the query's.

    >>> flat_prompts({"default": {"query": "q: ", "query_suffix": "?"}})
    {'query': 'q: {text}?', 'document': '', 'passage': ''}
    >>> flat_prompts({"STS": {"query": "similar: "}})
    {'STS': 'similar: ', 'STS-query': 'similar: ', 'STS-document': '', 'STS-passage': ''}
    """
    flat: dict[str, str] = {}
    for task in prompts:
        query, passage = (_joined(*prompt_affixes(prompts, role, task)) for role in ("query", "passage"))
        start = "" if task == "default" else f"{task}-"
        flat |= {task: query} if start else {}
        flat |= {f"{start}query": query, f"{start}document": passage, f"{start}passage": passage}
    return flat


def affixes(prompt: str | None, config: BiEncoderConfig) -> tuple[str, str]:
    """What stands before and after a text by a prompt of theirs: one of the configuration's, or another."""
    for task in config.prompts:
        for role in ("query", "passage"):
            known = prompt_affixes(config.prompts, role, task)
            if _joined(*known) == prompt:
                return known
    before, _, after = (prompt or "").partition(TEXT)
    return before, after


def _joined(prefix: str, suffix: str) -> str:
    return f"{prefix}{TEXT}{suffix}" if suffix or TEXT in prefix else prefix


def _truncate_dim(source: str, place: dict[str, Any]) -> int | None:
    file = cached_file(source, SETTINGS, _raise_exceptions_for_missing_entries=False, **place)
    return json.loads(Path(file).read_text(encoding="utf-8")).get("truncate_dim") if file else None
