"""Runs that are killed, starved, crowded and misled: what is left is as if nothing had been."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensbench.errors import LensbenchError
from lensbench.records.open import find_records, open_record
from lensbench.records.residuals import ResidualFiles
from tests.benchmarks.faults.place import limited_disk, readable_only, without_override, writable
from tests.benchmarks.faults.work import Work
from tests.harness.clock import jumping_files
from tests.harness.forks import Forks

_KILLS_A_RUN = 8  # then it is left to finish
_SMALLEST = 64 << 10  # bytes of a disk
TRACEBACK = 99  # how a fork ends that raised what is no error of lensbench
_REFUSED = (1, 2)


@dataclass
class Tally:
    """How often something was done to a kind of run, and what became of it."""

    what: str
    times: int = 0
    runs: int = 0
    differing: int = 0  # finished runs whose files are not those of an undisturbed one
    tracebacks: int = 0
    refused: int = 0  # with a sentence
    errors: list[str] = field(default_factory=list)


class Disturber:
    """Disturbs one kind of run, in processes of their own."""

    def __init__(self, work: Work, forks: Forks, room: Path, seed: int) -> None:
        self.work, self.forks, self.room = work, forks, room / work.name.replace(" ", "-")
        self.chance = random.Random(seed)
        self.forks.run(dict)  # it has imported everything then
        start = time.monotonic()
        ended = self._run(self._folder("undisturbed"))
        assert ended.status == 0, ended
        self.wall_s = time.monotonic() - start
        self.undisturbed = work.left(self.room / "undisturbed")

    def kills(self, times: int) -> Tally:
        """SIGKILL at moments drawn evenly from the time that an undisturbed run takes."""
        tally = Tally(f"{self.work.name}: SIGKILL")
        while tally.times < times:
            out = self._folder("killed")
            for _ in range(min(_KILLS_A_RUN, times - tally.times)):
                self._count(tally, self._killed(out))
            self._finish(tally, out)
        return tally

    def full_disks(self, times: int) -> Tally:
        """A disk of its own, from almost nothing to all that the run leaves; then a large one."""
        tally = Tally(f"{self.work.name}: disk full")
        files = [path for path in (self.room / "undisturbed").rglob("*") if path.is_file()]
        needed = sum(path.stat().st_size for path in files)
        for _ in range(times):
            out = self._folder("full")
            size = max(int(needed * self.chance.random()), _SMALLEST)
            with limited_disk(out, size) as grow:
                self._count(tally, self._run(out))
                grow()
                self._finish(tally, out)
        return tally

    def crowds(self, sizes: tuple[int, ...]) -> Tally:
        """Several processes on one folder at once: whoever is late is refused."""
        tally = Tally(f"{self.work.name}: {' and '.join(map(str, sizes))} processes at once")
        for size in sizes:
            out = self._folder("crowd")
            ended = self.forks.run(crowd, size, *self.work.call(out))
            self._count(tally, ended)
            tally.times += size - 1
            tally.tracebacks += ended.status not in (0, TRACEBACK)
            self._finish(tally, out)
        return tally

    def read_only(self, times: int) -> Tally:
        """A folder that may only be read, empty or with half a run in it; then it may be written.

        Root may write everywhere, so its runs give that right away.
        """
        tally = Tally(f"{self.work.name}: read-only folder")
        for i in range(times):
            out = self._folder("read-only")
            if i % 2:
                self._killed(out)
            before = self.work.left(out)
            with readable_only(out):
                ended = self.forks.run(without_override, *self.work.call(out))
                self._count(tally, ended)
                # It cannot have worked, unless nothing was left to do.
                tally.tracebacks += ended.status == 0 and before != self.undisturbed
            tally.differing += self.work.left(out) != before
            self._finish(tally, out)
        return tally

    def jumping_clock(self, times: int, jumping: Forks) -> Tally:
        """Killed half-way and gone on with while clock and times of files jump by years."""
        tally = Tally(f"{self.work.name}: clock that jumps by years")
        for _ in range(times):
            out = self._folder("clock")
            self._count(tally, self._killed(out, jumping))
            jumping_files(out, self.chance)
            self._traceback(tally, self._run(out, jumping))
            self._finish(tally, out)
        return tally

    def altered(self, times: int) -> Tally:
        """Half a run with one bit flipped in a file, gone on with: as it was, or refused.

        A CSV is made of the record; once that is whole it is the user's own.
        """
        tally = Tally(f"{self.work.name}: half done, one bit flipped")
        while tally.times < times:
            out = self._folder("altered")
            self._killed(out)
            files = [p for p in sorted(out.rglob("*")) if p.is_file() and p.stat().st_size]
            files = [path for path in files if path.suffix != ".csv"]
            if not files:
                continue
            flip(self.chance.choice(files), self.chance)
            ended = self._run(out)
            self._count(tally, ended)
            tally.runs += 1
            if ended.status == 0 and self.work.left(out) != self.undisturbed:
                named = refuses(out)
                tally.refused += named
                tally.differing += not named
        return tally

    def _killed(self, out: Path, forks: Forks | None = None) -> Any:
        pause_s = self.chance.random() * self.wall_s

        def moment() -> bool:
            return time.sleep(pause_s) is None

        return self._run(out, forks, kill=signal.SIGKILL, when=moment)

    def _count(self, tally: Tally, ended: Any) -> None:
        tally.times += 1
        self._traceback(tally, ended)
        tally.refused += ended.status in _REFUSED

    def _traceback(self, tally: Tally, ended: Any) -> None:
        if ended.status == TRACEBACK:
            tally.tracebacks += 1
            tally.errors.append(ended.said)

    def _finish(self, tally: Tally, out: Path) -> None:
        """Leave it alone until it is done; what is not finished then differs too."""
        ended = self._run(out)
        self._traceback(tally, ended)
        tally.runs += 1
        tally.differing += ended.status != 0 or self.work.left(out) != self.undisturbed

    def _folder(self, name: str) -> Path:
        folder = self.room / name
        if folder.exists():
            writable(folder)
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _run(self, out: Path, forks: Forks | None = None, **how: Any) -> Any:
        return (forks or self.forks).run(*self.work.call(out), **how)


def flip(path: Path, chance: random.Random) -> None:
    """One bit of a file is another."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def refuses(out: Path) -> bool:
    """Whether a reader of all that a run left is told that something was altered."""
    try:
        for folder in find_records([out]):
            record = open_record(folder)
            for name in record.tables:
                record.arrow(name)
            kept = ResidualFiles(folder).verify() if "residual_index" in record.tables else ()
            if any(wrong for _, wrong in kept):
                return True
    except LensbenchError:
        return True
    return False


def crowd(size: int, function: Callable[..., Any], *arguments: Any) -> list[int]:
    """The same call in `size` processes; the exit statuses that are neither done nor refused."""
    children = []
    for _ in range(size):
        child = os.fork()
        if child == 0:
            try:
                function(*arguments)
            except LensbenchError:
                os._exit(2)
            except BaseException:  # noqa: BLE001  counted, whatever it is
                os._exit(TRACEBACK)
            os._exit(0)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [status for status in ends if status not in (0, 2)]
