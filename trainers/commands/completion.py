"""`lookback completion`: prints what makes a shell complete commands, options and file names (by shtab)."""

import argparse
from importlib.util import find_spec

from . import COMMANDS
from .declared import declared
from .help import add_names, fill

ARGUMENTS = ()
EXAMPLES = r"""
# bash, for one user
lookback completion bash > ~/.local/share/bash-completion/completions/lookback
# zsh, into a folder of your fpath
lookback completion zsh > ~/.zfunc/_lookback
# in this session alone
eval "$(lookback completion bash)"
"""
SHELLS = ("bash", "zsh", "tcsh")
POSITIONAL = ("shell", f"The shell: {', '.join(SHELLS)}.")


def parser() -> argparse.ArgumentParser:
    """All commands with their options, transformers' own among them, for a completion and not to parse with."""
    import shtab

    whole = argparse.ArgumentParser(prog="lookback", add_help=False)
    whole.add_argument("-h", "--help", action="store_true")
    whole.add_argument("-V", "--version", action="store_true")
    commands = whole.add_subparsers()
    for name, (_, summary) in COMMANDS.items():
        taken = declared(name)
        one = fill(commands.add_parser(name, help=summary, add_help=False), taken)
        add_names(one, taken)
        for action in one._actions:  # texts are mostly names of files and folders
            if action.dest == POSITIONAL[0]:
                action.choices = SHELLS
            elif action.nargs != 0 and action.choices is None and action.metavar not in ("N", "X"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


def main(argv: list[str]) -> None:
    """Prints the completion for the shell that is named."""
    if len(argv) != 1 or argv[0] not in SHELLS:
        raise ValueError(f"{' '.join(argv)!r} must be one of {', '.join(SHELLS)}: lookback completion bash.")
    if find_spec("shtab") is None:
        raise ValueError("a completion needs shtab, which is not installed: pip install shtab.")
    import shtab

    print(shtab.complete(parser(), shell=argv[0]))
