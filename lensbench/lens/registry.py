"""The lenses there are, by name. No torch here: command lines and specs list them.

To add one: a subclass of `Lens` in a file of its own, and a line here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.lens.base import Final, Lens, Next, Raw
from lensbench.lens.fitted.place import METHODS, fitted_name, holds_no_lens, is_fitted
from lensbench.spec import nearest

if TYPE_CHECKING:
    from lensbench.models.model import LensModel

LENSES: dict[str, type[Lens]] = {"final": Final, "next": Next, "raw": Raw}


def make_lens(given: str, model: LensModel, sha256: str | None = None) -> Lens:
    """The lens of a name for a model: one of `LENSES`, or a fitted one by its name or folder.

    `sha256`: of the file that a fitted one is to be of; None: whichever is there.

    Raises InputProblems for a name that is not known; ModelError where the model lacks its needs;
    RecordsError for a fitted lens that is not there, is damaged or is of another model.
    """
    if given in LENSES:
        return LENSES[given](model)
    if problems := unknown_lenses([given]):
        raise InputProblems(problems)
    from lensbench.lens.fitted.artifact import open_lens

    opened = open_lens(given, model.base)
    if sha256 is not None and opened.kind["lens_sha256"] != sha256:
        raise RecordsError(
            f"the lens {given} is not the one that this run began with: it was fitted anew, or on "
            "this machine there is another of its name. Give its folder, seen by all machines."
        )
    return opened.for_model(model)


class Lenses:
    """The lenses of one model, each made when it is first asked for, and once."""

    def __init__(self, model: LensModel, sha256: Mapping[str, str] | None = None) -> None:
        """With the files that fitted ones are to be of, by the lens' name in records."""
        self._model, self._sha256 = model, sha256 or {}
        self._made: dict[str, Lens] = {}

    def __getitem__(self, given: str) -> Lens:
        """As `make_lens` makes it, and raising what it raises."""
        if given not in self._made:
            self._made[given] = make_lens(given, self._model, self._sha256.get(lens_name(given)))
        return self._made[given]


def lens_name(given: str) -> str:
    """What a lens is called in records."""
    return given if given in LENSES else fitted_name(given)


def claiming(given: Sequence[str]) -> tuple[str, ...]:
    """Those of several lenses that may stand in a headline; the first where none may."""
    able = [one for one in given if one not in LENSES or LENSES[one].headline]
    return tuple(able or given[:1])


def unknown_lenses(given: Iterable[str]) -> list[Problem]:
    """What can be no lens, and two that would go by one name."""
    given = list(given)
    return [_unknown(one) for one in given if not _is_known(one)] or named_twice(given)


def known(given: str) -> str:
    """For a spec: the name, if it can be a lens. Raises ValueError with what to do."""
    if not _is_known(given):
        if why := holds_no_lens(given):
            raise ValueError(f"{why.capitalize()}.")
        raise ValueError(f"{nearest(given, _names()).rstrip('.')}, or give a lens' folder.")
    return given


def named_twice(given: Sequence[str], where: str = "lens") -> list[Problem]:
    """Lenses that would go by one name in a record; `where` they were named."""
    names = [lens_name(one) for one in given]
    return [
        Problem(where, f"two lenses are called {name!r}", "Rename the folder of one of them.")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


def _is_known(given: object) -> bool:
    return given in LENSES or is_fitted(str(given))


def _unknown(given: object) -> Problem:
    remedy = f"Choose from {', '.join(_names())}, or give a lens' folder."
    return Problem("lens", holds_no_lens(str(given)) or f"there is no {given!r}", remedy)


def _names() -> list[str]:
    return [*LENSES, *METHODS]
