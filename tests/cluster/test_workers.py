"""Workers on this machine: the same bytes as one process, whatever becomes of them on the way."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lensbench.cluster.connect import ClusterError, meanwhile
from lensbench.cluster.workers import workers
from lensbench.errors import GateError, InputProblems
from lensbench.records.parts import Parts
from lensbench.studies import lens
from lensbench.studies.specs.lens import RunSpec
from tests.harness.counted import count_words
from tests.harness.files import UNEQUAL, contents, write_csv
from tests.harness.tiny import Case
from tests.harness.workers import Kills, ray_processes, worker_processes, workers_alone

pytest.importorskip("ray")
WORDS = [f"word{i}" for i in range(12)] + ["bad1", "bad2"]
N_JOBS = 80  # of a run with a model


def test_a_finished_record_starts_nobody(tmp_path: Path) -> None:
    count_words(tmp_path, ["a", "b"])
    with workers(2):
        assert not count_words(tmp_path, ["a", "b"])
        assert not ray_processes()


@pytest.mark.slow
def test_two_workers_make_the_record_of_one_process(tmp_path: Path) -> None:
    """And where one job goes wrong, its error is raised as in one process; parts are kept."""
    count_words(tmp_path / "one", WORDS)
    with workers_alone(2):
        problems = count_words(tmp_path / "r", WORDS)
        assert contents(tmp_path / "r", UNEQUAL) == contents(tmp_path / "one", UNEQUAL)
        assert [problem.prompt_id for problem in problems] == ["bad1", "bad2"]
        with pytest.raises(GateError, match="wrong3 is no word"):
            count_words(tmp_path / "w", ["a", "b", "c", "wrong3"])


@pytest.mark.slow
def test_every_worker_takes_part_also_with_fewer_cores_than_workers(tmp_path: Path) -> None:
    seen: list[int] = []
    with workers_alone(4):
        count_words(tmp_path, [f"slow{i}" for i in range(40)], seen=seen)
    assert len(set(seen)) == 4
    assert os.getpid() not in seen


@pytest.mark.slow
def test_this_process_does_jobs_until_a_worker_is_ready(tmp_path: Path) -> None:
    """And none after that."""
    words = [f"slow{i}" for i in range(150)]
    count_words(tmp_path / "one", words)
    seen: list[int] = []
    with workers(1):
        count_words(tmp_path / "r", words, seen=seen)
        assert len(set(seen)) == 2
        here = [process == os.getpid() for process in seen]
        assert here == sorted(here, reverse=True)
    assert contents(tmp_path / "r", UNEQUAL) == contents(tmp_path / "one", UNEQUAL)


@pytest.mark.slow
def test_a_job_that_ends_its_workers_stops_the_run_and_the_rest_is_kept(tmp_path: Path) -> None:
    with workers_alone(1):
        with pytest.raises(ClusterError, match="5 workers have died on job 2"):
            count_words(tmp_path, ["a", "b", "fatal", "c"])
        assert Parts(tmp_path).numbers[:2] == [0, 1]
        assert not [*tmp_path.glob(".*.part")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_twenty_kills_at_random_the_bytes_are_the_same(tmp_path: Path) -> None:
    words = [f"slow{i}" for i in range(60)]
    count_words(tmp_path / "one", words)
    kills = Kills(20, len(words))
    with workers_alone(2):
        count_words(tmp_path / "r", words, watch=kills)
    assert len(kills.killed) == 20
    assert contents(tmp_path / "r", UNEQUAL) == contents(tmp_path / "one", UNEQUAL)


@pytest.fixture(scope="module")
def spec(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A lens run of many small jobs."""
    rows = [{"id": f"p{i}", "prompt": f"Number {i} and"} for i in range(N_JOBS)]
    prompts = write_csv(tmp_path_factory.mktemp("prompts") / "many.csv", rows)
    return RunSpec(models=(str(llama.folder),), prompts=str(prompts), batch_tokens=1)


@pytest.fixture(scope="module")
def serial(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Its record by one process."""
    return contents(lens.run(spec, tmp_path_factory.mktemp("serial")).folder, UNEQUAL)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 8])
def test_so_many_workers_with_a_model_make_the_record_of_one_process(
    spec: RunSpec, serial: dict[str, bytes], tmp_path: Path, n: int
) -> None:
    with workers_alone(n):
        outcome = lens.run(spec, tmp_path)
        assert len(there := worker_processes()) == n
        assert {psutil.Process(one).nice() for one in there} == {psutil.Process().nice()}
    assert contents(outcome.folder, UNEQUAL) == serial


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_twenty_kills_of_workers_with_a_model_the_bytes_are_the_same(
    spec: RunSpec, serial: dict[str, bytes], tmp_path: Path
) -> None:
    kills = Kills(20, N_JOBS)
    with workers_alone(2):
        outcome = lens.run(spec, tmp_path, kills)
    assert len(kills.killed) == 20
    assert contents(outcome.folder, UNEQUAL) == serial


def test_what_makes_no_sense_together_is_refused() -> None:
    for wrong in (
        {"shared_folder": "s3://bucket"},
        {"ray": "ray://host:10001"},
        {"ray": "host"},
        {"workers": 0},
    ):
        with pytest.raises(InputProblems), workers(**wrong):  # type: ignore[arg-type]
            pass


def test_an_address_that_does_not_answer_is_said_within_seconds() -> None:
    started = time.monotonic()
    silent = pytest.raises(ClusterError, match=r"Nothing answers at 127\.0\.0\.1:9 ")
    with silent, workers(ray="127.0.0.1:9"):
        pass
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("late", [True, False])
def test_who_waits_for_what_is_still_starting_is_told(
    late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs can be done before Ray has started, which takes seconds and is ended only then."""
    go, left = threading.Event(), []

    @contextmanager
    def starting() -> Iterator[str]:
        go.wait(10)
        yield "ready"
        left.append("ended")

    with caplog.at_level("INFO", "lensbench"), meanwhile(starting()) as begin:
        begun = begin()
        if late:
            threading.Timer(0.2, go.set).start()
        else:
            go.set()
            assert begun.result() == "ready"
    assert left == ["ended"]
    assert ("waiting for workers that were not needed" in caplog.text) is late
