"""What the program does to a terminal, a pipe and the clock."""

from __future__ import annotations

import gc
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from lensbench.cli.console import batch_progress, explain, failure, note, show_problems
from lensbench.cli.program import FOLDERS, PANELS
from lensbench.errors import Problem
from lensbench.progress import Progress
from tests.harness.program import Program
from tests.harness.tiny import Case

COMMAND = [sys.executable, "-m", "lensbench.cli"]


def _called(file: str) -> str:
    """The verb that stands in a file: import stands in import_.py, for it is Python's word."""
    return file.removesuffix("_").replace("_", "-")


VERBS = [
    (_called(verb), *part)
    for _, verbs in PANELS.values()
    for verb in verbs
    for part in ([[_called(name)] for name in FOLDERS[verb]] if verb in FOLDERS else [[]])
]
# The overview needs none of these; the help of a verb none of the first four.
HEAVY = ("torch", "transformers", "pandas", "scipy", "pyarrow", "pydantic")


def imported_by_help(*verbs: tuple[str, ...]) -> set[str]:
    """Which heavy packages showing help imports."""
    code = (
        "import sys\n"
        "from lensbench.cli import main\n"
        f"for verb in {list(verbs)!r}:\n"
        "    sys.argv = ['lensbench', *verb, '--help']\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert not ended.code, verb\n"
        f"sys.stderr.write(' '.join(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_overview_imports_nothing_heavy() -> None:
    assert imported_by_help(()) == set()


def test_the_help_of_no_verb_needs_torch() -> None:
    assert not imported_by_help(*VERBS) & set(HEAVY[:4])


def test_every_verb_is_a_file_with_a_line_in_the_program() -> None:
    for verb in VERBS:
        assert len(verb) in (1, 2)
    assert len(set(VERBS)) == len(VERBS) > 20


def test_the_overview_fits_80_columns(lensbench: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb's own page is held to it in test_help."""
    monkeypatch.setenv("COLUMNS", "80")
    done = lensbench("-h")
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_process_that_calls_the_program_still_looks_for_its_garbage(lensbench: Program) -> None:
    before = gc.get_freeze_count()
    assert lensbench("models").status == 0
    assert gc.get_freeze_count() <= before


def test_a_reader_that_leaves_is_no_failure() -> None:
    with subprocess.Popen(
        [*COMMAND, "models", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        said = program.stderr.read()
    assert (program.returncode, said) == (0, "")


@pytest.mark.parametrize("verb", ["--help", "models"])
def test_characters_that_an_encoding_lacks_are_replaced(verb: str) -> None:
    narrow = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([*COMMAND, verb], capture_output=True, text=True, env=narrow, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_a_narrow_terminal_cuts_top_tokens_and_no_number(
    lensbench: Program, gpt2: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = lensbench("lens", gpt2.folder, "The capital of Germany is", "--top-k", 20, "--mid")
    rows = [line for line in done.out.splitlines() if re.match(r"\s*\d+ ( ?mid)?", line)]
    assert len(rows) == 7
    for row in rows:
        assert "…" in row
        assert re.search(r"\d\.\d{3} +\d+\.\d\d +\d+\.\d\d +\d\.\d{3} +[\d,]+ *$", row)


def test_all_that_is_wrong_is_said_at_once_by_the_options_names(lensbench: Program) -> None:
    wrong = ("--top-k", 0, "--lens", "rew", "--dtype", "float8", "--relation", "x")
    done = lensbench("lens", "a", "b", *wrong)
    assert (done.status, done.out) == (2, "")
    for words in (
        "3 problems",
        "--top-k: it is 0. Give at least 1.",
        "--lens: it is rew. Did you mean raw?",
        "--dtype: it is float8. Did you mean float32?",
    ):
        assert words in done.said
    done = lensbench("infer", "m", "p.csv", "-o", "o.csv", "--control", "shuffled", "--bits", 7)
    assert "--bits: it is 7. Choose from: 4, 8, 16, 32." in done.said
    done = lensbench("infer", "m", "p.csv", "-o", "o.csv", "--control", "shuffled")
    assert "--control: it has no effect without --rag" in done.said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lense",), "there is no verb 'lense'. Did you mean lens?"),
        (("data", "spilt"), "there is no verb 'spilt'. Did you mean split?"),
        (("lens", "a", "b", "--topk", "3"), "Did you mean --top-k?"),
        (("train", "m"), "DATA: it is missing. Add it. - --out: it is missing."),
        (("attention", "m", "--ablate"), "--ablate stands without its value."),
        (("infer", "m", "p", "-o", "o", "--limit", "--bits", "8"), "--limit stands without its"),
        (
            ("rag", "query", "i", "q", "--where", "topic"),
            "--where: it is topic. write NAME=VALUE",
        ),
    ],
)
def test_bad_usage_names_the_nearest_and_the_way_on(
    lensbench: Program, arguments: tuple[str, ...], said: str
) -> None:
    done = lensbench(*arguments)
    assert (done.status, done.out) == (2, "")
    assert said in done.said


def test_without_a_terminal_progress_is_told_in_lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A batch an hour long leaves a trace in a log; a thousand short ones do not fill it."""
    clock = [0.0]
    monkeypatch.setattr("lensbench.cli.console.time.monotonic", lambda: clock[0])
    with batch_progress() as watch:
        watch(Progress("loading m"))
        for done in range(1001):
            watch(Progress("m\x1b[31m", done, 1000, "batches", "loss 1.8"))
            clock[0] += 0.125
        clock[0] += 3600
        watch(Progress("m\x1b[31m", 999, 1000, "batches"))
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == ["loading m", "m\\u001b[31m: 0/1,000 batches, loss 1.8"]
    assert [line.split()[1] for line in lines[1:]] == [
        *("0/1,000", "240/1,000", "480/1,000", "720/1,000", "960/1,000"),
        *("1,000/1,000", "999/1,000"),
    ]


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.123456, 4, "0.1235"),
        (9999.4, 4, "9999"),
        (9999.6, 4, "10,000"),
        (12530.0, 4, "12,530"),
        (-12530.4, 4, "-12,530"),
        (1340.2, 3, "1,340"),
        (90.868, 3, "90.9"),
        (1e-9, 4, "1e-09"),
    ],
)
def test_a_large_number_is_shown_without_an_exponent(value: float, digits: int, shown: str) -> None:
    from lensbench.cli.console import short

    assert short(value, digits) == shown


def skipped(said: object) -> None:
    where, what = str(said).split(": ", 1)
    show_problems([Problem(where, what.removesuffix("."), "")])


@pytest.mark.parametrize("speak", [failure, note, explain, skipped])
def test_a_terminal_is_filled_and_a_pipe_gets_whole_lines(
    monkeypatch: pytest.MonkeyPatch, speak: Callable[[object], None]
) -> None:
    said = " ".join(["--device: 'disk=/nowhere': there is no such folder."] * 4)
    for terminal in (True, False):
        out = io.StringIO()
        shown = Console(file=out, force_terminal=terminal, width=80, color_system=None)
        monkeypatch.setattr("lensbench.cli.console.messages", shown)
        speak(said)
        lines = out.getvalue().splitlines()
        if terminal:
            assert max(map(len, lines)) <= 80
        elif speak is not explain:  # sentences to read, and none to look for
            assert len(lines) == 1
        shown_text = " ".join(" ".join(lines).split())
        assert re.sub("^(error|skipped): ", "", shown_text) == said
