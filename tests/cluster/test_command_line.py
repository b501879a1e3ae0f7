"""The program with --workers, as a user starts and stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.harness.files import contents, manifest, table_bytes, write_csv
from tests.harness.forks import parts
from tests.harness.tiny import Case
from tests.harness.workers import ray_processes

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
_WAIT_S = 300  # on a busy machine Ray takes its time
N_PROMPTS = 120
_NUMBERS = (".parquet", ".safetensors")  # of a record; reports tell times and memory too


class Started:
    """`lensbench lens` over many small jobs, at a terminal's edge: what it says is kept."""

    def __init__(self, llama: Case, folder: Path, *more: str, log: str = "log.txt") -> None:
        rows = [{"id": f"p{i}", "prompt": f"Number {i} and"} for i in range(N_PROMPTS)]
        prompts = write_csv(folder / "many.csv", rows)
        self.out = folder / "run"
        command = [sys.executable, "-m", "lensbench.cli", "lens", str(llama.folder)]
        command += ["--prompts", str(prompts), "--batch-tokens", "1", "-o", str(self.out), *more]
        self._said = folder / log
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                command,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=os.environ | {"COLUMNS": "80"},
                start_new_session=True,
            )

    def ended(self) -> tuple[int, str]:
        """Its exit status, and all that it said."""
        status = self.process.wait(_WAIT_S)
        return status, self._said.read_text()

    @property
    def record(self) -> Path:
        (found,) = self.out.glob("*/manifest.json")
        return found.parent

    def has_parts(self, n: int) -> None:
        """Wait until so many jobs are done."""
        end = time.monotonic() + _WAIT_S
        while sum(len(parts(one.parent)) for one in self.out.glob("*/manifest.json")) < n:
            assert self.process.poll() is None, self._said.read_text()
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def serial(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The tables of one process; its report says how long it took."""
    run = Started(llama, tmp_path_factory.mktemp("serial"))
    assert run.ended()[0] == 0
    return table_bytes(run.record)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_stops_everything_and_one_process_goes_on_to_the_same_bytes(
    llama: Case, serial: dict[str, bytes], tmp_path: Path, stop: signal.Signals
) -> None:
    """A terminal's Ctrl-C reaches Ray's processes too, and a kill reaches the program alone."""
    run = Started(llama, tmp_path, "--workers", "2")
    run.has_parts(5)
    below = [one for one, _ in ray_processes(run.process.pid)]
    assert below
    (os.killpg if stop == signal.SIGINT else os.kill)(run.process.pid, stop)
    status, said = run.ended()
    if stop == signal.SIGINT:
        assert status == 130
        assert "Interrupted. Run the same command again" in said
        assert "Traceback" not in said
    assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line), said
    gone(below)
    assert manifest(run.record)["status"] != "complete"
    again = Started(llama, tmp_path)
    assert again.ended()[0] == 0
    assert table_bytes(again.record) == serial


def test_workers_go_on_with_what_one_process_began(
    llama: Case, serial: dict[str, bytes], tmp_path: Path
) -> None:
    """To the same bytes; and a second program is told that the first one is at it."""
    run = Started(llama, tmp_path)
    run.has_parts(5)
    run.process.send_signal(signal.SIGINT)
    assert run.ended()[0] == 130
    again = Started(llama, tmp_path, "--workers", "2")
    again.has_parts(len(parts(again.record)) + 3)
    again.process.send_signal(signal.SIGSTOP)  # it would be done before the second one has started
    second = Started(llama, tmp_path, "--workers", "2", log="second.txt")
    status, said = second.ended()
    again.process.send_signal(signal.SIGCONT)
    assert status in (1, 2)
    assert "another process is writing this record" in said
    assert "starting Ray" not in said
    assert again.process.wait(_WAIT_S) == 0
    assert table_bytes(again.record) == serial


def test_one_process_goes_on_with_what_workers_went_on_with(
    llama: Case, serial: dict[str, bytes], tmp_path: Path
) -> None:
    """One process, then two workers, then one process: the parts of all make the same bytes."""
    done = 0
    for who in ((), ("--workers", "2")):
        run = Started(llama, tmp_path, *who)
        run.has_parts(done + 5)
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.ended()[0] == 130
        done = len(parts(run.record))
    assert done < N_PROMPTS
    last = Started(llama, tmp_path)
    assert last.ended()[0] == 0
    assert table_bytes(last.record) == serial


@pytest.mark.parametrize("verb", ["lens", "cache"])
def test_a_real_models_tables_are_the_same_bytes(verb: str, tmp_path: Path) -> None:
    """By two workers as by one process, each in a process of its own, as a user starts them."""
    made = []
    for who in ([], ["--workers", "2"]):
        out = tmp_path / f"{len(who)}"
        command = [sys.executable, "-m", "lensbench.cli", verb, "smollm2-135m", "-o", str(out)]
        command += ["--prompts", "facts", "--limit", "3", "--batch-tokens", "64", *who]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S)
        assert done.returncode == 0, done.stderr
        (record,) = [path.parent for path in out.rglob("manifest.json")]
        files = contents(record)
        made.append({name: files[name] for name in files if name.endswith(_NUMBERS)})
        assert made[-1]
        assert ("starting 2 workers" in done.stderr) == bool(who)
    assert made[0] == made[1]


def gone(processes: list[int]) -> None:
    """These processes end."""
    end = time.monotonic() + 180  # after a kill Ray notices by itself, a minute later
    while left := [one for one in processes if psutil.pid_exists(one)]:
        assert time.monotonic() < end, [psutil.Process(one).cmdline() for one in left]
        time.sleep(0.2)
