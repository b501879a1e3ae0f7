"""The engine: a record is the same whoever does its jobs, whatever stops it, however it grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench.errors import Problem, RecordsError
from lensbench.progress import Progress
from lensbench.records.engine import Executor, Job, Work, make, one_by_one
from lensbench.records.parts import Part, Parts
from lensbench.records.read import MANIFEST, sealed
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.schema import KINDS
from lensbench.records.schema.adapters import PLACEMENT
from lensbench.records.schema.declare import Entry
from lensbench.records.store import RecordStore
from lensbench.version import __version__
from tests.harness.executors import EXECUTORS, backwards
from tests.harness.files import UNEQUAL, contents, manifest

MODEL = {"name": "toy", "weights_sha256": "0" * 64}


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's manifest has an entry of its own."""
    longest = Entry("longest", "letters of the longest word")
    monkeypatch.setitem(KINDS, "placement", replace(KINDS["placement"], entries=(longest,)))


def rows_of(words: Sequence[str]) -> pa.Table:
    same = {"model": "toy", "placement": "base", "blocks": [], "reference_nll_bits": 1.0}
    rows = [same | {"prompt_id": w, "n_reference_tokens": len(w)} for w in words]
    return pa.Table.from_pylist(rows, schema=PLACEMENT.schema)


def measure(context: str, job: Job[list[str]]) -> Part:
    """A word that begins with "bad" cannot be measured."""
    good = [word for word in job.item if not word.startswith("bad")]
    bad = [
        Problem(context, f"{word} is bad", "Mend it.", word)
        for word in job.item
        if word not in good
    ]
    files = {f"residuals/{job.number:06d}.safetensors": " ".join(good).encode()}
    return Part(
        {"placement": rows_of(good)}, bad, {"longest": max(map(len, good), default=0)}, files
    )


@dataclass
class Toy:
    """A record of words, two a job; `limit` of them are measured."""

    folder: Path
    words: Sequence[str]
    limit: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    do: Callable[[str, Job[list[str]]], Part] = measure
    prepared: int = 0

    def make(self, execute: Executor = one_by_one, **how: Any) -> list[Problem]:
        chosen = self.words[: self.limit]
        settings = {"limit": self.limit, "n_prompts": len(chosen)} | self.settings
        store = RecordStore(self.folder, "toy", "placement")
        request = Request(store, settings, MODEL, grows=("limit", "n_prompts"))
        return make(request, self.prepare, execute=execute, **how)

    def prepare(self, record: Recording) -> Work[str, list[str]]:
        self.prepared += 1
        record.begin(MODEL)
        ends = [0, *(width["n_prompts"] for width in record.widths)]
        stages = [self.words[a:b] for a, b in pairwise(ends)]
        pairs = [[list(stage[i : i + 2]) for i in range(0, len(stage), 2)] for stage in stages]

        def finish(parts: Parts) -> Finished:
            longest = max([note["longest"] for note in parts.notes], default=0)
            return Finished(parts.problems, facts={"longest": longest})

        return Work("set", self.do, pairs, finish, unit="words", size=len)


WORDS = ["a", "bb", "ccc", "bad1", "dddd", "e", "ff", "bad2", "ggg", "h", "i"]
GOOD = [word for word in WORDS if not word.startswith("bad")]


def words_in(folder: Path) -> list[str]:
    return pq.read_table(folder / "placement.parquet")["prompt_id"].to_pylist()


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    Toy(tmp_path / "undisturbed", WORDS).make()
    return contents(tmp_path / "undisturbed", UNEQUAL)


class Stop(Exception):
    """Something stops a run."""


def stopping_at(number: int) -> Callable[[str, Job[list[str]]], Part]:
    def do(context: str, job: Job[list[str]]) -> Part:
        if job.number == number:
            raise Stop
        return measure(context, job)

    return do


# --- one record ---------------------------------------------------------------------------------


