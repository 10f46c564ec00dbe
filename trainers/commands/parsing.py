"""Command-line arguments from dataclasses, with `--config file.yaml` for any of them."""

import dataclasses
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from ..data.plain_text import read_yaml
from ..data.readers import refuse_loose_link
from ..jobs.idle import refuse_revisions
from .help import asked_for, help_of
from .suggestions import check_options, meant_option

_LIKE_OPTION = re.compile(r"-h|-(?![\d.])[^\s=]*(=|$)")  # as argparse does


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
    from_file = [] if config is None else _file_arguments(config, names, _of_text(parser))
    parsed = parser.parse_args_into_dataclasses(args=from_file + rest, look_for_args_file=False)
    refuse_revisions({name: value for one in parsed for name, value in vars(one).items()})
    return parsed


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    for i, argument in enumerate(argv):
        if argument == "--config" and i + 1 < len(argv):
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if argument.startswith("--config="):
            return argument.removeprefix("--config="), argv[:i] + argv[i + 1 :]
    return None, argv


def _of_text(parser: HfArgumentParser) -> set[str]:
    """The options whose values are texts, or names to choose from."""
    actions = [action for action in parser._actions if action.type is str or action.choices]
    return {action.dest for action in actions}


def _file_arguments(path: str, names: Sequence[str], of_text: Collection[str] = ()) -> list[str]:
    """What a file of options is on a command line; the values of those `of_text` are what stands there."""
    refuse_loose_link(Path(path))
    if not Path(path).is_file():
        raise ValueError(f"--config={path!r} must be a file and is none: correct the path.")
    values = read_yaml(Path(path)) or {}
    if not isinstance(values, dict):
        raise ValueError(
            f"--config={path!r} holds a {type(values).__name__} and must hold a mapping: write `name: value` lines."
        )
    arguments: list[str] = []
    written = read_yaml(Path(path), as_written=True) or {}
    for name, value in values.items():
        if name not in names:
            meant = meant_option(str(name), names)
            hint = "remove it" if meant is None else f"did you mean {meant!r}"
            raise ValueError(f"{path}: {name!r} is not an argument: {hint}?")
        if value is not None:
            arguments += _option(path, name, _as_text(value, written[name] if name in of_text else value))
    return arguments


def _option(path: str, name: str, texts: list[str]) -> list[str]:
    """An option with its values, none of which argparse takes for an option."""
    if len(texts) == 1 and texts[0].startswith("-"):
        return [f"--{name}={texts[0]}"]
    if dashed := next((text for text in texts if _LIKE_OPTION.match(text)), None):
        raise ValueError(f"{path}: {name!r} holds {dashed!r} among others, which reads as an option: give it alone.")
    return [f"--{name}", *texts]


def _as_text(value: Any, written: Any) -> list[str]:
    if isinstance(value, list):
        return [text for pair in zip(value, written, strict=True) for text in _as_text(*pair)]
    return [json.dumps(value) if isinstance(value, dict) else str(written)]
