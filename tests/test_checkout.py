"""The commit of a checkout, read from its files, against git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lensbench.checkout import code_hash, git_state, head_commit


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@x"]
    done = subprocess.run(
        ["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "lensbench").mkdir(parents=True)
    (folder / "lensbench" / "a.py").write_text("a = 1\n")
    git(folder, "init", "-q")
    return folder


def test_loose_packed_detached_and_linked_heads_are_read(checkout: Path) -> None:
    assert head_commit(checkout) is None
    assert head_commit(checkout.parent) is None
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    assert head_commit(checkout) == git(checkout, "rev-parse", "HEAD")
    git(checkout, "worktree", "add", "-q", "-b", "other/name", "../linked")
    git(checkout.parent / "linked", "commit", "-qm", "two", "--allow-empty")
    for folder in (checkout, checkout.parent / "linked"):
        assert head_commit(folder) == git(folder, "rev-parse", "HEAD")
    git(checkout, "pack-refs", "--all")
    for folder in (checkout, checkout.parent / "linked"):
        assert head_commit(folder) == git(folder, "rev-parse", "HEAD")
    git(checkout, "checkout", "-q", "--detach", "other/name")
    assert head_commit(checkout) == git(checkout, "rev-parse", "HEAD")


def test_a_change_of_the_code_is_told_by_its_hash(checkout: Path) -> None:
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    before = git_state(checkout)
    assert before is not None
    assert before["dirty"] is None
    (checkout / "lensbench" / "a.py").write_text("a = 2\n")
    after = git_state(checkout)
    assert after is not None
    assert after["commit"] == before["commit"]
    assert after["code_sha256"] == code_hash(checkout / "lensbench") != before["code_sha256"]
