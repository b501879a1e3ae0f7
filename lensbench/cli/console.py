"""Where the program speaks: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import progress as bars
from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from lensbench.errors import Problem
from lensbench.escape import printable, printable_json, printable_lines
from lensbench.progress import Progress, Watch

if TYPE_CHECKING:
    from lensbench.cluster.spec import WorkersSpec
    from lensbench.models.bridge import Proof
    from lensbench.models.model import LensModel
    from lensbench.models.spec import LoadSpec
    from lensbench.models.text_encoder import TextEncoder

INTERRUPTED = 130
SHOWN = 20  # lines of a list; the rest is counted
_EVERY_S = 30.0  # between two lines on progress, where there is no terminal to draw a bar on


class _Console(Console):
    """What it writes for a reader who has left is dropped, and the program goes on."""

    def on_broken_pipe(self) -> None:
        _drop_output()


results = _Console()
messages = _Console(stderr=True)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def prepare() -> None:
    """Characters that a terminal's encoding lacks are replaced."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")


def starting() -> None:
    """Who watches a terminal learns what the first seconds are for; a pipe or a log does not."""
    if messages.is_terminal:
        messages.print("loading libraries ...", style="dim", highlight=False)


def flush() -> None:
    """Write what is still to be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()


def literal(text: object) -> str:
    """Somebody's text as rich markup that shows it as it is: no tags, no control characters."""
    return escape(printable_lines(str(text)))


def say(text: object) -> None:
    """A line of results as it is, unwrapped so that it can be copied."""
    results.print(printable_lines(str(text)), markup=False, highlight=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """A result as JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    results.out(printable_json(text), highlight=False)


def without_nan(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row for JSON, which has no NaN: null in its place."""
    return {key: None if value != value else value for key, value in row.items()}


def table(rows: Sequence[Mapping[str, object]], left: Collection[str] = (), gap: int = 2) -> Table:
    """Rows for the terminal, their keys as headings; columns at the right but those in `left`.

    `gap`: blanks between two columns.
    """
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, gap - gap // 2, 0, gap // 2))
    for name in rows[0]:
        side: JustifyMethod = "left" if name in left else "right"
        shown.add_column(literal(name.replace("_", " ")), justify=side, overflow="fold")
    for row in rows:
        shown.add_row(*(literal(_cell(value)) for value in row.values()))
    return shown


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    return short(value) if isinstance(value, float) else str(value)


def short(value: float, digits: int = 4) -> str:
    """In so many digits; a number of more than those whole, without an exponent."""
    whole = abs(value) >= 10**digits - 0.5
    return f"{value:,.0f}" if whole else f"{value:.{digits}g}"


def note(text: object) -> None:
    """A line for the user, besides the results."""
    _tell(literal(text))


def explain(text: object) -> None:
    """Sentences for the user, besides the results: how to read them, and what to do next."""
    messages.print(literal(text), style="dim", highlight=False)


class _Notes(logging.Handler):
    """What the package notes on its way, such as how a model was loaded, is a message too."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


_notes = logging.getLogger("lensbench")
_notes.addHandler(_Notes())
_notes.setLevel(logging.INFO)


def failure(error: object) -> None:
    """One error."""
    _tell(f"[bold red]error:[/] {literal(error)}")


def _tell(markup: str) -> None:
    """In lines of a terminal's width; in a pipe or a log whole, for who looks for it."""
    messages.print(markup, highlight=False, soft_wrap=not messages.is_terminal)


def show_problems(problems: Sequence[Problem], kept_in: object = "problems.parquet") -> None:
    """Items that were skipped; the first ones in words, the rest counted."""
    for problem in problems[:SHOWN]:
        _tell(f"[yellow]skipped:[/] {literal(problem)}")
    rest = len(problems) - SHOWN
    if rest > 0:
        _tell(f"[yellow]... and {rest} more[/]; all are in {literal(kept_in)}")


def page_path(path: Path, model: str, many: bool) -> Path:
    """Where a model's page goes: of many models each has its name in that of its page."""
    from lensbench.records.store import folder_name

    return path.with_stem(f"{path.stem}-{folder_name(model)}") if many else path


def show_reports(folders: Sequence[Path], out: Path | None = None) -> None:
    """Build the reports of some records, and say which files to open."""
    from lensbench.report.build import build_report

    with interruptible(), messages.status("writing the report"):
        written = build_report(folders, out)
    pages = [path for path in written if path.name in ("report.md", "report.html")]
    for path in pages:
        say(path)
    if len(written) > len(pages):
        note(f"and {len(written) - len(pages)} tables, figures and further pages beside them")


def loaded(spec: LoadSpec, proof: Proof | None = None) -> LensModel:
    """The model that these options ask for; a line on standard error says that it is coming."""
    from lensbench.models.load import load_model
    from lensbench.models.spec import LoadSpec

    with messages.status(f"loading {literal(spec.model)}"):
        return load_model(**spec.shared(LoadSpec), proof=proof)


def loaded_readable(spec: LoadSpec) -> LensModel | TextEncoder:
    """The same, a text encoder too."""
    from lensbench.models.readable import load_readable
    from lensbench.models.spec import LoadSpec

    with messages.status(f"loading {literal(spec.model)}"):
        return load_readable(**spec.shared(LoadSpec))


@contextmanager
def batch_progress(workers: WorkersSpec | None = None, kept: bool = True) -> Iterator[Watch]:
    """Where each stage is: a bar at a terminal, else lines, such as a log of a batch job holds.

    Jobs inside are done by the workers, where there are any. Ctrl-C ends as in `interruptible`.
    """
    from lensbench.cluster.workers import working

    with interruptible(kept), working(workers):
        if not messages.is_terminal:
            yield _lines()
            return
        with _bars() as watch:
            yield watch


def _lines() -> Watch:
    """Tells of a stage when it begins, when it is done, and every `_EVERY_S` seconds between."""
    told: dict[str, float] = {}

    def update(now: Progress) -> None:
        passed = time.monotonic() - told.get(now.stage, -math.inf)
        if passed >= _EVERY_S or (now.total is not None and now.done == now.total):
            told[now.stage] = time.monotonic()
            counts = _counts(now)
            note(f"{now.stage}: {counts}" if counts else now.stage)

    return update


@contextmanager
def _bars() -> Iterator[Watch]:
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
def interruptible(kept: bool = True) -> Iterator[None]:
    """Ctrl-C ends in one line that says that nothing is lost, or that nothing is `kept`."""
    try:
        yield
    except KeyboardInterrupt:
        goes_on = "goes on where it stopped" if kept else "begins anew, for nothing was kept"
        messages.print(f"Interrupted. Run the same command again: it {goes_on}.")
        sys.exit(INTERRUPTED)
