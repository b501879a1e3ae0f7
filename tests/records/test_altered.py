"""A finished record with a byte altered or lost anywhere is named, never read as data."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench.errors import LensbenchError, RecordsError
from lensbench.records.open import open_record
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
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


def read_all(folder: Path) -> dict[str, object]:
    """Everything that a reader of the record is given."""
    record = open_record(folder)
    return {"manifest": record.manifest, **{name: record.arrow(name) for name in record.tables}}


def flip(data: bytearray, at: int, chance: random.Random) -> bytearray:
    data[at] ^= 1 << chance.randrange(8)
    return data


def cut(data: bytearray, at: int, chance: random.Random) -> bytearray:
    return data[:at]


@pytest.mark.parametrize("damage", [flip, cut])
def test_damage_at_a_hundred_places_is_never_data(
    damage: Callable[[bytearray, int, random.Random], bytearray], finished: Path, tmp_path: Path
) -> None:
    """What is read afterwards, if anything, is what was written: blank space may differ."""
    chance, written = random.Random(0), read_all(finished)
    files = sorted(path for path in finished.iterdir() if path.name != ".lock")
    named = 0
    for i in range(TIMES):
        copy = Path(shutil.copytree(finished, tmp_path / str(i)))
        path = copy / chance.choice(files).name
        data = bytearray(path.read_bytes())
        path.write_bytes(damage(data, chance.randrange(len(data)), chance))
        try:
            found = read_all(copy)
        except LensbenchError as error:
            named += 1
            assert isinstance(error, RecordsError)
            assert str(path) in str(error)
        else:
            assert found == written
        shutil.rmtree(copy)
    assert named >= TIMES * 0.9
