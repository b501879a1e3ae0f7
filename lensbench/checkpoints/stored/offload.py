"""Weights that memory has no room for, in a folder that is there for as long as their model."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from safetensors import SafetensorError

from lensbench.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFIX, _LOCK = "lensbench-offload-", "lock"


class OffloadFolder:
    """A new folder in `parent`; what earlier processes left behind there when killed is deleted.

    Its files are deleted with the model that `keep_for` names, or at the end of the program.
    """

    def __init__(self, parent: Path) -> None:
        for left in parent.glob(f"{_PREFIX}*"):
            _sweep(left)
        lock = None
        while lock is None:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = _locked(self.path)
        self._lock = lock

    def keep_for(self, model: PreTrainedModel) -> None:
        """Delete it when nobody has the model any more."""
        weakref.finalize(model, _drop, self.path, self._lock)

    def drop(self) -> None:
        """Delete it now."""
        _drop(self.path, self._lock)


@contextmanager
def offload_folder(parent: Path) -> Iterator[OffloadFolder]:
    """A new folder in `parent`, which is deleted where what is done inside fails.

    Raises ModelError for a folder that cannot be written to, and a disk that is full.
    """
    remedy = "Free some space there, or name another folder: disk=FOLDER."
    try:
        kept = OffloadFolder(parent)
    except OSError as error:
        raise ModelError(
            f"No weights can be kept in {parent}: {error.strerror}. {remedy}"
        ) from error
    try:
        yield kept
    except BaseException as error:
        kept.drop()
        if not isinstance(error, SafetensorError):
            raise
        what = f"The weights could not be written to {parent}: {first_line(error)}"
        raise ModelError(f"{what}. {remedy}") from error


def _locked(folder: Path) -> IO[str] | None:
    """A new folder's lock, held; None where another process took the folder for one left behind.

    It may do so until the lock is held: then the lock's file is not the one that was opened.
    """
    try:
        lock = (folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        same = os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK).stat())
    except FileNotFoundError:
        return None
    return lock if same else None


def _drop(folder: Path, lock: IO[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _sweep(folder: Path) -> None:
    """Delete a folder whose process is gone: nobody holds its lock."""
    with suppress(OSError), (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def in_memory(module: Any) -> Iterator[None]:
    """All weights of a module and beneath it, to be read, also where they are kept elsewhere."""
    from accelerate.utils import align_module_device

    with ExitStack() as parts:
        for part in module.modules():
            if any(weight.is_meta for weight in part.parameters(recurse=False)):
                parts.enter_context(align_module_device(part))
        yield


def keep_small(model: PreTrainedModel) -> None:
    """Norms stay in memory: they are small, and read by themselves."""
    from accelerate.utils import has_offloaded_params

    for module in model.modules():
        weights = [*module.parameters(recurse=False)]
        if has_offloaded_params(module) and all(weight.ndim < 2 for weight in weights):
            hook: Any = module._hf_hook
            hook.pre_forward(module)
            hook.offload = False


def is_offloaded(model: Any) -> bool:
    """Whether weights of a model are kept elsewhere than they are computed with."""
    return any(weight.is_meta for weight in model.parameters())
