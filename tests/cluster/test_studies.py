"""Every kind of run by two workers: the tables of one process, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lensbench.cluster.workers import workers
from lensbench.records.engine import done_by, one_by_one
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import manifest, table_bytes, write_csv
from tests.harness.tiny import Case

pytestmark = pytest.mark.slow
pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def two() -> Iterator[None]:
    """Two workers for all runs of this file."""
    with workers(2):
        yield


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("prompts") / "small.csv", facts_rows())


def compared(make: Callable[[Path], Path], folder: Path) -> Path:
    """The record that `make` gives, by one process and by two workers: they are the same."""
    with done_by(one_by_one):
        one = make(folder / "one")
    two = make(folder / "two")
    assert table_bytes(two) == table_bytes(one)
    assert manifest(two)["gate"] == manifest(one)["gate"]
    assert manifest(two)["machine"]["threads"] == torch.get_num_threads()
    return two


def test_a_lens_run(llama: Case, facts: Path, tmp_path: Path) -> None:
    spec = RunSpec(models=(str(llama.folder),), prompts=str(facts), batch_tokens=1, limit=None)
    compared(lambda out: run(spec, out).folder, tmp_path)
