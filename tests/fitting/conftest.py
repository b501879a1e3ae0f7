"""A corpus in the tiny models' own words, and linear lenses fitted on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lensbench.fitting.spec import FitSpec
from lensbench.studies.stages.fit import fit_lens
from tests.harness.tiny import SENTENCES, Case


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of texts: words put together by chance, some of them facts that are left out."""
    folder, chance = tmp_path_factory.mktemp("corpus"), random.Random(0)
    words = " ".join(SENTENCES).split()
    for number in range(250):
        text = " ".join(chance.choices(words, k=40))
        (folder / f"{number:03d}.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def fit_spec(corpus: Path) -> Callable[..., FitSpec]:
    """What is asked for, with changes."""
    small = {"tokens": 600, "choose_tokens": 100, "test_tokens": 500, "window": 32}
    # A second model and passes without directions, in the tests that are of them.
    small |= {"no_untrained": True, "directions": 0}
    return partial(_spec, {"corpus": str(corpus), "batch_tokens": 128} | small)


def _spec(settings: dict[str, Any], case: Case, **changes: Any) -> FitSpec:
    return FitSpec(str(case.folder), **(settings | changes))


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
