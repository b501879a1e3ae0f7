"""Before anything that takes seconds is imported, a terminal says so."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from lensbench.cli.starting import LARGE
from tests.harness.tiny import Case

COMMAND = [sys.executable, "-m", "lensbench.cli"]
VERBS = {
    "attention": ("attention", "{model}", "Some words"),
    "tokens": ("tokens", "Some words", "--models", "{model}"),
    "lens": ("lens", "{model}", "Some words"),
    "embed": ("embed", "a", "b"),
    "sample": ("sample", "{model}", "Some words"),
    "walk": ("walk", "{model}", "Some words", "-o", "{out}/walk.html"),
    "classify": ("classify", "reviews"),
    "pico": ("pico", "train", "-o", "{out}"),
    "report": ("report", "{out}"),
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """In place of every large library one that says that it is imported, and ends the program."""
    for name in LARGE:
        text = f"import sys\nprint('importing {name}', file=sys.stderr, flush=True)\nsys.exit(3)\n"
        (tmp_path / f"{name}.py").write_text(text)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def words(verb: str, case: Case, out: Path) -> list[str]:
    return [*COMMAND, *(one.format(model=case.folder, out=out) for one in VERBS[verb])]


@pytest.mark.parametrize(
    "verb", ["attention", *(pytest.param(one, marks=pytest.mark.slow) for one in [*VERBS][1:])]
)
def test_a_terminal_is_told_before_the_first_large_library_is_imported(
    verb: str, llama: Case, tmp_path: Path, environment: dict[str, str]
) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        words(verb, llama, tmp_path), stderr=theirs, env=environment, timeout=60, check=False
    )
    os.close(theirs)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 3, said
    assert said.count("loading libraries ...") == 1
    assert said.index("loading libraries") < said.index("importing ")


def test_a_pipe_is_told_nothing(llama: Case, tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        words("attention", llama, tmp_path), capture_output=True, env=environment, check=False
    )
    assert done.returncode == 3
    assert done.stderr.startswith(b"importing ")
