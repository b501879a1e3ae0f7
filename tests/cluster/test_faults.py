"""What can go wrong with workers: one clear error, early where it can be; the rest is kept."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import lensbench
from lensbench.cluster.connect import ClusterError
from lensbench.cluster.folders.shared import SharedFolder
from lensbench.cluster.workers import workers
from lensbench.errors import LensbenchError, ModelError, RecordsError
from lensbench.progress import Progress
from lensbench.records.engine import done_by, one_by_one
from lensbench.records.parts import Parts
from lensbench.studies import lens
from lensbench.studies.specs.lens import RunSpec
from tests.harness.counted import count_words
from tests.harness.facts import facts_rows
from tests.harness.files import UNEQUAL, contents, write_csv
from tests.harness.program import Program
from tests.harness.tiny import Case
from tests.harness.workers import ray_processes, workers_alone


class Full(MemoryFileSystem):
    """A store that has no room, reached as any other that fsspec knows."""

    protocol = "full"

    def _open(self, path: str, mode: str = "rb", **how: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super()._open(path, mode, **how)


@pytest.fixture
def full() -> Iterator[str]:
    fsspec.register_implementation("full", Full, clobber=True)
    yield "full://parts"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster was ever started here."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def test_a_full_or_unreachable_shared_folder_is_named_before_anything_starts(
    full: str, tmp_path: Path, nowhere: None
) -> None:
    (tmp_path / "file").touch()
    inside = f"{tmp_path}/file/parts"
    cases = {full: "No space left on device", inside: "(Not a directory|File exists)"}
    for url, why in cases.items():
        refused = pytest.raises(RecordsError, match=f"shared folder {url} cannot be written: {why}")
        with refused, workers(1, ray="auto", shared_folder=url):
            pass
        with pytest.raises(RecordsError, match=f"{url} cannot be"):
            SharedFolder(url).write("a", b"b")


def test_the_program_says_what_is_missing_or_silent(
    lensbench: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit status 2, and nothing was loaded or written."""
    prompts = write_csv(tmp_path / "a.csv", facts_rows())
    verb = ("lens", "smollm2-135m", "--prompts", prompts, "--out", tmp_path / "r")
    silent = lensbench(*verb, "--ray", "127.0.0.1:9")
    assert silent.status == 2
    assert "error: Nothing answers at 127.0.0.1:9 within 5 s" in silent.said
    (tmp_path / "analysis.toml").write_text('models = ["smollm2-135m"]\nprompts = "a.csv"\n')
    unplanned = lensbench("run", tmp_path, "--out", tmp_path / "r", "--ray", "127.0.0.1:9")
    assert unplanned.status == 2
    assert "error: Nothing answers at 127.0.0.1:9 within 5 s" in unplanned.said
    assert "FLOP" not in unplanned.said  # a plan takes long, and would be of no use
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    missing = lensbench(*verb, "--workers", 2)
    assert missing.status == 2
    assert 'add it with: pip install "lensbench[ray]"' in missing.said
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("noted", ["variable", "file"])
def test_auto_is_held_to_the_cluster_that_it_stands_for(
    noted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nowhere: None
) -> None:
    """One that was started here and is gone: Ray would wait for it for minutes."""
    if noted == "variable":
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    else:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9\n")
    with (
        pytest.raises(ClusterError, match=r"Nothing answers at 127\.0\.0\.1:9 "),
        workers(ray="auto"),
    ):
        pass


