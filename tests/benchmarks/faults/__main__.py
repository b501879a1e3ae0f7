"""`python -m tests.benchmarks.faults`: what survives kills, full disks, crowds and bad input."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console

from lensbench.files import write_text
from tests.benchmarks.faults.disturb import Disturber, Tally
from tests.benchmarks.faults.input import MOST_BYTES, MOST_S, Read, damaged, fuzzed, strangers
from tests.benchmarks.faults.place import may_mount
from tests.benchmarks.faults.work import retrieval_works, works
from tests.benchmarks.table import Out, at_least, made_by, markdown_table
from tests.harness.clock import jumping_clock
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
    """Disturb every kind of run of a tiny model, and read what is damaged and hostile."""
    logging.getLogger("lensbench").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        room = Path(name)
        room.chmod(0o755)  # root's PostgreSQL runs as another user
        clock = jumping_clock(room)
        forks, jumping = Forks(), Forks(clock) if clock else None
        kinds = [*works(room), *retrieval_works(room)]
        tallies, record = [], Path()
        for work in kinds:
            disturber = Disturber(work, forks, room, seed)
            for tally in _tallies(disturber, jumping, (kills, disks, damages), len(kinds)):
                _console.print(tally)
                tallies.append(tally)
            record = record if record.name else _record_in(disturber.room / "undisturbed")
        reads = [damaged(damages, record, room, seed), *fuzzed(fuzz, record, room, seed)]
        reads.append(strangers(room, forks))
        for read in reads:
            _console.print(read)
        for one in (forks, jumping):
            if one is not None:
                one.close()
    write_text(out / "faults.md", _page(tallies, reads, seed))
    _console.print(f"wrote {out / 'faults.md'}")


def _tallies(
    disturber: Disturber, jumping: Forks | None, times: tuple[int, int, int], n_kinds: int
) -> Iterator[Tally]:
    """All that is done to one kind of run, of what is done to all of them."""
    kills, disks, damages = (-(-n // n_kinds) for n in times)
    yield disturber.kills(kills)
    if may_mount():
        yield disturber.full_disks(disks)
    yield disturber.crowds((2, 8))
    yield disturber.read_only(2)
    if jumping is not None:
        yield disturber.jumping_clock(2, jumping)
    if disturber.work.name != "index build":  # PostgreSQL has checksums of its own
        yield disturber.altered(damages)


def _record_in(folder: Path) -> Path:
    return next(folder.rglob("manifest.json")).parent


def _page(tallies: list[Tally], reads: list[Read], seed: int) -> str:
    runs = [
        (t.what, *map(str, (t.times, t.refused, t.runs, t.differing, t.tracebacks)))
        for t in tallies
    ]
    inputs = [
        (
            r.what,
            str(r.times),
            str(r.read),
            str(r.refused),
            "; ".join(f"{n} x {what}" for what, n in r.other.items()) or "0",
            f"{r.worst_s:.1f}",
            f"{r.worst_bytes / 2**30:.1f}" if r.worst_bytes else "",
        )
        for r in reads
    ]
    return "\n".join(
        [
            "# What survives faults",
            "",
            "A tiny model; each run is finished after it was disturbed, and every file that equal "
            "runs have alike is compared byte for byte with an undisturbed run's. *Refused* ended "
            "with a sentence that says what is wrong. Of runs with a flipped bit, those differ "
            "whose numbers can be read without a word.",
            "",
            *markdown_table(("run", "times", "refused", "runs", "differing", "tracebacks"), runs),
            "",
            "Input that is damaged or hostile is read as it stands or refused with a sentence that "
            f"no terminal obeys; what strangers send, within {MOST_S} s and "
            f"{MOST_BYTES / 2**30:.0f} GiB of memory, half of which the libraries take.",
            "",
            *markdown_table(
                ("input", "times", "read", "refused", "other errors", "longest, s", "peak, GiB"),
                inputs,
            ),
            "",
            f"Seed {seed}. " + made_by("bench-faults"),
            "",
        ]
    )


if __name__ == "__main__":
    _app()
