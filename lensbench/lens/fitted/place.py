"""Where a fitted lens is, by what a user calls it. No torch here: command lines and specs ask."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from lensbench.checkpoints.source import cache_dir
from lensbench.records.read import MANIFEST
from lensbench.records.store import folder_name

Method = Literal["linear", "tuned", "jacobian"]
METHODS: tuple[str, ...] = get_args(Method)  # how a lens is fitted, and what one is called


def is_fitted(given: str) -> bool:
    """Whether this can be a fitted lens: the name of a method, or a folder with a record."""
    return given in METHODS or (Path(given).expanduser() / MANIFEST).is_file()


def fitted_name(given: str) -> str:
    """What a fitted lens is called in records: its method, or its folder's name."""
    return given if given in METHODS else Path(given).expanduser().resolve().name


def fitted_folder(given: str, model: str) -> Path:
    """The folder of a fitted lens: one that is named, or the model's own of a method."""
    if given in METHODS:
        return cache_dir() / "lenses" / folder_name(model) / given
    return Path(given).expanduser()
