"""What a device is called: one, or several with their sizes and a folder. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lensbench.errors import InputProblems, Problem

DISK = "disk"
ONE = "Give cpu, cuda, cuda:1 or mps."
_NAME = re.compile(r"(cpu|mps)(:0)?|cuda(:\d+)?")
_UNITS = {"GB": 10**9, "MB": 10**6}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(GB|MB)")
_COMMA = "A comma parts devices: a folder behind disk= can have none in its name."
_FORM = "Write it as cuda:0,cuda:1,cpu,disk=FOLDER, with sizes as in cuda:0=20GB, or auto."


@dataclass(frozen=True)
class Named:
    """A device of a list: its name, and the bytes or the folder that stand behind it."""

    name: str
    n_bytes: int | None = None
    folder: Path | None = None


def is_spread(device: str) -> bool:
    """Whether a `device` names more than one, or leaves it open how many."""
    return device == "auto" or "," in device or "=" in device


def named(device: str) -> list[Named]:
    """The devices of a list, as they are written; `auto` stays.

    Raises InputProblems with all that is wrong with it, whatever devices this machine has.
    """
    found: list[Named] = []
    problems: list[Problem] = []
    for part in map(str.strip, device.split(",")):
        name, _, value = part.partition("=")
        if (what := next(_wrong(name, value), None)) is not None:
            behind = f"{DISK}=" in device.partition(part)[0]
            problems.append(Problem("device", f"{part!r}: {what}", _COMMA if behind else _FORM))
        elif name in [one.name for one in found]:
            problems.append(Problem("device", f"{name} stands twice", "Name it once."))
        else:
            folder = Path(value).expanduser() if name == DISK else None
            found.append(Named(name, _bytes(value), folder))
    if not problems and all(one.name == DISK for one in found):
        what, remedy = "a disk computes nothing", "Name the device that does: cpu,disk=FOLDER."
        problems.append(Problem("device", what, remedy))
    if problems:
        raise InputProblems(problems)
    return found


def as_named(device: str | None) -> str | None:
    """The same device or list. Raises InputProblems for what can be none on any machine."""
    if device is not None and is_spread(device):
        named(device)
    elif device is not None and not _NAME.fullmatch(device):
        raise InputProblems([Problem("device", f"{device!r} is no device", ONE)])
    return device


def _wrong(name: str, value: str) -> Iterator[str]:
    """What is wrong with a device of a list."""
    if name == DISK:
        yield from _wrong_folder(value)
    elif name == "mps":
        yield "Apple's GPU shares the processor's memory, so nothing is spread over it"
    elif name != "auto" and not _NAME.fullmatch(name):
        yield f"{name!r} is no device"
    elif value and _bytes(value) is None:
        yield f"{value!r} is no size like 20GB or 500MB"


def _wrong_folder(value: str) -> Iterator[str]:
    folder = Path(value).expanduser()
    if not value:
        yield "there is no folder named for the weights on disk"
    elif folder.exists() and not folder.is_dir():
        yield f"{value} is a file, and weights on disk need a folder"
    elif not folder.is_dir():
        yield f"there is no folder {value} for the weights on disk; make it first"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"the folder {value} cannot be written to"


def _bytes(value: str) -> int | None:
    size = _SIZE.fullmatch(value)
    return None if size is None else int(float(size[1]) * _UNITS[size[2]])
