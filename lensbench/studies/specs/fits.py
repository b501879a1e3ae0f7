"""Lenses that a study fits before it reads with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from lensbench.errors import InputProblems, Problem
from lensbench.fitting.spec import FitSpec
from lensbench.lens.fitted.place import METHODS
from lensbench.spec import HIDDEN

# By the lens' name, options of `lensbench fit`.
Fits = Annotated[dict[str, dict[str, Any]], Field(exclude=True), HIDDEN]


def fit_spec(
    fits: Mapping[str, Mapping[str, Any]],
    method: str,
    model: str,
    dtype: str | None,
    device: str | None,
) -> FitSpec:
    """How one of the lenses is fitted to a model. Raises InputProblems."""
    own = {"model": model, "method": method, "dtype": dtype, "device": device}
    return FitSpec(**own | dict(fits.get(method, {})))


def fit_problems(fits: Mapping[str, Mapping[str, Any]], lenses: Sequence[str]) -> list[Problem]:
    """What is wrong with the options, and fits of lenses that are not read."""
    remedy = f"Choose from the lenses of this run: {', '.join(lenses)}."
    others = [one for one in fits if one not in METHODS or one not in lenses]
    found = [Problem(f"fit.{one}", "no lens to fit is called so", remedy) for one in others]
    for method in fits:
        try:
            fit_spec(fits, method, "", None, None)
        except InputProblems as error:
            found += [replace(p, where=f"fit.{method}.{p.where}") for p in error.problems]
    return found
