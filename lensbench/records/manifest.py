"""The manifest: how a record was made, enough to make it again, and what that took. No torch."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
import os
import platform
import resource
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from lensbench.checkout import git_state
from lensbench.context import holding
from lensbench.errors import RecordsError
from lensbench.records.parts import Parts
from lensbench.records.schema import SCHEMA_VERSION
from lensbench.threads import n_threads
from lensbench.version import __version__

_log = logging.getLogger(__name__)

# Packages that decide numbers: of every record, of one that a model was run for, and of one whose
# model has bits or an adapter.
_NUMBERS = ("numpy", "scipy", "pyarrow")
_MODELS = ("torch", "transformers", "transformer-lens", "tokenizers", "safetensors")
_QUANTIZED = ("bitsandbytes", "peft")
_TRAINED = ("peft", "accelerate", "scikit-learn")  # of texts that are classified
_WITHOUT_MODEL = ("correlation", "import")

Plans = Mapping[Path, Mapping[str, Any]]  # by a record's folder
_plans: ContextVar[Plans] = ContextVar("plans", default={})  # noqa: B039 (nobody changes it)


def new_manifest(
    model: dict[str, Any], settings: dict[str, Any], kind: str = "lens"
) -> dict[str, Any]:
    """A manifest at the start of a run; `status` is "running" until every table is written.

    `model` and `settings` decide the numbers: a folder can only be resumed with equal ones.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "status": "running",
        "lensbench_version": __version__,
        "versions": versions(kind, quantized="bits" in model),
        "git": _checkout(),
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "model": model,
        "settings": settings,
        "gate": [],
        "problems": 0,
        "wall_s": 0.0,
        "peak_memory_bytes": None,
    }


def versions(kind: str = "lens", quantized: bool = False) -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers of such a record."""
    for_models = (*_MODELS, *(_QUANTIZED if quantized else ()))
    for_models += _TRAINED if kind == "classification" else ()
    for_models = () if kind in _WITHOUT_MODEL else for_models
    found = {package: _version(package) for package in (*_NUMBERS, *for_models)}
    known = {package: version for package, version in found.items() if version is not None}
    return {"python": platform.python_version()} | known


def require_same_versions(folder: Path, there: Mapping[str, Any]) -> None:
    """Raise RecordsError where an unfinished record was begun with other versions than are here.

    Its manifest can say but one of them. (A finished one that is widened keeps what it says.)
    """
    unlike = {} if there["status"] == "complete" else _other_versions(there)
    if unlike:
        lines = "\n".join(f"  - {name}: {a} there, {b} now" for name, (a, b) in unlike.items())
        raise RecordsError(
            f"{folder} was begun with other versions, whose numbers would be mixed:\n{lines}\n"
            f"Install what it was begun with, or delete {folder} and run the same command again."
        )


def say_other_code(folder: Path, there: Mapping[str, Any]) -> None:
    """Warn that an unfinished record was begun by other code of this version: a checkout's."""
    code = None if there["status"] == "complete" else _other_code(there)
    if code is not None:
        then, now = (sha256[:12] for sha256 in code)
        _log.warning(
            "%s was begun by other code of lensbench (%s) and goes on with this (%s): where the "
            "two give other numbers, it holds both",
            folder,
            then,
            now,
        )


def _other_versions(manifest: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Of lensbench and the packages that a record was begun with those that are others now."""
    then = {"lensbench": manifest["lensbench_version"], **manifest["versions"]}
    own = {"lensbench": __version__, "python": platform.python_version()}
    now = {name: own[name] if name in own else _version(name) for name in then}
    return {name: (then[name], now[name]) for name in then if then[name] != now[name]}


def _other_code(manifest: Mapping[str, Any]) -> tuple[str, str] | None:
    """The hashes of the code that a record was begun by and of this, where they are two."""
    then, now = ((git or {}).get("code_sha256") for git in (manifest.get("git"), _checkout()))
    return (then, now) if then and now and then != now else None


@cache
def _version(package: str) -> str | None:
    """The installed version; what is imported stays what it is while a process lives."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _checkout() -> dict[str, str | None] | None:
    """Commit and hash of the code as this process found it: later edits are not what runs."""
    return git_state(Path(__file__).resolve().parents[2])


def machine() -> dict[str, Any]:
    """The machine, for anyone who compares times; and threads, which decide last digits."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": n_threads(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "os": f"{platform.system()} {platform.release()}",
    }


def _cpu_name() -> str:
    """The processor's name, from /proc; elsewhere its kind, which takes no other program."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine() or "unknown"


def peak_memory_bytes() -> int:
    """The program's peak resident memory; macOS counts it in bytes, others in kibibytes.

    On Linux by the mark of its own memory: what `getrusage` tells begins with the memory of the
    process that started it.
    """
    marks = Path("/proc/self/status")
    if marks.exists():
        (line,) = (x for x in marks.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def as_planned(plans: Plans) -> AbstractContextManager[Plans]:
    """Records that are begun inside say in their manifests what they were planned to take.

    That decides no number: a record goes on whatever was planned of it.
    """
    return holding(_plans, plans)


def plan_of(folder: Path) -> dict[str, Any]:
    """What was planned of the record there; nothing where it was not."""
    return dict(_plans.get().get(folder.resolve(), {}))


def done_before(parts: Parts, wall_s: float) -> dict[str, Any]:
    """What there is already of a record that is planned now: its plan is of the rest."""
    return {"wall_s": round(wall_s, 1), "n_tokens": _n_tokens(parts)}


def taken(
    planned: Mapping[str, Any], parts: Parts, wall_s: float, files: Iterable[Path], peak_bytes: int
) -> dict[str, Any]:
    """What is planned, as it was: without what there was before.

    `peak_bytes`: of the process before the record; what did not raise it has no known peak.
    """
    before = planned.get("before", {"wall_s": 0.0, "n_tokens": 0})
    # What is made without jobs, as a training, notes no tokens anywhere.
    read, there = _n_tokens(parts) if parts.notes else None, before["n_tokens"]
    peak = peak_memory_bytes()
    return {
        "wall_s": round(wall_s - before["wall_s"], 1),
        "n_tokens": None if read is None or there is None else read - there,
        "disk_bytes": sum(path.stat().st_size for path in files),
        "memory_bytes": peak if peak > peak_bytes else None,
    }


def _n_tokens(parts: Parts) -> int | None:
    """Of the jobs that are done; None unless each notes its own."""
    counts = [note.get("n_tokens") for note in parts.notes]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
