"""Where a page may be written, found out before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from lensbench.errors import InputProblems, Problem


def free_path(path: Path, force: bool) -> Path:
    """Where the page may be written. Raises InputProblems with what is wrong with the path."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir():
        found = ("it is a folder", f"Give a file in it, such as {path / 'walk.html'}.")
    elif not above.is_dir():
        found = (f"{above} is no folder", "Give another path.")
    elif path.exists() and not force:
        found = (f"{path} is there already", "Give another name, or say `force`.")
    else:
        return path
    raise InputProblems([Problem("out", *found)])