def test_a_record_has_the_rows_in_job_order_and_what_was_skipped(tmp_path: Path) -> None:
    problems = Toy(tmp_path, WORDS).make()
    assert words_in(tmp_path) == GOOD
    assert [problem.prompt_id for problem in problems] == ["bad1", "bad2"]
    made = manifest(tmp_path)
    assert (made["status"], made["problems"], made["longest"]) == ("complete", 2, 4)
    assert (made["resumed_batches"], made["files"]) == (0, [])
    assert made["wall_s"] >= 0
    assert made["peak_memory_bytes"] > 1e6
    assert not (tmp_path / "parts").exists()


def test_a_finished_record_is_left_alone_and_nothing_is_prepared(tmp_path: Path) -> None:
    first = Toy(tmp_path, WORDS).make()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    again = Toy(tmp_path, WORDS)
    assert again.make() == first
    assert again.prepared == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    assert after == before


def test_a_run_killed_before_it_cleared_its_parts_away_leaves_none_to_the_next(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Parts, "drop", stop)
        Toy(tmp_path / "r", WORDS).make()
    assert (manifest(tmp_path / "r")["status"], Parts(tmp_path / "r").numbers != []) == (
        "complete",
        True,
    )
    again = Toy(tmp_path / "r", WORDS)
    again.make()
    assert again.prepared == 0
    assert contents(tmp_path / "r", UNEQUAL) == undisturbed


def test_other_settings_are_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    Toy(tmp_path, WORDS).make()
    other = Toy(tmp_path, WORDS, settings={"style": "x"})
    with pytest.raises(RecordsError, match=r"settings\.style: None there, 'x' now"):
        other.make()
    assert other.prepared == 0


def test_every_stage_and_what_it_counts_is_told(tmp_path: Path) -> None:
    told: list[Progress] = []
    Toy(tmp_path, WORDS).make(watch=told.append)
    assert {(now.stage, now.unit, now.total) for now in told} == {("toy", "words", 11)}
    assert [now.done for now in told] == [0, 2, 4, 6, 8, 10, 11]


@pytest.mark.parametrize("number", range(6))
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], number: int
) -> None:
    with pytest.raises(Stop):
        Toy(tmp_path / "r", WORDS, do=stopping_at(number)).make()
    assert Parts(tmp_path / "r").numbers == list(range(number))
    told: list[Progress] = []
    Toy(tmp_path / "r", WORDS).make(watch=told.append)
    assert told[0].done == 2 * number
    assert manifest(tmp_path / "r")["resumed_batches"] == number
    assert contents(tmp_path / "r", UNEQUAL) == undisturbed


def test_parts_of_other_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        Toy(tmp_path, WORDS, do=stopping_at(1)).make()
    Parts(tmp_path).write(77, Part({"placement": rows_of(["x"])}))
    with pytest.raises(RecordsError, match="parts of other jobs"):
        Toy(tmp_path, WORDS).make()


# --- who does the jobs --------------------------------------------------------------------------


@pytest.mark.parametrize("execute", EXECUTORS)
def test_the_record_is_the_same_whoever_does_the_jobs(
    tmp_path: Path, undisturbed: dict[str, bytes], execute: Executor
) -> None:
    Toy(tmp_path / "r", WORDS).make(execute)
    assert contents(tmp_path / "r", UNEQUAL) == undisturbed


def test_what_others_had_done_when_they_were_stopped_is_kept(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    with pytest.raises(Stop):
        Toy(tmp_path / "r", WORDS, do=stopping_at(3)).make(backwards)
    assert Parts(tmp_path / "r").numbers == [4, 5]
    Toy(tmp_path / "r", WORDS).make()
    assert contents(tmp_path / "r", UNEQUAL) == undisturbed


def told(folder: Path, **changes: Any) -> None:
    """Write other entries into a record's manifest, as another program would have."""
    there = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(sealed(there | changes)))


