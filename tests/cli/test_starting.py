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


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_is_looked_for_again_after_a_library(tmp_path: Path, fails: bool) -> None:
    inner = "raise ImportError('no')" if fails else ""
    told = "import gc\nprint(__name__, gc.isenabled())\n"
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(told + "import torch.inner\n" + told)
    (tmp_path / "torch/inner.py").write_text(told + inner)
    script = (
        "from lensbench.cli.starting import announce\nimport gc\nannounce(lambda: None)\n"
        "try:\n    import torch\nexcept ImportError:\n    print('fails')\nprint(gc.isenabled())"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True
    )
    said = done.stdout.splitlines()
    assert said[:2] == ["torch False", "torch.inner False"]
    assert said[2:] == (["fails", "True"] if fails else ["torch False", "True"])
