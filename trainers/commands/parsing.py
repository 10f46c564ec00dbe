"""Command-line arguments from dataclasses, with `--config file.yaml` for any of them; what several commands take."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from hub_cards.travelling.backbones import base_keywords
from hub_cards.travelling.checks import check_choice
from modeling_srlm.limits_srlm import STORE_DTYPES, STORE_PLACES, parse_bytes

from ..data.plain_text import read_yaml
from ..data.readers import refuse_loose_link
from ..jobs.places import check_model_name
from .help import asked_for, help_of
from .suggestions import check_options, meant_option

PRESET_HELP = "How a published model is used, by name (docs/models.md); default: by its repo's id and files. Or none."


@dataclass
class LoadingArguments:
    """How a model is loaded from its repo."""

    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model's repo."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the model's repo; ours and transformers' need none."}
    )
    gguf_file: str | None = field(
        default=None, metadata={"help": "Name of a .gguf file in the model's folder or repo, to read instead."}
    )

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        names = ("revision", "trust_remote_code", *(["gguf_file"] if self.gguf_file else []))
        return {name: getattr(self, name) for name in names}


@dataclass
class ModelArguments(LoadingArguments):
    """The same of a model that may be an adapter, whose base is another repo."""

    base: str | None = field(
        default=None,
        metadata={"help": "Of an adapter: folder or Hub id of the model it was made for. Default: the one it names."},
    )

    base_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of that base's repo. Default: the one that the adapter names."},
    )

    def places(self) -> dict[str, Any]:
        """Where the model lies, and its base."""
        return {**base_keywords(vars(self)), **LoadingArguments.keywords(self)}

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        return self.places()


@dataclass
class EmbedderArguments(ModelArguments):
    """A bi-encoder, for the commands that embed with one: keywords of `load_biencoder`."""

    pooling: str | None = field(default=None, metadata={"help": "For a plain backbone: last_token, cls or mean."})
    preset: str | None = field(default=None, metadata={"help": PRESET_HELP})

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        return {"pooling": self.pooling, "preset": self.preset, **super().keywords()}


@dataclass
class RetrieverArguments(ModelArguments):
    """A language model that looks back, as it is trained. What is not given is that of the model's repo."""

    retriever: str | None = field(default=None, metadata={"help": "Hub id or folder of a bi-encoder, for 'dense'."})
    retriever_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the retriever's repo."}
    )
    retriever_preset: str | None = field(default=None, metadata={"help": PRESET_HELP})
    retriever_base: str | None = field(
        default=None, metadata={"help": "Of a retriever that is an adapter: what --base is of the model."}
    )
    context_window_size: int | None = field(default=None, metadata={"help": "Tokens of the window."})
    chunk_size: int | None = field(default=None, metadata={"help": "Tokens of a chunk, the unit of retrieval."})
    key_num: int | None = field(default=None, metadata={"help": "Chunks retrieved for each target chunk."})

    def __post_init__(self) -> None:
        check_model_name("--retriever", self.retriever)
        for name in ("retriever_revision", "retriever_preset", "retriever_base"):
            if self.retriever is None and (value := getattr(self, name)) is not None:
                raise ValueError(
                    f"--{name}={value!r} has no meaning without a --retriever: name one, or leave it out."
                )
        check_at_least(self, 1, "context_window_size", "chunk_size", "key_num")
        window, chunk = self.context_window_size, self.chunk_size
        if window is not None and chunk is not None and window % chunk:
            raise ValueError(f"--context_window_size={window} must divide into chunks of --chunk_size={chunk}.")


@dataclass
class KeptStatesArguments:
    """Whether what was read is kept, and where. What is not given is that of the model's repo."""

    reuse_states: bool | None = field(
        default=None,
        metadata={
            "help": "Read a text once, and look back at the keys and values kept of it. false: recompute them.",
            "nargs": "?",
            "const": True,
        },
    )
    num_sink_tokens: int | None = field(
        default=None, metadata={"help": "With --reuse_states: first tokens of the text that stay in sight."}
    )
    store_place: str | None = field(
        default=None, metadata={"help": "With --reuse_states: where the states lie: device, cpu or disk."}
    )
    store_dtype: str | None = field(
        default=None, metadata={"help": "With --reuse_states: float32, bfloat16 or int8. Default: the model's own."}
    )
    store_limit: str | None = field(
        default=None, metadata={"help": "With --reuse_states: tokens that are kept at most, or bytes such as 2GiB."}
    )

    def __post_init__(self) -> None:
        check_at_least(self, 0, "num_sink_tokens")
        for name, choices in (("store_place", STORE_PLACES), ("store_dtype", STORE_DTYPES)):
            if (value := getattr(self, name)) is not None:
                check_choice(f"--{name}", value, choices)
        if self.store_limit is not None and not str(self.store_limit).isdecimal():
            parse_bytes(str(self.store_limit))

    def settings(self) -> dict[str, Any]:
        settings = given(self, *self.keywords())
        limit = str(settings.get("store_limit", ""))
        return {**settings, "store_limit": int(limit)} if limit.isdecimal() else settings

    def keywords(self) -> dict[str, Any]:
        return {}


