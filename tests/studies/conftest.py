"""A finished run of a lens study on a tiny model, and the settings it was made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import write_csv
from tests.harness.tiny import Case


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("prompts") / "small.csv", facts_rows())


@pytest.fixture(scope="session")
def spec(llama: Case, facts: Path) -> Callable[..., RunSpec]:
    """A RunSpec on the tiny model, with changes."""

    def make(**changes: Any) -> RunSpec:
        settings = {"models": (str(llama.folder),), "prompts": str(facts), "limit": None}
        small = {"batch_tokens": 64, "heatmap_prompts": 2, "top_k": 3}
        return RunSpec(**(settings | small | changes))

    return make


@pytest.fixture(scope="session")
def done(spec: Callable[..., RunSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record folder of a finished run over all rows."""
    outcome = run(spec(), tmp_path_factory.mktemp("run"))
    assert outcome.ok
    return outcome.folders[0]
