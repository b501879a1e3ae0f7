"""The git checkout that lensbench runs from, read from its files: no program is started for it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_LINKS = 5  # of one ref to another; a checkout has one


def git_state(root: Path) -> dict[str, str | None] | None:
    """Commit of the checkout in `root`, and a hash of the code itself; None where there is none.

    Only git itself can tell whether files were changed since, so `dirty` is null; whether code is
    that of a commit is told by `code_sha256` (`code_hash`) of both.
    """
    commit = head_commit(root)
    if commit is None:
        return None
    return {"commit": commit, "dirty": None, "code_sha256": code_hash(root / "lensbench")}


def code_hash(package: Path) -> str:
    """SHA-256 over the names and contents of a package's files of Python, in order."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def head_commit(root: Path) -> str | None:
    """The commit of a checkout; None where there is no checkout or no commit yet."""
    own = _git_folder(root)
    if own is None:
        return None
    shared = own / _text(own / "commondir") if (own / "commondir").is_file() else own
    value = _text(own / "HEAD")
    for _ in range(_LINKS):
        if not value.startswith("ref:"):
            break
        name = value.removeprefix("ref:").strip()
        loose = [folder / name for folder in (own, shared) if (folder / name).is_file()]
        value = _text(loose[0]) if loose else _packed(shared, name)
    return value if _COMMIT.fullmatch(value) else None


def _git_folder(root: Path) -> Path | None:
    """The folder .git; of a worktree or a submodule, that which the file .git names."""
    git = root / ".git"
    if git.is_dir():
        return git
    said = _text(git) if git.is_file() else ""
    return root / said.removeprefix("gitdir:").strip() if said.startswith("gitdir:") else None


def _packed(shared: Path, name: str) -> str:
    """A ref's commit from git's list of packed refs; empty where it is not there."""
    packed = shared / "packed-refs"
    lines = _text(packed).splitlines() if packed.is_file() else []
    pairs = (line.split(" ", 1) for line in lines if " " in line and line[0] not in "#^")
    return next((commit for commit, ref in pairs if ref.strip() == name), "")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
