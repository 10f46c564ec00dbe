"""The help of a command: what is ours, in groups, with defaults and examples; transformers' own options on demand."""

import argparse
import dataclasses
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from importlib import import_module
from inspect import get_annotations
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from . import COMMANDS
from .declared import TRAINING_ARGUMENTS, Declared, declared

# The dataclass that has a field, or the field -> the heading that it stands under, in the order of the help. Those of
# other dataclasses come first, under what their docstring says.
HEADINGS = {
    "FinetuneModelArguments": "Model",
    "PretrainModelArguments": "Model",
    "TrainLmModelArguments": "Model",
    "PlannedModel": "Model",
    "LoadingArguments": "Model",
    "ModelArguments": "Model",
    "EmbedderArguments": "Model",
    "DtypeArguments": "Model",
    "WeightsArguments": "Model",
    "RetrieverArguments": "Looking back",
    "KeptStatesArguments": "Looking back",
    "LookbackArguments": "Looking back",
    "DataArguments": "Data",
    "MixtureDataArguments": "Data",
    "BiEncoderTrainingArguments": "Rows and negatives",
    "LlaraTrainingArguments": "Rows, and how they are trained on",
    "SelfRetrievalTrainingArguments": "Documents",
    "MixtureArguments": "Several data sets, streams, in-context examples",
    "Objectives": "Objective",
    "BiEncoderTrainingArguments.sub_batch_size": "Large batches",
    "EvaluationArguments": "Evaluation of retrieval",
    "LoraArguments": "LoRA and quantisation",
    "RunArguments": "Trying first",
    "PlannedTexts": "Texts",
    "PlannedTraining": "Training",
    "PlannedMachines": "Machines",
    "PlanOutput": "What is printed",
}
_ORDER = list(dict.fromkeys(HEADINGS.values()))
HIDDEN = ("FamilyArguments",)  # fields of transformers' that have to stay as they are
# Those of transformers' own that a first training asks for.
COMMON = (
    "output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "warmup_steps", "lr_scheduler_type", "bf16", "gradient_checkpointing", "logging_steps",
    "save_steps", "eval_strategy", "eval_steps", "report_to", "seed", "resume_from_checkpoint", "push_to_hub",
    "hub_model_id",
)  # fmt: skip
HELP = ("-h", "--help")
HELP_ALL = ("--help-all", "--help_all")
CONFIG = "A YAML file with any of these as `name: value`; what stands on the command line wins."


def asked_for(arguments: Sequence[str]) -> str | None:
    """`--help` or `--help-all`, if it is among the arguments of a command."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if set(HELP_ALL) & set(before):
        return HELP_ALL[0]
    return HELP[1] if set(HELP) & set(before) else None


def help_of(command: str, everything: bool = False) -> str:
    """The help text of a command; with `everything` transformers' own options, too, which takes seconds."""
    parser = argparse.ArgumentParser(prog=f"lookback {command}", formatter_class=_Formatter, add_help=False)
    taken = declared(command)
    return fill(parser, taken, _of_transformers(command) if everything and taken.trains() else ()).format_help()


def fill(
    parser: argparse.ArgumentParser, taken: Declared, others: Iterable[dataclasses.Field[Any]] = ()
) -> argparse.ArgumentParser:
    """Gives a parser the options of a command, in groups, for its help and its completion; not to parse with."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    for kind in taken.arguments:
        for field in dataclasses.fields(kind):
            owner = _owner(kind, field.name)
            if owner.__name__ not in HIDDEN:
                groups.setdefault(_heading(owner, field.name), []).append(field)
    parser.usage = _usage(parser.prog, taken)
    parser.description = taken.description
    if taken.positional is not None:
        parser.add_argument(taken.positional[0], nargs="*", help=taken.positional[1])
    for heading, group in sorted(groups.items(), key=lambda one: _ORDER.index(one[0]) if one[0] in _ORDER else -1):
        added = parser.add_argument_group(heading)
        for field in group:
            add(added, field)
    if taken.trains():
        _add_training(parser, {field.name for field in taken.fields()}, others)
    last = parser.add_argument_group("Settings files and help")
    last.add_argument("--config", metavar="FILE", help=CONFIG)
    last.add_argument(*HELP, action="store_true", help="Show this.")
    if taken.trains():
        last.add_argument(HELP_ALL[0], action="store_true", help="Show transformers' own options, too.")
    last.add_argument("--debug", action="store_true", help="Show where an error came from.")
    parser.epilog = f"examples:\n{_indented(taken.examples)}"
    return parser


def add_names(parser: argparse.ArgumentParser, taken: Declared) -> None:
    """Gives a parser the names of transformers' options, too, without what they mean."""
    ours = {field.name for field in taken.fields()} | {"debug"}
    for name in taken.names():
        if name not in ours:
            parser.add_argument(f"--{name}", help="One of transformers' TrainingArguments.")


