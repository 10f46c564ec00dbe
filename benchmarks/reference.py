"""Imports the original research code from a checkout of FlagEmbedding; none of it is part of this project.

The original was written for transformers 4 and imports packages that the code under test never uses. Its own packages
are entered without their `__init__`, which would import faiss and more; what transformers 5 no longer has is put in
its place. Both can go when the original runs on transformers 5.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import ModelOutput

_FOLDER = Path("research/llm_embedder")


def check_checkout(checkout: Path) -> None:
    """Raises ValueError where the path holds no checkout of FlagEmbedding."""
    if not (checkout / _FOLDER / "src" / "lm" / "modeling_srlm.py").is_file():
        raise ValueError(f"--reference {checkout} has no {_FOLDER}/src; give the path of a FlagEmbedding checkout.")


def load_reference(checkout: Path, module: str) -> Any:
    """A module of the original, such as "src.lm.modeling_srlm".

    Raises ValueError where the path holds no checkout of FlagEmbedding.
    """
    check_checkout(checkout)
    root = checkout / _FOLDER
    for package in ("src", "src.lm", "src.retrieval", "src.utils"):
        _enter(package, root / package.replace(".", "/"))
    moved = types.ModuleType("transformers.tokenization_utils")
    moved.PreTrainedTokenizer = transformers.PreTrainedTokenizerBase  # type: ignore[attr-defined]
    sys.modules.setdefault(moved.__name__, moved)
    transformers.modeling_utils.ModelOutput = ModelOutput  # type: ignore[attr-defined]
    with _stand_in("pytz"):
        return importlib.import_module(module)


def load_llara_reference(checkout: Path) -> Any:
    """The original's LLaRA pretraining model; only its forward pass behind the decoder runs on transformers 5.

    Raises ValueError where the path holds no checkout of FlagEmbedding.
    """
    path = checkout / "research" / "LLARA" / "pretrain" / "modeling.py"
    if not path.is_file():
        raise ValueError(f"--reference {checkout} has no research/LLARA; give the path of a FlagEmbedding checkout.")
    idefics = importlib.import_module("transformers.models.idefics.modeling_idefics")
    for name in ("LLAMA_INPUTS_DOCSTRING", "_CONFIG_FOR_DOC"):  # texts for its docstrings
        vars(idefics).setdefault(name, "")
    spec = importlib.util.spec_from_file_location("llara_reference_modeling", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PreLlamaModel


def load_biencoder_reference(checkout: Path) -> Any:
    """The original's bi-encoder on a decoder, with its sub-batches.

    Raises ValueError where the path holds no checkout of FlagEmbedding.
    """
    abstract, concrete = "FlagEmbedding.abc.finetune.embedder", "FlagEmbedding.finetune.embedder.decoder_only.base"
    if not (checkout / concrete.replace(".", "/") / "modeling.py").is_file():
        raise ValueError(f"--reference {checkout} has no FlagEmbedding; give the path of a FlagEmbedding checkout.")
    for package in (abstract, concrete):
        parts = package.split(".")
        for end in range(1, len(parts) + 1):
            _enter(".".join(parts[:end]), checkout.joinpath(*parts[:end]))
    model = importlib.import_module(f"{abstract}.AbsModeling").AbsEmbedderModel
    sys.modules[abstract].AbsEmbedderModel = model  # type: ignore[attr-defined]  # its `__init__` would
    return importlib.import_module(f"{concrete}.modeling").BiDecoderOnlyEmbedderModel


@contextmanager
def _stand_in(name: str) -> Iterator[None]:
    """An empty module, only while the original is imported: pandas would take it for the package."""
    importlib.import_module("pandas")
    if name in sys.modules or importlib.util.find_spec(name):
        yield
        return
    sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


def _enter(package: str, folder: Path) -> None:
    """Makes a folder a package without running its `__init__`."""
    if package not in sys.modules:
        module = types.ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module


class Given:
    """Takes the place of an Auto class: `from_pretrained` gives what is there already, so that weights are shared."""

    def __init__(self, thing: Any):
        self.thing = thing

    def from_pretrained(self, *_: Any, **__: Any) -> Any:
        """The thing, whatever is asked for."""
        return self.thing
