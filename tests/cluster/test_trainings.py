"""Whole trainings by workers: what one process makes of each, whatever becomes of workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensbench.cluster.connect import ClusterError
from lensbench.cluster.folders import home
from lensbench.cluster.folders.home import Home
from lensbench.cluster.workers import workers
from lensbench.pico.seeds import train_seeds
from lensbench.pico.spec import Pretraining, SeedsSpec
from lensbench.progress import Progress
from tests.harness.files import contents, manifest, names_in
from tests.harness.pico import require_same, seeds_spec, write_texts
from tests.harness.workers import ray_processes, worker_processes

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
_TIMES = ("wall_s", "peak_memory_bytes", "resumed_from_step", "checksums", "manifest_sha256")
_TIMED = ("manifest.json", ".lock", "training.parquet", "training_args.bin")
STEPS = 300


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("trainings") / "texts")


def asked(texts: Path, out: Path, **changes: Any) -> SeedsSpec:
    """Two seeds, long enough to be met in the middle of."""
    return seeds_spec(texts, out, seed="0,1", steps=STEPS, **changes)


@pytest.fixture(scope="module")
def serial(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By this process."""
    out = tmp_path_factory.mktemp("serial") / "a"
    assert train_seeds(asked(texts, out)).ok
    return out


def require_equal(out: Path, serial: Path) -> None:
    """Curves, models, and every other file; of manifests all but times."""
    for name in ("seed-0", "seed-1"):
        require_same(out / name, serial / name)
        assert contents(out / name, _TIMED) == contents(serial / name, _TIMED)
        facts, other = manifest(out / name), manifest(serial / name)
        assert {key: facts[key] for key in facts if key not in _TIMES} == {
            key: other[key] for key in other if key not in _TIMES
        }


def test_two_workers_train_what_one_process_does_and_tell_how_far_they_are(
    texts: Path, serial: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    said: list[str] = []
    with workers(2):
        outcome = train_seeds(asked(texts, tmp_path / "a"), seen.append, said.append)
    assert outcome.ok
    assert outcome.folders == [tmp_path / "a" / "seed-0", tmp_path / "a" / "seed-1"]
    require_equal(tmp_path / "a", serial)
    for seed in (0, 1):
        own = [one.done for one in seen if one.stage == f"pico-tiny-seed-{seed}: training"]
        assert own == sorted(own)
        assert len({*own}) > 2  # while it was trained
        assert own[-1] == STEPS
    assert sum("parameters: 2 layers of 2 heads" in text for text in said) == 1
    assert names_in(tmp_path / "a") == ["seed-0", "seed-1"]


def test_a_worker_that_is_killed_costs_what_was_since_its_last_checkpoint(
    texts: Path, serial: Path, tmp_path: Path
) -> None:
    """Both are, one after another, in the middle of a training."""
    killed: list[int] = []

    def kill(now: Progress) -> None:
        begun = "training" in now.stage and 20 <= now.done < STEPS - 20
        there = [one for one in worker_processes() if one not in killed]
        if begun and there and len(killed) < 2:
            killed.append(there[0])
            os.kill(there[0], signal.SIGKILL)

    with workers(2):
        assert train_seeds(asked(texts, tmp_path / "a"), kill).ok
    assert len(killed) == 2
    require_equal(tmp_path / "a", serial)
    resumed = [manifest(tmp_path / "a" / f"seed-{n}")["resumed_from_step"] for n in (0, 1)]
    assert any(step is not None and step % 5 == 0 for step in resumed)


def test_workers_that_do_not_see_the_folder_are_refused_before_anything_is_trained(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(folder: str, proof: str, shared: str | None, place: str) -> Home:
        return Home(folder, f"no-{proof}", shared, place)

    monkeypatch.setattr(home, "Home", unseen)
    out = tmp_path / "a"
    refused = pytest.raises(ClusterError, match=f"does not see {re.escape(str(out))}, where its")
    with workers(2), refused:
        train_seeds(asked(texts, out))
    assert not [*out.iterdir()]


def test_a_seed_that_fails_leaves_the_others(texts: Path, serial: Path, tmp_path: Path) -> None:
    """Its folder holds something else."""
    taken = tmp_path / "a" / "seed-2"
    taken.mkdir(parents=True)
    (taken / "mine.txt").touch()
    with workers(2):
        outcome = train_seeds(asked(texts, tmp_path / "a").changed(seed=(2, 0, 1)))
    assert [*outcome.failed] == ["pico-tiny-seed-2"]
    assert "holds mine.txt and no pretraining record" in str(*outcome.failed.values())
    require_equal(tmp_path / "a", serial)


def test_ctrl_c_stops_everything_and_one_process_goes_on_to_the_same(
    texts: Path, serial: Path, tmp_path: Path
) -> None:
    """The program as a user starts it; what its workers tell is on the terminal meanwhile."""
    spec, out = asked(texts, tmp_path / "a"), tmp_path / "a"
    command = [sys.executable, "-m", "lensbench.cli", "pico", "train", "-o", str(out)]
    command += ["--seed", "0,1", "--workers", "2"]
    for key, value in spec.shared(Pretraining).items():
        command += [] if value is None else [f"--{key.replace('_', '-')}", str(value)]
    log = tmp_path / "log.txt"
    with log.open("w") as said:
        run = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    end = time.monotonic() + 300
    told = re.compile(r"seed-[01]: training: \d+/300 steps")
    while len([*out.glob("seed-*/checkpoints/checkpoint-*/whole")]) < 3 or not told.search(
        log.read_text()
    ):
        assert run.poll() is None, log.read_text()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    below = [one for one, _ in ray_processes(run.pid)]
    assert below
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(120) == 130
    text = log.read_text()
    assert "Interrupted. Run the same command again: it goes on where it stopped." in text
    assert "Traceback" not in text
    while [one for one in below if psutil.pid_exists(one)]:
        assert time.monotonic() < end, "Ray is still there"
        time.sleep(0.2)
    states = [manifest(out / name)["status"] for name in ("seed-0", "seed-1")]
    assert "running" in states
    assert train_seeds(spec).ok
    require_equal(out, serial)
