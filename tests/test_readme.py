"""Every command of the README, as it is written there, on small stand-ins."""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensbench.cli.program import program
from tests.harness.program import Done, Program
from tests.harness.small_world import shrink, write_inputs, write_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [block.splitlines() for language, block in BLOCKS if not language]
COMMANDS = [line for block in SHELL for line in block if line.startswith("lensbench ")]
LISTED = [line for line in README.splitlines() if re.match(r"\d+\. ", line)]
STEPS = [step for line in LISTED for step in re.findall(r"`(lensbench [^`]+)`", line)]
(PYTHON,) = (block for language, block in BLOCKS if language == "python")
TARGETS = {line.split()[1] for block in SHELL for line in block if line.startswith("make ")}
TARGETS |= set(re.findall(r"`(?:make |(?=bench-))([a-z0-9-]+)`", README))
SAID = "What is a heap?\n/help\n/quit\n"
SLOW = pytest.mark.slow


def test_the_blocks_are_found() -> None:
    assert len(COMMANDS) > 20
    assert len(STEPS) > 10
    known = ("lensbench ", "make ", "pip install ")
    first = {line for block in SHELL for line in block if not line.startswith(" ")} - {""}
    assert [line for line in first if not line.startswith(known)] == []


@pytest.mark.parametrize("line", [*COMMANDS, *STEPS])
def test_every_command_has_options_that_are_there(line: str) -> None:
    """That each runs is slow to see; that it is understood is not."""
    words = shlex.split(line, comments=True)[1:]
    program().parse_args(words, print_error=False, exit_on_error=False)


@pytest.fixture(scope="module")
def place(open_folder: Path) -> Path:
    """Where all of them are run, one after the other: they build on each other."""
    here = open_folder / "here"
    here.mkdir()
    write_models(open_folder / "cache")
    write_inputs(here)
    shutil.copytree(ROOT / "analyses", here / "analyses")
    return here


@pytest.fixture(scope="module")
def ended() -> dict[str, Done]:
    """How each command that was run ended."""
    return {}


@pytest.fixture
def run(
    place: Path, ended: dict[str, Done], lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Done]:
    """Run the README's commands down to this one; how it ended."""
    shrink(monkeypatch, place.parent / "cache", place.parent / "data")
    monkeypatch.chdir(place)

    def down_to(command: str) -> Done:
        for line in COMMANDS[len(ended) : COMMANDS.index(command) + 1]:
            monkeypatch.setattr("sys.stdin", io.StringIO(SAID))
            ended[line] = lensbench(*shlex.split(line, comments=True)[1:])
        return ended[command]

    return down_to


def _cases() -> list[Any]:
    """Those of the first block down to a run over prompts, and with `slow` the others.

    They build on each other; `tests/cli/test_cli.py` has a quick run over prompts.
    """
    first = next(block for block in SHELL if any(line in COMMANDS for line in block))
    quick = [*itertools.takewhile(lambda line: "--prompts" not in line, first)]
    named = {line: line.partition(" #")[0].strip() for line in COMMANDS}
    return [
        pytest.param(line, id=name, marks=[] if line in quick else SLOW)
        for line, name in named.items()
    ]


@pytest.mark.parametrize("command", _cases())
def test_a_command(command: str, run: Callable[[str], Done]) -> None:
    done = run(command)
    assert done.status == 0, done.err


@SLOW
def test_the_python_lines(run: Callable[[str], Done]) -> None:
    run(next(line for line in COMMANDS if line.startswith("lensbench cache ")))
    names: dict[str, Any] = {}
    exec(PYTHON, names)
    assert names["result"].to_pandas().layer.max() == names["model"].n_layers == 30


@SLOW
def test_make_demo_runs_its_commands(run: Callable[[str], Done], lensbench: Program) -> None:
    commands = [words for words in recipe("demo") if words[0].endswith("/lensbench")]
    assert [words[1] for words in commands] == ["pull", "run"]
    for words in commands:
        done = lensbench(*words[1:])
        assert done.status == 0, done.err
    assert Path("runs/demo/report.html").exists()


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_make_target_exists_and_so_does_what_it_calls(target: str) -> None:
    commands = recipe(target)
    assert commands
    modules = [words[2] for words in commands if words[1:2] == ["-m"]]
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def recipe(target: str) -> list[list[str]]:
    """The commands of a target in an environment that is ready."""
    make = ["make", "--dry-run", "--old-file=.venv/.ready", target]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_the_extras_that_it_installs_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"pip install \"?\.\[([a-z,]+)\]", README)
    assert named
    assert set(",".join(named).split(",")) <= set(project["optional-dependencies"])
