"""Freed memory goes back to the system, which the C library would keep for itself."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass
from threading import Lock

import torch

_LEAST = 64 << 20  # bytes
_TIMES = 64  # at most, while a checkpoint is read: each time takes some hundredths of a second


def give_back() -> None:
    """Give all that is free back; where the C library is not glibc, do nothing.

    glibc keeps what is freed beneath something that is still used: after quantising, as much again
    as the weights themselves.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def release() -> None:
    """Let go of what nobody has any more, before another model is loaded.

    A wrapped model refers to itself, so that it stays until Python looks for such; and an
    accelerator's memory counts as taken while torch keeps it for tensors to come.
    """
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()
    give_back()


@dataclass
class Heap:
    """Gives back what was freed whenever so much of `total` bytes was read again."""

    total: int
    _read: int = 0

    def __post_init__(self) -> None:
        self._lock = Lock()  # several threads read

    @property
    def kept(self) -> int:
        """Bytes that may be free and not given back meanwhile."""
        return max(_LEAST, self.total // _TIMES)

    def read(self, n_bytes: int) -> None:
        """So many bytes were read, which were others before, or will be."""
        with self._lock:
            self._read += n_bytes
            full = self._read >= self.kept
            if full:
                self._read = 0
        if full:
            give_back()
