"""The first sign of life: that libraries are loaded, which takes seconds, is said before they are.

Verbs import their libraries when they are called, each at another place; what all of them pass is
Python's own search for a module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LARGE = frozenset({"torch", "transformers", "pandas", "pyarrow", "matplotlib", "plotly"})


class _Announced(MetaPathFinder):
    """Finds no module; calls `say` when the first of `LARGE` is looked for."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = say
        self._said = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in LARGE and not self._said:
            self._said = True
            self._say()
        return None


def announce(say: Callable[[], None]) -> None:
    """Let `say` be called once, before the first large library is imported from now on."""
    there = [type(finder) for finder in sys.meta_path]
    if not LARGE & sys.modules.keys() and _Announced not in there:
        sys.meta_path.insert(0, _Announced(say))
