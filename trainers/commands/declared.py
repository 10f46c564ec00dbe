"""What a command takes, read from its source: importing it would import torch, which takes seconds.

The dataclasses are made anew from the text of their modules, so that names, defaults and help have one home. A test
holds them against the real ones.
"""

import ast
import dataclasses
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_origin

from . import COMMANDS

ROOT = Path(__file__).resolve().parents[2]  # where our packages are, also behind a link
PACKAGES = ("trainers", "hub_cards", "modeling_biencoder", "modeling_llara", "modeling_srlm")
_WITH_FIELDS = ("dataclass", "NamedTuple")
TRAINING_ARGUMENTS = "TrainingArguments"  # transformers'


class Declared(NamedTuple):
    """What a command takes."""

    description: str
    arguments: tuple[type, ...]  # dataclasses
    examples: str  # lines to copy, each behind a comment
    positional: tuple[str, str] | None  # name and help of what stands without an option

    def trains(self) -> bool:
        """Whether it takes transformers' `TrainingArguments`, too."""
        return any(base.__name__ == TRAINING_ARGUMENTS for kind in self.arguments for base in kind.__mro__)

    def names(self) -> list[str]:
        """The names of its options, ours before transformers'."""
        ours = [field.name for field in self.fields()]
        return [*ours, *(name for name in transformers_names() if name not in ours)] if self.trains() else ours

    def required(self) -> list[str]:
        """The names of those that have no default."""
        missing = dataclasses.MISSING
        return [field.name for field in self.fields() if field.default is field.default_factory is missing]

    def fields(self) -> list[dataclasses.Field[Any]]:
        """The fields of all its dataclasses."""
        return [field for kind in self.arguments for field in dataclasses.fields(kind)]


@cache
def declared(command: str) -> Declared:
    """What the command of this name takes."""
    module = _source(COMMANDS[command][0])
    positional = module.value("POSITIONAL") if "POSITIONAL" in module.bound else None
    return Declared(module.description, tuple(module.value("ARGUMENTS")), module.value("EXAMPLES"), positional)


@cache
def transformers_names() -> tuple[str, ...]:
    """The fields of transformers' `TrainingArguments`, which is not imported either."""
    spec = find_spec("transformers")
    folder = Path(str(spec.origin)).parent if spec is not None else Path()
    tree = ast.parse((folder / "training_args.py").read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == TRAINING_ARGUMENTS)
    return tuple(name for node in found for name, _ in _annotated(node))


class _Source:
    """A module of ours that is not imported. Its values at the top level are worked out as they are asked for."""

    def __init__(self, name: str):
        path = ROOT.joinpath(*name.split("."))
        self.name, self.is_package = name, path.is_dir()
        self.path = path / "__init__.py" if self.is_package else path.with_suffix(".py")
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        self.description = ast.get_docstring(tree) or ""
        self.bound: dict[
            str, Any
        ] = {}  # name -> its expression, its class, or the module and name it is imported from
        self.values: dict[str, Any] = {}
        for node in tree.body:
            self._bind(node)

    def _bind(self, node: ast.stmt) -> None:
        if isinstance(node, ast.ClassDef):
            self.bound[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            self.bound |= {target.id: node.value for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import):
            self.bound |= {alias.asname or alias.name: (alias.name, None) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = self.name.split(".")[: None if self.is_package else -1]
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            self.bound |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}

    def value(self, name: str) -> Any:
        """What a name of the top level stands for."""
        if name not in self.values:
            node = self.bound[name]
            if isinstance(node, tuple):
                self.values[name] = _imported(*node)
            else:
                self.values[name] = self._class(node) if isinstance(node, ast.ClassDef) else self.evaluate(node)
        return self.values[name]

    def evaluate(self, expression: ast.expr) -> Any:
        """The value of an expression of names of the top level and built-in ones."""
        names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)} & set(self.bound)
        known = {"__file__": str(self.path), **{name: self.value(name) for name in names}}
        return eval(compile(ast.Expression(expression), str(self.path), "eval"), known)

    def _class(self, node: ast.ClassDef) -> type:
        """A dataclass without its methods, also for a named tuple; of any other class the name alone."""
        if not any(name in ast.dump(one) for one in (*node.decorator_list, *node.bases) for name in _WITH_FIELDS):
            return type(node.name, (), {})
        fields: list[Any] = []
        for name, statement in _annotated(node):
            kind = self.evaluate(statement.annotation)
            if get_origin(kind) is not ClassVar:
                fields.append((name, kind, *([] if statement.value is None else [self.evaluate(statement.value)])))
        bases = tuple(base for base in map(self.evaluate, node.bases) if isinstance(base, type))
        return dataclasses.make_dataclass(
            node.name, fields, bases=bases, namespace={"__doc__": ast.get_docstring(node), "__module__": self.name}
        )


_source = cache(_Source)


def _imported(module: str, name: str | None) -> Any:
    """What `from module import name` brings; of another package than ours or Python's an empty class of its name."""
    top = module.partition(".")[0]
    if top in PACKAGES and name is not None:
        return _source(module).value(name)
    if top in sys.stdlib_module_names:
        found = import_module(module)
        return found if name is None else getattr(found, name)
    return type(name or module, (), {})


def _annotated(node: ast.ClassDef) -> list[tuple[str, ast.AnnAssign]]:
    """The fields of a class by name."""
    fields = (one for one in node.body if isinstance(one, ast.AnnAssign))
    return [(one.target.id, one) for one in fields if isinstance(one.target, ast.Name)]
