"""What computes, and what that holds: modules, whose weights are looked at elsewhere, and a digest of all the rest."""

import hashlib
import pickle
from collections.abc import Iterable
from dataclasses import is_dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_SETTINGS = (str, int, float, list, tuple, dict, PreTrainedConfig, PreTrainedTokenizerBase)  # among a module's own


class Holdings(pickle.Pickler):
    """What some objects hold, and what that holds, as a pickle would have it; only a digest of it is ever made.

    Attributes:
        modules: those that were found, each with the modules in it.
        digest: of all else, with the settings that lie in modules; None where something has no pickle, such as a
            connection or an index of another library, of which nobody can say whether it is as it was.
    """

    def __init__(self, *held: Any):
        super().__init__(self)
        self.modules: list[nn.Module] = []
        self._parts: set[int] = set()
        self._sum = hashlib.sha256()
        known = self._add(held)
        for module in self.modules:  # those that are found on the way are looked into, too
            for part in module.modules():
                self._add_settings(part)
        self.digest = self._sum.digest() if known else None

    def write(self, data: bytes) -> None:
        """Where the pickle goes."""
        self._sum.update(data)

    def persistent_id(self, held: Any) -> Any:
        """What stands in the pickle for an object that is not taken apart; None for others."""
        if isinstance(held, nn.Module):
            if id(held) not in self._parts:
                self.modules.append(held)
                self._parts.update(id(part) for part in held.modules())
            return id(held)
        if isinstance(held, torch.Tensor):
            return str(held.dtype), list(held.shape), digest_of([held.detach()])
        if isinstance(held, PreTrainedTokenizerBase):
            return id(held), repr(held)
        if isinstance(held, FunctionType):  # also those that a pickle cannot name, with what they refer to
            return id(held.__code__), held.__defaults__, [cell.cell_contents for cell in held.__closure__ or ()]
        return id(held) if isinstance(held, type) else None

    def _add(self, held: Any) -> bool:
        try:
            self.dump(held)
        except Exception:  # whatever an object's own code for pickles raises
            return False
        return True

    def _add_settings(self, part: nn.Module) -> None:
        for name, value in vars(part).items():
            if name not in _OF_EVERY_MODULE and (isinstance(value, _SETTINGS) or is_dataclass(value)):
                self._add((name, value))


def digest_of(tensors: Iterable[torch.Tensor]) -> bytes:
    """A digest of the sums of each row's bits: exact, and read at the speed of memory (0.15 s for 135 million numbers
    in float32, on one core that reads a chunk of 128 tokens in 1.4 s)."""
    sums = [_bits(tensor).sum(dim=1) for tensor in tensors]
    every = torch.cat([part.to(sums[0].device) for part in sums]).cpu().numpy().tobytes() if sums else b""
    return hashlib.sha256(every).digest()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """(rows, n) whole numbers in the same memory, as wide as can be: wide ones are summed up several times faster."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    size, columns, flat = tensor.element_size(), (1, *tensor.shape)[-1], tensor.reshape(-1)
    wide = columns * size % 8 == flat.storage_offset() * size % 8 == 0
    return flat.view(torch.int64 if wide else _INTEGERS[size]).view(len(flat) // columns, -1)
