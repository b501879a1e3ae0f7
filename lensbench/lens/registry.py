"""The lenses there are, by name. No torch here: command lines and specs list them.

To add one: a subclass of `Lens` in a file of its own, and a line here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensbench.errors import InputProblems, Problem
from lensbench.lens.base import Final, Lens, Next, Raw

if TYPE_CHECKING:
    from lensbench.models.model import LensModel

LENSES: dict[str, type[Lens]] = {"final": Final, "next": Next, "raw": Raw}


def make_lens(name: str, model: LensModel) -> Lens:
    """The lens of a name for a model.

    Raises InputProblems for a name that is not known; ModelError where the model lacks its needs.
    """
    if name not in LENSES:
        remedy = f"Choose from {', '.join(LENSES)}."
        raise InputProblems([Problem("lens", f"there is no {name!r}", remedy)])
    return LENSES[name](model)
