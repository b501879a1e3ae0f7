"""Folders that cannot be written to: on a disk of a few bytes, or without the right to."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CAPABILITIES_3, _DAC_OVERRIDE = 0x20080522, 1  # linux/capability.h
_ROOMY = 2 << 30  # bytes
_STOPS_S = 20  # that a database server takes to leave a disk


def may_mount() -> bool:
    """Whether this user may put a disk of a given size into a folder."""
    return os.geteuid() == 0 and _did("unshare", "-m", "true")


@contextmanager
def limited_disk(folder: Path, n_bytes: int) -> Iterator[Callable[[], None]]:
    """A disk in memory of `n_bytes` in place of an empty folder; what is yielded makes it large."""

    def grow() -> None:
        subprocess.run(["mount", "-o", f"remount,size={_ROOMY}", folder], check=True)

    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={n_bytes},mode=755", "tmpfs", folder], check=True
    )
    try:
        yield grow
    finally:
        deadline = time.monotonic() + _STOPS_S
        while not _did("umount", folder):
            if time.monotonic() > deadline:
                subprocess.run(["umount", "-l", folder], check=True)
                break
            time.sleep(0.2)


def _did(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def readable_only(folder: Path) -> Iterator[None]:
    """Nobody may write into the folder and those in it, but root."""
    _rights(folder, lambda mode: mode & ~0o222 | 0o555)
    try:
        yield
    finally:
        writable(folder)


def writable(folder: Path) -> None:
    """Its owner may write into the folder and those in it."""
    _rights(folder, lambda mode: mode | 0o700)


def _rights(folder: Path, change: Callable[[int], int]) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink() and path.name != "postgres":
            path.chmod(change(path.stat().st_mode & 0o777))


def without_override(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call without root's right to write where its owner may not."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header, held = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
        assert libc.capget(header, held) == 0, os.strerror(ctypes.get_errno())
        held[0] &= ~(1 << _DAC_OVERRIDE)  # of those that are in effect
        assert libc.capset(header, held) == 0, os.strerror(ctypes.get_errno())
    return function(*arguments)