@pytest.mark.parametrize("name", ["lensbench", "python", "numpy", "torch"])
@pytest.mark.parametrize("limit", [None, 8])
def test_what_other_versions_began_is_not_gone_on_with(
    tmp_path: Path, name: str, limit: int | None
) -> None:
    """Nor where it is widened besides: numbers of two versions would be in one record."""
    with pytest.raises(Stop):
        Toy(tmp_path, WORDS, limit and 5, do=stopping_at(1)).make()
    versions = manifest(tmp_path)["versions"]
    if name == "lensbench":
        told(tmp_path, lensbench_version="0.0.1")
    else:
        told(tmp_path, versions=versions | {name: "0.0.1"})
    again = Toy(tmp_path, WORDS, limit)
    with pytest.raises(RecordsError, match="begun with other versions") as caught:
        again.make()
    assert f"  - {name}: 0.0.1 there" in str(caught.value)
    assert not again.prepared
    assert Parts(tmp_path).numbers == [0]  # kept for who installs them


def test_a_finished_record_of_other_versions_is_left_alone_and_widened(tmp_path: Path) -> None:
    Toy(tmp_path, WORDS, 5).make()
    told(tmp_path, lensbench_version="0.0.1")
    Toy(tmp_path, WORDS, 5).make()
    Toy(tmp_path, WORDS, 8).make()
    made = manifest(tmp_path)
    assert [one["lensbench_version"] for one in made["widened"]] == ["0.0.1"]
    assert made["lensbench_version"] == __version__


def test_other_code_of_the_same_version_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stop):
        Toy(tmp_path, WORDS, do=stopping_at(1)).make()
    Toy(tmp_path, WORDS, do=stopping_at(9)).make()
    assert "other code" not in caplog.text
    Toy(tmp_path / "two", WORDS, 5).make()
    with pytest.raises(Stop):
        Toy(tmp_path / "two", WORDS, 9, do=stopping_at(3)).make()
    told(tmp_path / "two", git={"commit": "0" * 40, "dirty": None, "code_sha256": "1" * 64})
    Toy(tmp_path / "two", WORDS, 9).make()
    assert "was begun by other code of lensbench (111111111111)" in caplog.text


# --- wider --------------------------------------------------------------------------------------


def test_a_finished_record_is_widened_and_keeps_its_rows(tmp_path: Path) -> None:
    Toy(tmp_path, WORDS, 3).make()
    shard = (tmp_path / "residuals" / "000001.safetensors").stat().st_mtime_ns
    measured: list[int] = []

    def do(context: str, job: Job[list[str]]) -> Part:
        measured.append(job.number)
        return measure(context, job)

    problems = Toy(tmp_path, WORDS, 8, do=do).make()
    assert measured == [2, 3, 4]  # jobs 0 and 1 made the narrower record
    assert words_in(tmp_path) == [word for word in WORDS[:8] if word in GOOD]
    assert [problem.prompt_id for problem in problems] == ["bad1", "bad2"]
    assert (tmp_path / "residuals" / "000001.safetensors").stat().st_mtime_ns == shard
    made = manifest(tmp_path)
    assert (made["settings"]["limit"], made["settings"]["n_prompts"]) == (8, 8)
    (narrower,) = made["widened"]
    assert narrower["settings"] == {"limit": 3, "n_prompts": 3}
    assert narrower["status"] == "complete"
    assert {"created", "versions", "lensbench_version", "wall_s"} <= set(narrower)
    assert not (tmp_path / "parts").exists()


def test_a_record_is_widened_again_and_again_up_to_all_there_is(tmp_path: Path) -> None:
    for limit in (2, 5, 5, 9, None):
        Toy(tmp_path, WORDS, limit).make()
    assert words_in(tmp_path) == GOOD
    assert [each["settings"]["limit"] for each in manifest(tmp_path)["widened"]] == [2, 5, 9]
    again = Toy(tmp_path, WORDS)
    again.make()
    assert again.prepared == 0


