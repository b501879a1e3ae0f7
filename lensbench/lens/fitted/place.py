"""Where a fitted lens is, by what a user calls it. No torch here: command lines and specs ask."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from lensbench.checkpoints.source import cache_dir
from lensbench.records.read import MANIFEST
from lensbench.records.store import folder_name

Method = Literal["linear", "tuned", "jacobian"]
TUNED_CONFIG, TUNED_FILE = "config.json", "params.pt"  # of the tuned-lens project
_PICKLES = (".pkl", ".pickle", ".bin", ".pth", ".ckpt", ".joblib", ".dill")
METHODS: tuple[str, ...] = get_args(Method)  # how a lens is fitted, and what one is called


def is_fitted(given: str) -> bool:
    """Whether this can be a fitted lens: the name of a method, or a folder that holds one."""
    folder = Path(given).expanduser()
    there = (folder / MANIFEST).is_file() or published_file(folder) is not None
    return given in METHODS or there


def holds_no_lens(given: str) -> str | None:
    """Why a folder is none of a lens; None of what is no folder."""
    folder = Path(given).expanduser()
    if not folder.is_dir():
        return None
    what = f"{folder} holds no {MANIFEST} of a fitted lens, and no {TUNED_CONFIG} with {TUNED_FILE}"
    what += " or single .pt of a published one"
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES):
        what += f": {', '.join(pickles)} can run code when it is loaded, and is never read"
    return what


def published_file(folder: Path) -> Path | None:
    """The parameters of a lens that somebody else published: params.pt, or the only .pt there."""
    if (folder / TUNED_CONFIG).is_file() and (folder / TUNED_FILE).is_file():
        return folder / TUNED_FILE
    found = [path for path in folder.glob("*.pt") if path.name != TUNED_FILE]
    return found[0] if len(found) == 1 else None


def fitted_name(given: str) -> str:
    """What a fitted lens is called in records: its method, or its folder's name."""
    return given if given in METHODS else Path(given).expanduser().resolve().name


def fitted_folder(given: str, model: str) -> Path:
    """The folder of a fitted lens: one that is named, or the model's own of a method."""
    if given in METHODS:
        return cache_dir() / "lenses" / folder_name(model) / given
    return Path(given).expanduser()
