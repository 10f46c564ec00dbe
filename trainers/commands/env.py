"""`lookback env`: versions, platform and accelerators, for the report of a fault. No paths, names or tokens."""

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata

ARGUMENTS = ()
EXAMPLES = r"""
# to copy into a report
lookback env
# as a file to attach
lookback env > env.txt
# of another environment
.venv/bin/lookback env
"""
# What is not required, and matters to those who have it.
ALSO = ("bitsandbytes", "deepspeed", "flash-attn", "liger-kernel")
_NAME = re.compile(r"[\w.-]+")


def lines() -> Iterator[str]:
    """The report, line by line."""
    yield f"- lookback: {_version('lookback') or 'not installed, from a folder of its source'}"
    yield f"- Python: {platform.python_version()} ({platform.python_implementation()})"
    yield f"- platform: {platform.platform()}"
    yield f"- CPU: {os.cpu_count()} cores, {platform.machine()}"
    yield f"- accelerators: {accelerators()}"
    for name in packages():
        version = _version(name)
        if version is not None:
            yield f"- {name}: {version}"


def packages() -> list[str]:
    """What Lookback requires, and its extras ask for, in that order, by the metadata of the installation."""
    try:
        required = metadata.requires("lookback") or []
    except metadata.PackageNotFoundError:
        required = ["torch", "transformers", "datasets", "accelerate", "peft"]
    names = (found[0] for text in required if (found := _NAME.match(text)))
    return [name for name in dict.fromkeys([*names, *ALSO]) if name != "lookback"]


def accelerators() -> str:
    """Kind, number, name and memory of what torch computes on, beside the CPU."""
    try:
        import torch
    except Exception as error:  # whatever is wrong with it is what the report is for; its words may hold paths
        return f"unknown, as torch cannot be imported ({type(error).__name__})"
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return f"none (torch for CUDA {torch.version.cuda})" if torch.version.cuda else "none (torch for CPU)"
    count = torch.accelerator.device_count()
    if kind.type != "cuda":
        return f"{count} x {kind.type}"
    found = [torch.cuda.get_device_properties(number) for number in range(count)]
    named = [f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in found]
    each = "; ".join(f"{named.count(name)} x {name}" for name in dict.fromkeys(named))
    return f"{each} (torch for {'ROCm ' + torch.version.hip if torch.version.hip else f'CUDA {torch.version.cuda}'})"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main(argv: list[str]) -> None:
    """Prints the report."""
    print("\n".join(lines()))
