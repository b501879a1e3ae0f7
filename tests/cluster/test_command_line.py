"""The program with --workers, as a user starts and stops it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.harness.files import manifest, table_bytes, write_csv
from tests.harness.forks import parts
from tests.harness.tiny import Case
from tests.harness.workers import ray_processes, worker_processes

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
_WAIT_S = 300  # on a busy machine Ray takes its time
N_PROMPTS = 120
_NUMBERS = (".parquet", ".safetensors", ".csv")  # of a record; reports tell times and memory too


class Started:
    """`lensbench lens` over many small jobs, at a terminal's edge: what it says is kept.

    Workers do all jobs of `PROGRAM`, of which they would find none left.
    """

    def __init__(
        self,
        llama: Case,
        folder: Path,
        *more: str,
        log: str = "log.txt",
        program: str = "tests.harness.workers",
    ) -> None:
        rows = [{"id": f"p{i}", "prompt": f"Number {i} and"} for i in range(N_PROMPTS)]
        prompts = write_csv(folder / "many.csv", rows)
        self.out = folder / "run"
        command = [sys.executable, "-m", program, "lens", str(llama.folder)]
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


def test_that_a_worker_was_killed_is_said_in_one_line_and_not_by_ray(
    llama: Case, serial: dict[str, bytes], tmp_path: Path
) -> None:
    run = Started(llama, tmp_path, "--workers", "2")
    run.has_parts(5)
    os.kill(worker_processes(run.process.pid)[0], signal.SIGKILL)
    status, said = run.ended()
    assert status == 0
    words = " ".join(said.split())
    assert words.count("has died (it was killed or crashed): another one takes its place") == 1
    assert "raylet" not in said
    assert table_bytes(run.record) == serial


def test_ctrl_c_while_this_process_does_jobs_leaves_a_record_to_go_on_with(
    llama: Case, serial: dict[str, bytes], tmp_path: Path
) -> None:
    """Ray is still starting: it is stopped too, and the program goes on to the same bytes."""
    run = Started(llama, tmp_path, "--workers", "2", program="lensbench.cli")
    run.has_parts(5)
    os.killpg(run.process.pid, signal.SIGINT)
    status, said = run.ended()
    assert status == 130
    assert "Traceback" not in said
    assert not psutil.pid_exists(run.process.pid)
    assert 5 <= len(parts(run.record)) < N_PROMPTS
    again = Started(llama, tmp_path, "--workers", "2", program="lensbench.cli")
    status, said = again.ended()
    assert status == 0
    assert ("a worker is ready" in said) != ("no worker was ready yet" in said)
    assert table_bytes(again.record) == serial


_PROMPTS = ("--prompts", "facts", "--limit", "2", "--batch-tokens", "64", "--out", "OUT")
_FIT = ("--tokens", "700", "--choose-tokens", "64", "--test-tokens", "64", "--directions", "0")
_ANSWERS = ("--limit", "4", "--batch-size", "2", "--max-new-tokens", "4")
_REAL = {
    "lens": ("smollm2-135m", *_PROMPTS),
    "cache": ("smollm2-135m", *_PROMPTS),
    "attention": ("smollm2-135m", *_PROMPTS, "--n-repeated", "3", "--no-nulls"),
    "infer": ("smollm2-135m@32", "general", *_ANSWERS, "--out", "OUT/a.csv", "--trace", "OUT/t"),
    "fit": ("smollm2-135m", "--corpus", "CORPUS", *_FIT, "--no-untrained", "--out", "OUT"),
    "run": ("ANALYSIS", "--out", "OUT"),
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("verb", _REAL)
def test_a_real_models_numbers_are_the_same_bytes(verb: str, tmp_path: Path) -> None:
    """By two workers as by one process, each in a process of its own, as a user starts them."""
    analysis, corpus = tmp_path / "analysis.toml", tmp_path / "texts"
    analysis.write_text('models = ["smollm2-135m"]\nprompts = "facts"\nlimit = 2\n')
    corpus.mkdir()
    text = Path(ast.__file__).read_text()
    for i in range(20):
        (corpus / f"{i}.txt").write_text(text[2000 * i : 2000 * (i + 1)])
    made = []
    for who in ([], ["--workers", "2"]):
        out = tmp_path / f"{len(who)}"
        there = {"ANALYSIS": str(analysis), "CORPUS": str(corpus)}
        words = [there.get(word, word.replace("OUT", str(out))) for word in _REAL[verb]]
        command = [sys.executable, "-m", "tests.harness.workers", verb, *words, *who]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        files = [path for path in out.rglob("*") if path.suffix in _NUMBERS]
        made.append({path.relative_to(out): path.read_bytes() for path in files})
        assert made[-1]
        assert ("a worker is ready" in done.stderr) == bool(who)
    assert made[0] == made[1]


def gone(processes: list[int]) -> None:
    """These processes end."""
    end = time.monotonic() + 180  # after a kill Ray notices by itself, a minute later
    while left := [one for one in processes if psutil.pid_exists(one)]:
        assert time.monotonic() < end, [psutil.Process(one).cmdline() for one in left]
        time.sleep(0.2)
