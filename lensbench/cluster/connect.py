"""Ray: started on this machine or joined by its address, quietly, and stopped again."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lensbench.errors import LensbenchError, first_line, packages_of

_ANSWER_S = 5.0  # within which an address answers
_STORE_BYTES = 256 << 20  # for what is on its way: small things, where workers see the run folder
_PREFIX = "lensbench-ray-"
# What Ray would do unasked: report its use, change what the driver sees of devices, warn of both.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_enable_metrics_collection": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what it prints of dead workers, we say in our words
}


class ClusterError(LensbenchError):
    """Workers cannot be started, joined or kept alive."""


@contextmanager
def ray_at(address: str | None) -> Iterator[Any]:
    """The module `ray`, connected: to a cluster, or to one of its own that ends with the block.

    One that this process is connected to already is used as it is.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: nothing answers at the address, or a cluster of another Ray or Python does.
    """
    if address not in (None, "auto"):
        _require_answer(str(address))
    with _environment(_QUIET), packages_of("ray", "ray", "msgpack"):
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
    except (RuntimeError, ConnectionError, OSError, ValueError, TimeoutError) as error:
        where = "here" if address is None else f"at {address}"
        raise ClusterError(
            f"Ray cannot be used {where}: {_words(error)}. With --ray, this machine must be part "
            "of the cluster, with the same Python and Ray: ray start --address=HOST:PORT"
        ) from error


def _words(error: BaseException) -> str:
    """What Ray says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4]).rstrip(".") or first_line(error)


def _require_answer(address: str) -> None:
    """Raise ClusterError, within seconds, where nobody listens: Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            pass
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"Nothing answers at {address} within {_ANSWER_S:g} s ({error}). Start a cluster there "
            f"(ray start --head --port={port}), or give the address of one that runs."
        ) from error


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
