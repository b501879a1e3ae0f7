"""Where the program speaks: results on standard output, everything else on standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from lensbench.errors import Problem
from lensbench.escape import printable, printable_lines
from lensbench.progress import Progress, Watch

INTERRUPTED = 130
SHOWN = 20  # lines of a list; the rest is counted

results = Console()
messages = Console(stderr=True)


def literal(text: object) -> str:
    """Somebody's text as rich markup that shows it as it is: no tags, no control characters."""
    return escape(printable_lines(str(text)))


class _Notes(logging.Handler):
    """What the package notes on its way, such as how a model was loaded, is a message too."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(literal(record.getMessage()), highlight=False)


_notes = logging.getLogger("lensbench")
_notes.addHandler(_Notes())
_notes.setLevel(logging.INFO)


def failure(error: object) -> None:
    """One error, unwrapped so that it can be copied."""
    messages.print(f"[bold red]error:[/] {literal(error)}", highlight=False, soft_wrap=True)


def show_problems(problems: Sequence[Problem], kept_in: str = "problems.parquet") -> None:
    """Items that were left out; the first ones in words, the rest counted."""
    for problem in problems[:SHOWN]:
        messages.print(f"[yellow]left out:[/] {literal(problem)}", highlight=False)
    rest = len(problems) - SHOWN
    if rest > 0:
        messages.print(f"[yellow]... and {rest} more[/]; all are in {literal(kept_in)}")


@contextmanager
def batch_progress() -> Iterator[Watch]:
    """A bar for each stage, with what it counts; without an end in sight it moves to and fro."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counts]}", markup=False),
        TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=messages) as shown:
        tasks: dict[str, bars.TaskID] = {}
        endless: list[str] = []  # the stage at work, where nobody knows how long it takes

        def update(now: Progress) -> None:
            while endless and endless[-1] != now.stage:
                shown.remove_task(tasks.pop(endless.pop()))
            if now.stage not in tasks:
                name = printable(now.stage)
                tasks[now.stage] = shown.add_task(name, total=now.total, counts="")
                endless.extend([now.stage] if now.total is None else [])
            task = tasks[now.stage]
            shown.update(task, total=now.total, completed=now.done, counts=_counts(now))

        yield update
        for stage in endless:
            shown.remove_task(tasks[stage])


def _counts(now: Progress) -> str:
    """Such as "3/12 batches, loss 1.832"."""
    count = f"{now.done:,}/{now.total:,} {now.unit}" if now.total is not None else ""
    return printable(", ".join(part for part in (count, now.detail) if part))


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends in one line that says that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        messages.print("Interrupted. Run the same command again: it goes on where it stopped.")
        raise typer.Exit(INTERRUPTED) from None