@dataclass
class LookbackArguments(KeptStatesArguments, RetrieverArguments):
    """The same as it is used: keywords of `load_srlm`."""

    target_size: int | None = field(
        default=None, metadata={"help": "Tokens that are scored, or generated, against one window."}
    )

    def __post_init__(self) -> None:
        RetrieverArguments.__post_init__(self)
        KeptStatesArguments.__post_init__(self)
        check_at_least(self, 1, "target_size")

    def keywords(self) -> dict[str, Any]:
        """What the function gets that loads the model."""
        names = ("retriever", "retriever_revision", "retriever_preset", "retriever_base")
        return {**{name: getattr(self, name) for name in names}, **RetrieverArguments.keywords(self)}


class CommandParser(HfArgumentParser):
    """Says what is wrong in one line, and not the usage of 180 options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}: see `{self.prog} --help`.\n")


def check_at_least(arguments: Any, least: int, *names: str) -> None:
    """ValueError for the first of the named options that is less than `least`; None may be."""
    for name in names:
        if (value := getattr(arguments, name)) is not None and value < least:
            raise ValueError(f"--{name}={value} must be at least {least}: raise it.")


def given(arguments: Any, *left_out: str) -> dict[str, Any]:
    """The fields of a dataclass that are not None, without those `left_out`."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    return {name: value for name, value in values.items() if value is not None and name not in left_out}


def parse_arguments(
    argv: list[str],
    types: Sequence[Any],
    command: str,
    description: str | None,
    positional: tuple[str, str] | None = None,
) -> tuple[Any, ...]:
    """One instance of each dataclass of `types`, from `argv` and from the file that its `--config` names.

    `--help` and `--help-all` print the help and end the program.

    `positional` is name and help of what stands without a `--name` in `argv`, any number of it; it comes last, as the
    list under that name of a Namespace.

    What stands in `argv` wins over the file. Raises ValueError for an option, or a key of the file, that there is not,
    naming the one that was probably meant; argparse ends the program for a value that an option cannot have.
    """
    if asked := asked_for(argv):
        print(help_of(command, everything=asked != "--help"), end="")
        raise SystemExit(0)
    parser = CommandParser(list(types), prog=f"lookback {command}", description=description, allow_abbrev=False)
    if positional is not None:
        parser.add_argument(positional[0], nargs="*", help=positional[1])
    names = [field.name for kind in types for field in dataclasses.fields(kind) if field.init]
    check_options(command, argv, names)
    config, rest = _take_config(argv)
    from_file = [] if config is None else _file_arguments(config, names)
    return parser.parse_args_into_dataclasses(args=from_file + rest, look_for_args_file=False)


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    for i, argument in enumerate(argv):
        if argument == "--config" and i + 1 < len(argv):
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if argument.startswith("--config="):
            return argument.removeprefix("--config="), argv[:i] + argv[i + 1 :]
    return None, argv


def _file_arguments(path: str, names: Sequence[str]) -> list[str]:
    refuse_loose_link(Path(path))
    if not Path(path).is_file():
        raise ValueError(f"--config={path!r} must be a file and is none: correct the path.")
    values = read_yaml(Path(path)) or {}
    if not isinstance(values, dict):
        raise ValueError(
            f"--config={path!r} holds a {type(values).__name__} and must hold a mapping: write `name: value` lines."
        )
    arguments = []
    for name, value in values.items():
        if name not in names:
            meant = meant_option(str(name), names)
            hint = "remove it" if meant is None else f"did you mean {meant!r}"
            raise ValueError(f"{path}: {name!r} is not an argument: {hint}?")
        if value is not None:
            arguments += [f"--{name}", *_as_text(value)]
    return arguments


def _as_text(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _as_text(item)]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]
