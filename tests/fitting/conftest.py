"""A corpus in the tiny models' own words, and linear lenses fitted on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lensbench.fitting.spec import FitSpec
from lensbench.studies.stages.fit import fit_lens
from tests.harness.fits import small_fit, write_corpus
from tests.harness.tiny import Case


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def fit_spec(corpus: Path) -> Callable[..., FitSpec]:
    """What is asked for, with changes."""
    return partial(small_fit, corpus)


@pytest.fixture(scope="session")
def linear(
    fit_spec: Callable[..., FitSpec], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Case], Path]:
    """The folder of a family's linear lens, fitted once a session."""
    there: dict[str, Path] = {}

    def get(case: Case) -> Path:
        if case.name not in there:
            out = tmp_path_factory.mktemp("lenses") / "linear"
            assert fit_lens(fit_spec(case), out).ok
            there[case.name] = out
        return there[case.name]

    return get