def add(group: Any, field: dataclasses.Field[Any]) -> None:
    """An option for a field of a dataclass, as `HfArgumentParser` takes it."""
    kind, several = _kind(field.type)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    said = str(field.metadata.get("help", "")).strip()
    if default is dataclasses.MISSING:
        said += " (required)"
    elif default not in (None, False, []) and "default" not in said.lower():
        said += f" (default: {_shown(default)})"
    options: dict[str, Any] = {"help": said.replace("%", "%%")}
    if kind is bool and default is False:
        options["action"] = "store_true"
    elif kind is bool:
        options["choices"] = ("true", "false")
    elif get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    else:
        options["metavar"] = {int: "N", float: "X"}.get(kind, _metavar(field.name))
    if several:
        options["nargs"] = "+"
    group.add_argument(f"--{field.name}", **options)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of a field's values, and whether there are several."""
    kinds = [one for one in get_args(annotation) or (annotation,) if one is not NoneType]
    if get_origin(annotation) in (list, Literal):
        return (kinds[0], True) if get_origin(annotation) is list else (annotation, False)
    if len(kinds) == 1 and kinds[0] is not annotation:
        return _kind(kinds[0])
    return (str if len(kinds) > 1 else annotation), False


def _shown(default: Any) -> str:
    value = getattr(default, "value", default)  # of an Enum
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metavar(name: str) -> str:
    return name.rsplit("_", 1)[-1].upper()


def _owner(kind: type, name: str) -> type:
    """The class that a field is declared in."""
    return next(base for base in kind.__mro__ if name in get_annotations(base))


def _heading(owner: type, name: str) -> str:
    said = (owner.__doc__ or "Options").partition(".")[0].partition(":")[0].strip()
    return HEADINGS.get(f"{owner.__name__}.{name}") or HEADINGS.get(owner.__name__) or said


def _usage(program: str, taken: Declared) -> str:
    words = [f"--{name} {_metavar(name)}" for name in taken.required()]
    texts = [] if taken.positional is None else [f"{taken.positional[0].upper()} ..."]
    return " ".join([program, *texts, *words, "[options]"]).replace("%", "%%")


def _add_training(parser: argparse.ArgumentParser, ours: set[str], others: Iterable[dataclasses.Field[Any]]) -> None:
    others = [field for field in others if field.name not in ours]
    if others:
        group = parser.add_argument_group("Training and output (transformers' TrainingArguments)")
        for field in others:
            add(group, field)
        return
    names = ", ".join(f"--{name}" for name in COMMON if name not in ours)
    said = f"Options of transformers' TrainingArguments, such as {names}. --help-all shows all of them."
    width = shutil.get_terminal_size().columns - 4  # argparse's own, but for the indentation
    parser.add_argument_group("Training and output", textwrap.fill(said, max(width, 20), break_on_hyphens=False))


def _of_transformers(command: str) -> list[dataclasses.Field[Any]]:
    """The fields of transformers' `TrainingArguments`, as the command's own dataclass has them."""
    for kind in import_module(COMMANDS[command][0]).ARGUMENTS:
        if any(base.__name__ == TRAINING_ARGUMENTS for base in kind.__mro__):
            return [field for field in dataclasses.fields(kind) if field.init and field.name != "debug"]  # ours is
    return []


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions and examples as they stand; the names of options in a column that is not too wide."""

    def __init__(self, prog: str, **settings: Any):
        super().__init__(prog, max_help_position=30, **settings)
