"""Libraries are loaded, which takes seconds: that is said before, and takes no longer than it must.

Verbs import their libraries when they are called, each at another place; what all of them pass is
Python's own search for a module.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

LARGE = frozenset(
    {"torch", "transformers", "transformer_lens", "pandas", "pyarrow", "matplotlib", "plotly"}
)


class _Announced(MetaPathFinder):
    """Finds the modules of `LARGE` where Python does; calls `say` when the first is looked for."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = say
        self._said = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in LARGE:
            return None
        if not self._said:
            self._said = True
            self._say()
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _keep_all(spec.loader)
        return spec


def _keep_all(loader: Any) -> None:
    """Let it execute its module without looking for garbage.

    There is next to none in what a library is made of, and looking for it takes a sixth of the
    time.
    """
    execute = loader.exec_module

    def executed(module: ModuleType) -> None:
        was_looked_for = gc.isenabled()
        gc.disable()
        try:
            execute(module)
        finally:
            if was_looked_for:
                gc.enable()

    loader.exec_module = executed


def announce(say: Callable[[], None]) -> None:
    """Let `say` be called once, before the first large library is imported from now on."""
    there = [type(finder) for finder in sys.meta_path]
    if not LARGE & sys.modules.keys() and _Announced not in there:
        sys.meta_path.insert(0, _Announced(say))
