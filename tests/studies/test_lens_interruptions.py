"""A lens study interrupted at any moment gives the bytes of an undisturbed one."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lensbench.errors import RecordsError
from lensbench.records.engine import Outcome
from lensbench.records.schema import KINDS
from lensbench.studies.analysis import read_analysis
from lensbench.studies.lens import run
from tests.harness.facts import N_ROWS
from tests.harness.files import manifest, table_bytes, tables
from tests.harness.forks import ONE_THREAD, Ended, Forks, interruptions, parts_done, wait_until
from tests.harness.tiny import Case

TABLE_FILES = [f"{name}.parquet" for name in KINDS["lens"].names]


@pytest.fixture(scope="module")
def small_analysis(llama: Case, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One prompt a batch, so that there are many moments to be interrupted at."""
    content = f"""
        models = ["{llama.folder}"]
        prompts = "{facts}"
        limit = 0
        batch_tokens = 1
        heatmap_prompts = 2
    """
    folder = tmp_path_factory.mktemp("001_interrupted")
    (folder / "analysis.toml").write_text(content)
    return folder


N_PARTS = N_ROWS + 2


@pytest.fixture(scope="module")
def lens(small_analysis: Path, forks: Forks) -> Callable[..., Ended]:
    """A run of the analysis into this folder."""
    return partial(forks.run, run, read_analysis(small_analysis))


@pytest.fixture(scope="module")
def undisturbed(lens: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert lens(out).status == 0
    return record_in(out)


def record_in(out: Path) -> Path:
    (path,) = out.glob("*/manifest.json")
    return path.parent


def n_done(out: Path) -> float:
    """Parts on disk, once there is a record."""
    return sum(parts_done(path.parent) for path in out.glob("*/manifest.json"))


def has_parts(out: Path, number: int) -> Callable[[], bool]:
    return lambda: n_done(out) >= number


def has_file(out: Path, name: str) -> Callable[[], bool]:
    return lambda: bool(list(out.glob(f"*/{name}"))) or n_done(out) == math.inf


def test_the_undisturbed_run_has_many_parts(undisturbed: Path) -> None:
    assert sorted(table_bytes(undisturbed)) == sorted(TABLE_FILES)
    assert manifest(undisturbed)["resumed_batches"] == 0
    lens = tables(undisturbed)["lens"]
    assert lens.groupby(["prompt_id", "is_last"]).ngroups == N_PARTS


def test_a_run_interrupted_again_and_again_gives_the_same_bytes(
    lens: Callable[..., Ended], undisturbed: Path, tmp_path: Path
) -> None:
    kills = {1: signal.SIGKILL, 9: signal.SIGTERM, 17: signal.SIGINT}
    for parts, kill in kills.items():
        ended = lens(tmp_path, kill=kill, when=has_parts(tmp_path, parts))
        assert ended.status == (130 if kill == signal.SIGINT else -kill)
        assert manifest(record_in(tmp_path))["status"] == "running"
    there = n_done(tmp_path)
    assert lens(tmp_path).status == 0
    assert manifest(record_in(tmp_path))["resumed_batches"] == there >= 17
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


@pytest.mark.slow
def test_a_run_killed_while_its_tables_are_written_gives_the_same_bytes(
    lens: Callable[..., Ended], undisturbed: Path, tmp_path: Path
) -> None:
    for name in (".lens.parquet.*.part", *TABLE_FILES):
        lens(tmp_path, kill=signal.SIGKILL, when=has_file(tmp_path, name))
    assert lens(tmp_path).status == 0
    record = record_in(tmp_path)
    assert table_bytes(record) == table_bytes(undisturbed)
    names = {path.name for path in record.iterdir()} - {".lock"}
    assert names == {*TABLE_FILES, "manifest.json"}


def interrupt_at_random(lens: Callable[..., Ended], out: Path, seed: int, times: int) -> None:
    kills = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    for moment in interruptions(partial(n_done, out), seed, times, kills):
        lens(out, **moment)


@pytest.mark.slow
def test_interruptions_at_random_moments_change_nothing(
    lens: Callable[..., Ended], undisturbed: Path, tmp_path: Path
) -> None:
    interrupt_at_random(lens, tmp_path, seed=0, times=6)
    assert lens(tmp_path).status == 0
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_interruptions_at_random_moments_change_nothing(
    seed: int, lens: Callable[..., Ended], undisturbed: Path, tmp_path: Path
) -> None:
    interrupt_at_random(lens, tmp_path, seed, times=12)
    assert lens(tmp_path).status == 0
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


def test_a_disk_that_fills_up_loses_nothing(
    lens: Callable[..., Ended], undisturbed: Path, tmp_path: Path
) -> None:
    """Every batch can be written and is kept; there is no room for the whole table."""
    largest = (undisturbed / "lens.parquet").stat().st_size - 1
    ended = lens(tmp_path, largest_file=largest)
    assert ended.status == 1
    assert "File too large" in ended.said
    assert "kept" in ended.said
    assert n_done(tmp_path) == N_PARTS
    assert not list(tmp_path.glob("*/.*.part"))
    assert lens(tmp_path).status == 0
    record = record_in(tmp_path)
    assert manifest(record)["resumed_batches"] == N_PARTS
    assert table_bytes(record) == table_bytes(undisturbed)


def test_two_processes_on_one_run_folder(
    lens: Callable[..., Ended], undisturbed: Path, tmp_path: Path, small_analysis: Path
) -> None:
    """The second one is refused at once; the first one is not disturbed."""
    second: list[Outcome] = []

    def meanwhile() -> bool:
        if has_parts(tmp_path, 1)():
            assert n_done(tmp_path) < math.inf
            second.append(run(read_analysis(small_analysis), tmp_path))
        return bool(second)

    lens(tmp_path, kill=signal.SIGCONT, when=meanwhile)  # which does nothing to a process
    (error,) = second[0].failed.values()
    assert isinstance(error, RecordsError)
    assert "another process" in str(error)
    assert "--out" in str(error)
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


@pytest.mark.slow
def test_the_command_line_is_interrupted_and_goes_on(
    small_analysis: Path, undisturbed: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "lensbench.cli", "run", str(small_analysis)]
    command += ["--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ONE_THREAD) as first:
        wait_until(has_parts(tmp_path, 2))
        first.send_signal(signal.SIGINT)
        _, message = first.communicate()
    assert first.returncode == 130
    assert "Run the same command again" in message
    assert "Traceback" not in message
    assert manifest(record_in(tmp_path))["status"] == "running"
    second = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert second.returncode == 0, second.stderr
    assert manifest(record_in(tmp_path))["resumed_batches"] >= 2
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)
    assert "report.html" in second.stdout
