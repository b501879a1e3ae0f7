"""Help: its examples can be copied as they stand, and every option says what it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
from cyclopts import App

from lensbench.cli.program import FOLDERS, PANELS, program
from tests.harness.program import Program

PROGRAM = program()
VERBS = [
    (verb.rstrip("_"), *((part.replace("_", "-"),) if part else ()))
    for _, verbs in PANELS.values()
    for verb in verbs
    for part in FOLDERS.get(verb, ("",))
]


def examples(page: str) -> Iterator[list[str]]:
    """The commands below "Examples:", as a shell reads them: nothing but words may stand there."""
    _, _, below = page.replace("Example:", "Examples:").partition("Examples:\n")
    for line in below.replace("\\\n", " ").splitlines():
        shell = shlex.shlex(line, posix=True, punctuation_chars=True)
        shell.whitespace_split = True
        if found := list(shell):
            assert not {*found} & {"(", ")", ";", "&", "|", "<", ">"} - {">"}, line
            yield found[: found.index(">")] if ">" in found else found


@pytest.mark.parametrize("verb", [*VERBS, *((one,) for one in FOLDERS)], ids=" ".join)
def test_the_examples_of_a_verb_can_be_copied_from_a_narrow_terminal(
    verb: tuple[str, ...], lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = lensbench(*verb, "--help")
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert "[default: ]" not in done.out
    assert "None" not in done.out
    commands = list(examples(done.out))
    assert ["lensbench", *verb] in [command[: len(verb) + 1] for command in commands]
    for command in commands:
        assert command[0] == "lensbench"
        PROGRAM.parse_args(command[1:], print_error=False, exit_on_error=False)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_option_of_a_verb_says_what_it_is(verb: tuple[str, ...]) -> None:
    app: App = PROGRAM
    for name in verb:
        app = app[name]
    silent = [
        argument.name
        for argument in app.assemble_argument_collection()
        if argument.parse and argument.show and not argument.parameter.help
    ]
    assert silent == []
