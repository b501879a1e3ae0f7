"""Ray: started on this machine or joined by its address, quietly, and stopped again."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from lensbench.cluster.address import unanswered
from lensbench.errors import LensbenchError, MissingExtraError, first_line, packages_of

_CLUSTER_S = 20  # within which a cluster says at it that it is one
_STORE_BYTES = 256 << 20  # for what is on its way: small things, where workers see the run folder
_PREFIX = "lensbench-ray-"
# What Ray would do unasked: report its use, change what the driver sees of devices, warn of both,
# and let workers go behind everything else that runs on the machine, where they hardly ever start.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_worker_niceness": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what it prints of dead workers, we say in our words
}


# Ray itself waits for more than a minute, and in one process cannot be told to stop.
_ASK = """
import signal, sys
from ray._raylet import GcsClient
from ray.exceptions import RayError
signal.alarm({within_s})
try:
    GcsClient(address={address!r})
except (RayError, RuntimeError, OSError, ValueError) as error:
    sys.exit(f"{{error}}")
"""
_REFUSED = (RuntimeError, OSError, ValueError)  # what Ray raises where it cannot start or join

_log = logging.getLogger(__name__)

Entered = TypeVar("Entered")


class ClusterError(LensbenchError):
    """Workers cannot be started, joined or kept alive."""


def require_ray(address: str | None) -> None:
    """What can be seen within seconds, before anything is started.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: nothing answers at the address, or what does is no cluster, or turns us away.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray")
    there = _last_started() if address == "auto" else address
    if there is not None:
        _require_answer(there)
        _require_cluster(there)


def _last_started() -> str | None:
    """What `auto` stands for, as Ray decides it: a variable, else the last cluster started here.

    That one may be gone for long, and Ray would wait for it for minutes.
    """
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    noted = Path(temporary) / "ray" / "ray_current_cluster"
    named = os.environ.get("RAY_ADDRESS") or (noted.read_text() if noted.is_file() else "")
    return named.strip() or None


@contextmanager
def meanwhile(block: AbstractContextManager[Entered]) -> Iterator[Callable[[], Future[Entered]]]:
    """Enter a block in another thread: Ray takes seconds to start, and others can be used.

    What is given begins that when it is first called; its result waits, and raises what entering
    raised. The block is left here, if it was entered.
    """
    begun: list[Future[Entered]] = []
    with ThreadPoolExecutor(1) as pool:

        def begin() -> Future[Entered]:
            if not begun:
                begun.append(pool.submit(block.__enter__))
            return begun[0]

        try:
            yield begin
        finally:
            if begun and not begun[0].done():  # it takes seconds to be started, and cannot be told
                _log.info("waiting for workers that were not needed, to end them")
            if begun and begun[0].exception() is None:
                block.__exit__(None, None, None)


@contextmanager
def ray_at(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected: to a cluster, or to one of its own that ends with the block.

    One that this process is connected to already is used as it is.

    Raises:
        MissingExtraError: a package that Ray needs is not installed.
        ClusterError: no cluster can be started, or joined: it is of another Ray or Python.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # of signals, which are none of its business
    with _environment(_QUIET | _token(own=address is None)), packages_of("ray", "ray", "msgpack"):
        import ray

        if ray.is_initialized():
            yield ray
            return
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp") if address is None else None
        try:
            _connect(ray, address, folder)
            yield ray
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _connect(ray: Any, address: str | None, folder: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    own = {
        "address": "local",
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_temp_dir": folder,
    }
    try:
        ray.init(**quiet, **(own if address is None else {"address": address}))
    except Exception as error:  # a start that takes too long has no kind of its own in Ray
        if type(error) is not Exception and not isinstance(error, _REFUSED):
            raise
        raise _unusable(address, _words(error)) from error


def _token(own: bool) -> dict[str, str]:
    """What lets this process talk to a cluster, as `ray start` on this machine decides it.

    Where a token lies, clusters ask for it; Ray does not hand it on to one that is named by its
    address. Where there is none, a cluster of our `own` gets one that is written nowhere: in the
    home folder, as Ray would keep it, it would change what other clusters ask for. A process that
    has imported Ray before has read what it needs of all that, and keeps to it.
    """
    if _read_before():
        return {}
    file = os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or Path(file).is_file():
        return {"RAY_AUTH_MODE": "token"}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _made_token()} if own else {}


@cache
def _read_before() -> bool:
    """Somebody imported Ray before this process first asked for it here."""
    return "ray" in sys.modules


@cache
def _made_token() -> str:
    """One for the whole process, for Ray reads it once."""
    return secrets.token_hex(32)


def _words(error: BaseException) -> str:
    """What Ray says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4]).rstrip(".") or first_line(error)


def _require_answer(address: str) -> None:
    """Raise ClusterError, within seconds, where nobody listens: Ray would wait for minutes."""
    if why := unanswered(address):
        port = address.rpartition(":")[2]
        raise ClusterError(
            f"Nothing {why}. Start a cluster there (ray start --head --port={port}), or give --ray "
            "HOST:PORT of one that runs."
        )


def _require_cluster(address: str) -> None:
    """Raise ClusterError, within half a minute, where what listens is no cluster that takes us.

    A process of its own asks, which ends itself when its time is over.
    """
    code = _ASK.format(within_s=_CLUSTER_S, address=address)
    with _environment(_QUIET | _token(own=False)):
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if asked.returncode == -signal.SIGALRM:
        raise ClusterError(
            f"What listens at {address} is no Ray cluster, or one that is too busy: it said "
            f"nothing of its own within {_CLUSTER_S} s. Give the address that `ray start --head` "
            "printed."
        )
    if asked.returncode != 0:
        said = asked.stderr.strip().splitlines()[-1]
        raise _unusable(address, said.split(". ")[0])  # then comes what we say ourselves


def _unusable(address: str | None, why: str) -> ClusterError:
    """A cluster that turns this process away, or that it cannot have."""
    if address is None:
        return ClusterError(
            f"Ray cannot be started here: {why}. Run the same command again, on a less busy "
            "machine or without --workers: what was measured is kept."
        )
    return ClusterError(
        f"Ray cannot be used at {address}: {why}. This machine must be part of the cluster "
        "(ray start --address=HOST:PORT), with the same Python, Ray and RAY_AUTH_MODE, and the "
        "same token."
    )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for what is started inside; those that are set already stay as they are."""
    added = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def forget(ray: Any, actor: Any) -> None:
    """End an actor at once, if it is still there."""
    with suppress(ValueError, *_gone(ray)):
        ray.kill(actor, no_restart=True)


def _gone(ray: Any) -> tuple[type[Exception], ...]:
    return (ray.exceptions.RayActorError, ray.exceptions.RaySystemError)
