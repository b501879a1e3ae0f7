"""Where the program speaks: results on standard output, everything else on standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lensbench.errors import Problem
from lensbench.escape import printable, printable_lines

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
def batch_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar per model; yields the callback (model, batches done, batches in all)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages) as progress:
        tasks: dict[str, int] = {}

        def update(model: str, done: int, total: int) -> None:
            if model not in tasks:
                tasks[model] = progress.add_task(printable(model), total=total)
            progress.update(tasks[model], completed=done)  # type: ignore[arg-type]

        yield update


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends in one line that says that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        messages.print("Interrupted. Run the same command again: it goes on where it stopped.")
        raise typer.Exit(INTERRUPTED) from None