@pytest.mark.parametrize(
    "verb",
    [
        ("lens", "MODEL", "--prompts", "FILE", "--out", "OUT"),
        ("attention", "MODEL", "--prompts", "FILE", "--out", "OUT"),
        ("cache", "MODEL", "--prompts", "FILE", "--out", "OUT"),
        ("sample", "MODEL", "--prompts", "FILE", "--out", "OUT"),
        ("infer", "MODEL", "FILE", "--out", "OUT.csv", "--trace", "OUT"),
        ("eval", "MODEL", "--data", "FILE", "--out", "OUT"),
        ("fit", "MODEL", "--corpus", "FILE", "--out", "OUT"),
        ("run", "FILE", "--out", "OUT"),
    ],
)
def test_a_wrong_file_is_said_before_ray_is_started(
    verb: tuple[str, ...], lensbench: Program, llama: Case, tmp_path: Path
) -> None:
    """With every verb that has workers; what is wrong with it is said as without them."""
    file = tmp_path / "wrong.csv"
    file.write_text("" if verb[0] == "fit" else "number,words\np1,Hi\n")
    there = {
        "MODEL": llama.folder,
        "FILE": file,
        "OUT": tmp_path / "r",
        "OUT.csv": tmp_path / "r.csv",
    }
    words = [there.get(word, word) for word in verb]
    one = lensbench(*words)
    two = lensbench(*words, "--workers", 2)
    assert one.status == two.status == 2
    assert file.name in two.err
    assert two.err == one.err
    assert not ray_processes()


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of something that listens, and says nothing of what a cluster says."""
    pytest.importorskip("ray")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_what_listens_and_is_no_cluster_is_said_within_half_a_minute(stranger: str) -> None:
    started = time.monotonic()
    refused = pytest.raises(ClusterError, match=f"What listens at {stranger} is no Ray cluster")
    with refused, workers(ray=stranger):
        pass
    assert time.monotonic() - started < 60  # 20 s, and Ray's own reading on a busy machine


# --- with Ray -----------------------------------------------------------------------------------

slow = pytest.mark.slow


@slow
def test_what_a_worker_raises_keeps_its_kind_and_a_file_that_it_lacks_is_named(
    llama: Case, tmp_path: Path
) -> None:
    """Out of memory, and a checkpoint that was whole when the driver read it."""
    folder = shutil.copytree(llama.folder, tmp_path / "model")
    prompts = write_csv(tmp_path / "a.csv", facts_rows())
    spec = RunSpec(models=(str(folder),), prompts=str(prompts), batch_tokens=1)
    weights = folder / "model.safetensors"

    def lose(now: Progress) -> None:
        if now.total is not None and weights.exists():
            weights.rename(tmp_path / "lost")

    with workers_alone(1):
        with pytest.raises(MemoryError, match="memory2"):
            count_words(tmp_path / "words", ["a", "b", "memory2"])
        assert Parts(tmp_path / "words").numbers == [0, 1]
        (error,) = lens.run(spec, tmp_path / "r", lose).failed.values()
        assert isinstance(error, LensbenchError)
        assert "safetensors" in str(error)
        (tmp_path / "lost").rename(weights)
        two = lens.run(spec, tmp_path / "r")
    with done_by(one_by_one):
        one = lens.run(spec, tmp_path / "one")
    assert two.ok
    assert contents(two.folder, UNEQUAL) == contents(one.folder, UNEQUAL)


@slow
def test_a_process_that_has_imported_ray_already_has_workers_too(tmp_path: Path) -> None:
    """What Ray reads of tokens when it is imported stays; another process, for here it is read."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    code = (
        "import ray, sys; from pathlib import Path; from tests.harness.counted import count_words; "
        "from tests.harness.workers import workers_alone\n"
        "with workers_alone(1): count_words(Path(sys.argv[1]), ['a', 'b'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "placement.parquet").is_file()


@slow
def test_a_worker_of_another_lensbench_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are a copy with another version, which workers find first."""
    other = tmp_path / "other" / "lensbench"
    shutil.copytree(Path(lensbench.__file__).parent, other)
    version = other / "version.py"
    version.write_text('__version__ = "0.0.1"\n')
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    monkeypatch.chdir(other.parent)
    refused = pytest.raises(ModelError, match=r"another program(.|\n)*lensbench: 0\.0\.1 \(code ")
    with workers_alone(1), refused:
        count_words(tmp_path / "r", ["a"])
