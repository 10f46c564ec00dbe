"""The `lookback` command: one sub-command a file, imported only when it is called."""

import io
import os
import sys
from importlib import import_module

from hub_cards.whole_files import full_disk_named

from .commands.errors import check_arguments, message_of
from .jobs.launch import check_alone, check_launch

COMMANDS = {
    "demo": ("trainers.demo.run", "the whole loop on the embedded corpus, in minutes, with a report"),
    "pretrain": ("trainers.commands.pretrain", "adapt a decoder to embedding with LLaRA, without labels"),
    "explain": ("trainers.commands.explain", "print the words that a LLaRA embedding of a text stands for"),
    "finetune": ("trainers.commands.finetune", "train a bi-encoder on queries and passages"),
    "evaluate": ("trainers.commands.evaluate", "measure how well a bi-encoder finds relevant passages"),
    "encode": ("trainers.commands.encode", "write embeddings of many texts to a file"),
    "search": ("trainers.commands.search", "find texts in what encode wrote"),
    "convert": ("trainers.commands.convert", "make a bi-encoder of a LLaRA model or checkpoint"),
    "merge": ("trainers.commands.merge", "make a complete model of an adapter and its base"),
    "train-lm": ("trainers.commands.train_lm", "train a self-retrieval language model on long documents"),
    "score": ("trainers.commands.score", "make teacher scores for the bi-encoder from a language model's feedback"),
    "mine": ("trainers.commands.mine", "find hard negatives for the bi-encoder's rows"),
    "perplexity": ("trainers.commands.perplexity", "score documents with and without looking back"),
    "generate": ("trainers.commands.generate", "continue a text of any length, looking back"),
    "push": ("trainers.commands.push", "send a saved model to the Hub"),
    "pull": ("trainers.commands.pull", "fetch a model from the Hub"),
}

# Commands whose work several processes share.
SHARED = ("pretrain", "finetune", "train-lm", "evaluate", "encode", "score", "mine", "perplexity")


def usage() -> str:
    """The help text."""
    lines = [f"  {name:<12}{summary}" for name, (_, summary) in COMMANDS.items()]
    return (
        "usage: lookback COMMAND [options]\n\n"
        + "\n".join(lines)
        + "\n\nlookback COMMAND --help says more; --debug shows where an error came from."
    )


def run(arguments: list[str]) -> None:
    """The sub-command that the arguments name; what it printed has reached its place when this returns."""
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
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] not in COMMANDS:
        sys.exit(f"lookback: {arguments[0]!r} is no command.\n{usage()}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is no reason to end
            stream.reconfigure(errors="backslashreplace")
    try:
        check_arguments(arguments)
        check_launch() if arguments[0] in SHARED else check_alone(arguments[0])
        run(arguments)
    except Exception as error:
        message = message_of(error)
        if message is None or "--debug" in sys.argv:
            raise
        print(f"lookback {arguments[0]}: {message}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
