"""The `lookback` command: one sub-command a file, imported only when it is called."""

import io
import os
import sys
from importlib import import_module, metadata
from typing import NoReturn

from .commands import COMMANDS, LIGHT, SHARED, SWITCHES
from .commands.declared import declared
from .commands.help import asked_for, help_of
from .commands.suggestions import check_options, meant_command
from .jobs.launch import check_alone, check_launch


def usage() -> str:
    """The help text."""
    lines = [f"  {name:<12}{summary}" for name, (_, summary) in COMMANDS.items()]
    return (
        "usage: lookback COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nlookback COMMAND --help says more, with examples; --debug shows where an error came from; "
        "lookback --version."
    )


def version() -> str:
    """The version that is installed."""
    try:
        return f"lookback {metadata.version('lookback')}"
    except metadata.PackageNotFoundError:
        return "lookback, not installed: run from a folder of its source"


def run(arguments: list[str]) -> None:
    """The sub-command that the arguments name; what it printed has reached its place when this returns."""
    from hub_cards.whole_files import full_disk_named

    arguments = switched(arguments)
    try:
        import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
    finally:
        try:
            with full_disk_named("the standard output"):
                sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more at its end
            raise


def main() -> None:
    """Runs the sub-command that the command line names.

    An error that its user can mend becomes one line and exit status 2; `--debug` shows where it came from.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] in ("-V", "--version"):
        print(version())
        return
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is no reason to end
            stream.reconfigure(errors="backslashreplace")
    arguments = switched(arguments)
    if arguments[0] not in COMMANDS:
        end(f"lookback: {no_command(arguments[0])}")
    if asked := asked_for(arguments[1:]):
        print(help_of(arguments[0], everything=asked != "--help"), end="")
        return
    taken = declared(arguments[0])
    try:
        check_launch() if arguments[0] in SHARED else check_alone(arguments[0])
        check_options(arguments[0], arguments[1:], taken.names(), taken.required())
        if arguments[0] in LIGHT:
            import_module(COMMANDS[arguments[0]][0]).main(arguments[1:])
            return
    except ValueError as error:
        end(f"lookback {arguments[0]}: {error}")
    run_or_say(arguments)


def switched(arguments: list[str]) -> list[str]:
    """The arguments, the command among them that an option makes of another.

    >>> switched(["evaluate", "--needle", "--model", "m"])
    ['needle', '--model', 'm']
    """
    for (command, option), meant in SWITCHES.items():
        if arguments[0] == command and option in arguments:
            return [meant, *(one for one in arguments[1:] if one != option)]
    return arguments


def run_or_say(arguments: list[str]) -> None:
    """Runs the command; an error that its user can mend is said in one line."""
    from .commands.errors import check_arguments, message_of  # which imports much

    try:
        check_arguments(arguments)
        run(arguments)
    except Exception as error:
        message = message_of(error)
        if message is None or "--debug" in sys.argv:
            raise
        end(f"lookback {arguments[0]}: {message}")


def end(text: str) -> NoReturn:
    """Ends with exit status 2, for what the user can mend."""
    print(text, file=sys.stderr)
    sys.exit(2)


def no_command(name: str) -> str:
    """What there is instead of a command that there is not."""
    meant = meant_command(name, COMMANDS)
    hint = (
        f"one of {', '.join(COMMANDS)}" if meant is None else f"did you mean {meant!r}? `lookback --help` lists them"
    )
    return f"{name!r} is no command: {hint}."


if __name__ == "__main__":
    main()
