"""A finished record with a byte altered or lost anywhere is named, never read as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.errors import LensbenchError, RecordsError
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.damaged_records import Damage, cut, damaged_copies, flip, read_all
from tests.harness.facts import facts_rows
from tests.harness.files import write_csv
from tests.harness.tiny import Case

TIMES = 100


@pytest.fixture(scope="module")
def finished(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    prompts = write_csv(out / "facts.csv", facts_rows()[:6])
    spec = RunSpec(models=str(llama.folder), prompts=str(prompts), lenses=("final",))
    return run(spec, out / "run").folder


@pytest.mark.parametrize("damage", [flip, cut])
def test_damage_at_a_hundred_places_is_never_data(
    damage: Damage, finished: Path, tmp_path: Path
) -> None:
    """What is read afterwards, if anything, is what was written: blank space may differ."""
    written, named = read_all(finished), 0
    for copy, path in damaged_copies(finished, tmp_path, [damage], TIMES):
        try:
            found = read_all(copy)
        except LensbenchError as error:
            named += 1
            assert isinstance(error, RecordsError)
            assert str(path) in str(error)
        else:
            assert found == written
    assert named >= TIMES * 0.9
