"""What a command says of an error that its user can mend: what, where and what to do, in one line."""

import errno
import re
from collections.abc import Iterable
from traceback import walk_tb

import datasets
from huggingface_hub import constants

from hub_cards.transfer.retries import is_transient
from hub_cards.travelling.saving import is_full_disk

from ..data.readers import without_surrogates

_ADVICE = {
    errno.ENOSPC: "free some space and run the same command again: what was there before is whole.",
    errno.EDQUOT: "free some space and run the same command again: what was there before is whole.",
    errno.EACCES: "give this user the right to it, or name another.",
    errno.EPERM: "give this user the right to it, or name another.",
    errno.EROFS: "name a place that can be written to.",
    errno.ENOENT: "name one that is there.",
    errno.ENOTDIR: "name a folder.",
    errno.EISDIR: "name a file.",
    errno.ELOOP: "it is a symbolic link that leads to itself: remove it, or name another.",
    errno.ENAMETOOLONG: "give it a shorter name.",
    errno.ECONNREFUSED: "is the network there? Try again later, or give a folder.",
}
_LOCKED_OUT = re.compile(r"(?<=://)[^\s/@'\"]+@")  # user:token@ of a URL
_LINE_END = re.compile(r"\s*\n\s*")
# What torch puts before the message of an error that a worker of a data loader met.
_OF_A_WORKER = re.compile(r"^Caught \w+ in DataLoader worker process .*\n[\w.]*(Error|Exception): ", re.DOTALL)
_LACKING = re.compile(r"\binstall|distribution was not found")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def message_of(error: BaseException) -> str | None:
    """One line for an error that a user can mend; None for a fault of ours, which deserves a traceback."""
    if isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__ is not None:
        return message_of(error.__cause__)
    if isinstance(error, RecursionError):
        return "something in the data or settings is nested too deep to be read: write it flatter."
    if isinstance(error, OSError) and error.errno is not None:
        return without_tokens(_of_system(error))
    if isinstance(error, OSError) or is_transient(error):  # transformers' and the Hub client's run over many lines
        return without_tokens(" ".join([*str(error).split(), *_notes(error)]) or type(error).__name__)
    if isinstance(error, ValueError | TypeError | datasets.exceptions.DatasetsError):
        return without_tokens(_in_one_line(" ".join([str(error), *_notes(error)])))
    if isinstance(error, KeyError) and "metric_for_best_model" in str(error):  # of a loss that no row has
        return _in_one_line(str(error.args[0]))
    if isinstance(error, ImportError) and _LACKING.search(str(error)):  # of a package that an option asks for
        return _in_one_line(str(error))
    if isinstance(error, RuntimeError) and "Symlink loop" in str(error):  # pathlib's, up to Python 3.12
        return f"{error}: {_ADVICE[errno.ELOOP]}"
    if isinstance(error, RuntimeError) and "PytorchStreamWriter failed writing" in str(error):
        return f"a file of the checkpoint could not be written: {_ADVICE[errno.ENOSPC]}"
    return None


def _in_one_line(text: str) -> str:
    return _LINE_END.sub(" ", _OF_A_WORKER.sub("", text)).strip()


def _of_system(error: OSError) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if not names and is_full_disk(error):
        names = _caches(error)
    where = f"{' -> '.join(map(repr, names))}: " if names else ""
    advice = _ADVICE.get(error.errno or 0, "")
    said = f"{error.strerror or error}".rstrip(".")
    return " ".join([f"{where}{said}{': ' if advice else '.'}{advice}", *_notes(error)])


def _caches(error: OSError) -> list[str]:
    """The folder that the library wrote to which an error comes from: the system names none when a write fails."""
    through = {frame.f_globals.get("__name__", "").split(".")[0] for frame, _ in walk_tb(error.__traceback__)}
    folders = {"datasets": datasets.config.HF_DATASETS_CACHE, "huggingface_hub": constants.HF_HUB_CACHE}
    return [str(folder) for library, folder in folders.items() if library in through][:1]


def _notes(error: BaseException) -> Iterable[str]:
    return getattr(error, "__notes__", ())


def without_tokens(text: str) -> str:
    """A text without the passwords and access tokens in it."""
    return _TOKEN.sub("hf_***", _LOCKED_OUT.sub("***@", text))


def check_arguments(arguments: Iterable[str]) -> None:
    """ValueError for an argument with a password or token in a URL, which cards, logs and processes would show.

    And for one that is not UTF-8, such as an old file name: no card, table or JSON could hold it.
    """
    for argument in arguments:
        if argument != without_surrogates(argument):
            raise ValueError(f"{argument!a} is not UTF-8: rename the file, or write the text as UTF-8.")
        if _LOCKED_OUT.search(argument):
            raise ValueError(
                f"{without_tokens(argument)} has a password or token in it, which others would come to see: give the "
                "repo as user/name, and log in by `hf auth login` or the variable HF_TOKEN."
            )
