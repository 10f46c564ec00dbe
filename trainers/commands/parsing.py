"""Command-line arguments from dataclasses, with `--config file.yaml` for any of them."""

import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_arguments(
    argv: list[str],
    types: Sequence[Any],
    command: str,
    description: str,
    positional: tuple[str, str] | None = None,
) -> tuple[Any, ...]:
    """One instance of each dataclass of `types`, from `argv` and from the file that its `--config` names.

    `positional` is name and help of what stands without a `--name` in `argv`, any number of it; it comes last, as the
    list under that name of a Namespace.

    What stands in `argv` wins over the file. Raises ValueError for a key of the file that is no argument, naming the
    nearest one; argparse ends the program for an unknown argument.
    """
    parser = HfArgumentParser(list(types), prog=f"lookback {command}", description=description)
    if positional is not None:
        parser.add_argument(positional[0], nargs="*", help=positional[1])
    names = {field.name for kind in types for field in dataclasses.fields(kind) if field.init}
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


def _file_arguments(path: str, names: set[str]) -> list[str]:
    if not Path(path).is_file():
        raise ValueError(f"--config: there is no file {path!r}.")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; it must be a mapping of argument names to values.")
    arguments = []
    for name, value in values.items():
        if name not in names:
            nearest = difflib.get_close_matches(str(name), sorted(names), n=1, cutoff=0.0)[0]
            raise ValueError(f"{path}: {name!r} is not an argument; did you mean {nearest!r}?")
        if value is not None:
            arguments += [f"--{name}", *_as_text(value)]
    return arguments


def _as_text(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _as_text(item)]
    return [json.dumps(value) if isinstance(value, dict) else str(value)]
