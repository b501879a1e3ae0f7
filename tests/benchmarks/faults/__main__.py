"""`python -m tests.benchmarks.faults`: what survives kills, full disks, crowds and bad input."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console

from lensbench.files import write_text
from tests.benchmarks.faults.disturb import Disturber, Tally
from tests.benchmarks.faults.input import Read, damaged, fuzzed, strangers
from tests.benchmarks.faults.work import works
from tests.benchmarks.table import Out, at_least, made_by, markdown_table
from tests.harness.forks import Forks

_console = Console(stderr=True)
_app = cyclopts.App(help=__doc__)


@_app.default
def faults(
    *,
    kills: Annotated[int, at_least(1, "Kills over all kinds of run.")] = 200,
    disks: Annotated[int, at_least(1, "Full disks over all kinds of run.")] = 20,
    damages: Annotated[int, at_least(1, "Damaged records.")] = 100,
    fuzz: Annotated[int, at_least(6, "Inputs changed at random.")] = 10_000,
    seed: int = 0,
    out: Out = Path("reports/bench"),
) -> None:
    """Disturb lens runs, caches, inference and training of a tiny model; count what is lost."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        forks = Forks()
        tallies, record = [], Path()
        for disturber in _disturbers(room, forks, seed):
            for tally in (
                disturber.kills(-(-kills // 4)),
                disturber.full_disks(-(-disks // 4)),
                disturber.crowds((2, 8)),
            ):
                _console.print(tally)
                tallies.append(tally)
            record = record if record.name else _record_in(disturber.room / "undisturbed")
        forks.close()
        reads = [damaged(damages, record, room, seed), *fuzzed(fuzz, record, room, seed)]
        reads.append(strangers(room))
        for read in reads:
            _console.print(read)
    write_text(out / "faults.md", _page(tallies, reads, seed))
    _console.print(f"wrote {out / 'faults.md'}")


def _disturbers(room: Path, forks: Forks, seed: int) -> Iterator[Disturber]:
    for work in works(room):
        yield Disturber(work, forks, room, seed)


def _record_in(folder: Path) -> Path:
    return next(folder.rglob("manifest.json")).parent


def _page(tallies: list[Tally], reads: list[Read], seed: int) -> str:
    runs = [
        (t.what, str(t.times), str(t.runs), str(t.differing), str(t.tracebacks)) for t in tallies
    ]
    inputs = [
        (
            r.what,
            str(r.times),
            str(r.read),
            str(r.refused),
            "; ".join(f"{n} x {what}" for what, n in r.other.items()) or "0",
            f"{r.worst_s:.1f}",
        )
        for r in reads
    ]
    return "\n".join(
        [
            "# What survives faults",
            "",
            "A tiny model; each run is finished after it was disturbed, and every file that equal "
            "runs have alike is compared byte for byte with an undisturbed run's.",
            "",
            *markdown_table(("run", "times", "runs", "differing", "tracebacks"), runs),
            "",
            "Input that is damaged or hostile is read as it stands or refused with a sentence.",
            "",
            *markdown_table(
                ("input", "times", "read", "refused", "other errors", "longest, s"), inputs
            ),
            "",
            f"Seed {seed}. " + made_by("bench-faults"),
            "",
        ]
    )


if __name__ == "__main__":
    _app()
