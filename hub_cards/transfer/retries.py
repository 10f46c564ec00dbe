"""Trying again what a network or a busy Hub broke off."""

import importlib
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import get_session
from transformers.utils import logging

TRIES = 5
LONGEST_WAIT = 300.0  # seconds; a Hub that asks for more is not waited for
_BUSY = (408, 429, *range(500, 600))  # 520 to 530 are of the network before the Hub
Result = TypeVar("Result")
logger = logging.get_logger(__name__)


class TransferError(OSError):
    """A push or a pull that broke off, or a file that arrived damaged; the message says which and what holds now."""


def retried(call: Callable[[], Result], what: str) -> Result:
    """What `call` returns, tried up to `TRIES` times where the connection breaks or the Hub is busy (429, 5xx).

    It waits 1, 2, 4 and 8 seconds, or as long as the Hub's Retry-After says. `call` must be safe to repeat.

    Raises TransferError after the last try; another error of `call` at once.
    """
    for attempt in range(TRIES):
        try:
            return call()
        except Exception as error:  # the client's HTTP library is httpx or httpx2, by its version
            if not is_transient(error):
                raise
            wait = _asked_wait(error) or 2.0**attempt
            if attempt == TRIES - 1 or wait > LONGEST_WAIT:
                raise TransferError(f"{what} failed {attempt + 1} times: {_short(error)}") from error
            logger.warning(f"{what} failed ({_short(error)}); trying again in {wait:.0f} s.")
            time.sleep(wait)
    raise AssertionError("unreachable")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may well succeed later: a broken connection, a timeout, or a busy Hub."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    if isinstance(error, LocalEntryNotFoundError):  # the Hub could not be asked, so the client looked into its cache
        return True
    library = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    return isinstance(error, library.TransportError)


def _asked_wait(error: Exception) -> float | None:
    value = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return float(value) if value.isdigit() else None


def _short(error: BaseException) -> str:
    """The error on one line, without the advice that follows."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