def test_a_run_that_was_stopped_can_be_widened_too(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        Toy(tmp_path, WORDS, 5, do=stopping_at(1)).make()
    with pytest.raises(Stop):
        Toy(tmp_path, WORDS, 7, do=stopping_at(3)).make()
    Toy(tmp_path, WORDS, 9).make()
    assert words_in(tmp_path) == [word for word in WORDS[:9] if word in GOOD]
    history = manifest(tmp_path)["widened"]
    assert [each["settings"]["limit"] for each in history] == [5, 7]
    assert {each["status"] for each in history} == {"running"}


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_widening_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path, number: int) -> None:
    for name in ("whole", "stopped"):
        Toy(tmp_path / name, WORDS, 3).make()
    Toy(tmp_path / "whole", WORDS, 8).make()
    with pytest.raises(Stop):
        Toy(tmp_path / "stopped", WORDS, 8, do=stopping_at(number)).make()
    Toy(tmp_path / "stopped", WORDS, 8).make()
    assert contents(tmp_path / "stopped", UNEQUAL) == contents(tmp_path / "whole", UNEQUAL)


@pytest.mark.parametrize("call", range(9))
def test_a_widening_killed_at_any_file_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Each write of a file in turn is the last that a run gets to."""
    for name in ("whole", "killed"):
        Toy(tmp_path / name, WORDS, 3).make()
    Toy(tmp_path / "whole", WORDS, 6).make()
    left = [call]

    def replace(self: Path, target: Path) -> Path:
        if not left[0]:
            raise Stop
        left[0] -= 1
        return Path(rename(self, target))

    rename = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(Stop):
            Toy(tmp_path / "killed", WORDS, 6).make()
    Toy(tmp_path / "killed", WORDS, 6).make()
    assert contents(tmp_path / "killed", UNEQUAL) == contents(tmp_path / "whole", UNEQUAL)


def test_a_record_is_not_narrowed(tmp_path: Path) -> None:
    Toy(tmp_path, WORDS, 5).make()
    before = contents(tmp_path, UNEQUAL)
    with pytest.raises(RecordsError, match="can be widened, but not narrowed") as caught:
        Toy(tmp_path, WORDS, 4).make()
    assert "settings.limit: 5 there, 4 now" in str(caught.value)
    with pytest.raises(RecordsError, match="not narrowed"):
        Toy(tmp_path, WORDS, 4).make()
    assert contents(tmp_path, UNEQUAL) == before


def test_a_record_is_not_widened_with_other_settings(tmp_path: Path) -> None:
    Toy(tmp_path, WORDS, 5).make()
    with pytest.raises(RecordsError, match="other settings") as caught:
        Toy(tmp_path, WORDS, 7, {"style": "x"}).make()
    assert "settings.style" in str(caught.value)
    assert "settings.limit: 5 there, 7 now" in str(caught.value)
    assert "narrowed" not in str(caught.value)


def test_a_widening_that_lost_what_was_measured_before_says_so(tmp_path: Path) -> None:
    Toy(tmp_path, WORDS, 3).make()
    with pytest.raises(Stop):
        Toy(tmp_path, WORDS, 8, do=stopping_at(3)).make()
    (tmp_path / "parts" / "earlier.placement.parquet").unlink()
    with pytest.raises(RecordsError, match="measured before this record was widened"):
        Toy(tmp_path, WORDS, 8).make()


def test_a_widened_record_that_lost_a_table_is_made_again(tmp_path: Path) -> None:
    Toy(tmp_path, WORDS, 3).make()
    Toy(tmp_path, WORDS, 8).make()
    (tmp_path / "placement.parquet").unlink()
    Toy(tmp_path, WORDS, 8).make()
    assert words_in(tmp_path) == [word for word in WORDS[:8] if word in GOOD]
    assert "widened" not in manifest(tmp_path)
