"""The program `lensbench` as a user runs it, in this process."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    """How the program ended, and what it wrote to standard output and to standard error."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Standard error as one line."""
        return words(self.err)


Program = Callable[..., Done]


def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    """Calls the program with these words."""

    def call(*arguments: object) -> Done:
        from lensbench.cli import main

        monkeypatch.setattr(sys, "argv", ["lensbench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        written = capfd.readouterr()
        return Done(int(ended.value.code or 0), written.out, written.err)

    return call


def words(text: str) -> str:
    """Text as one line, whatever the width of the terminal and its frames."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
