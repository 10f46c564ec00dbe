"""What every row is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Args:
        device: cuda where there is one.
        size: the model size to run instead of the row's own; None: the row's own.
        repeats: timed pairs.
        quick: tiny sizes, no marks.
        reference: checkout of FlagEmbedding, None without one.
        every: the sizes that take long, too.
    """

    device: torch.device
    size: str | None = None
    repeats: int = 5
    quick: bool = False
    reference: Path | None = None
    every: bool = False

    def sizes(
        self, own: Mapping[str, tuple[str, ...]], slow: Mapping[str, tuple[str, ...]] | None = None
    ) -> tuple[str, ...]:
        """The sizes to run: those that a row has for each device type, and `slow` ones where all are asked for."""
        if self.quick:
            return ("quick",)
        slower = slow.get(self.device.type, ()) if slow and self.every else ()
        return (self.size,) if self.size else (*own[self.device.type], *slower)
