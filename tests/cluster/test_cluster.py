"""A cluster joined by its address, parts that travel, and what a worker must have in common."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lensbench.again import again
from lensbench.cluster.folders import home
from lensbench.cluster.folders.home import Home
from lensbench.cluster.folders.shared import SharedFolder
from lensbench.cluster.kind import kind, require_alike
from lensbench.cluster.placement import default_workers, n_fitting, share
from lensbench.cluster.workers import workers
from lensbench.errors import InputProblems, MissingExtraError, ModelError, Problem, RecordsError
from lensbench.records.engine import done_by, one_by_one
from tests.harness.counted import count_words
from tests.harness.files import UNEQUAL, contents
from tests.harness.shared import require_through
from tests.harness.workers import workers_alone

WORDS = [f"word{i}" for i in range(9)]


@pytest.mark.parametrize("url", ["{folder}", "file://{folder}", "memory://lensbench"])
def test_a_part_goes_through_a_shared_folder_as_it_is(tmp_path: Path, url: str) -> None:
    require_through(SharedFolder(url.format(folder=tmp_path / "shared")), tmp_path)


def test_a_folder_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(InputProblems, match="nosuch://x cannot be opened"):
        SharedFolder("nosuch://x")


def test_a_worker_of_another_version_is_refused_with_every_difference() -> None:
    require_alike("there", kind())
    other = kind() | {"python": "3.9.1", "torch": "1.0"}
    with pytest.raises(ModelError, match=r"on there is another(.|\n)*python: 3\.9\.1(.|\n)*torch"):
        require_alike("there", other)


class Named:
    """What a worker finds by a name."""

    def __init__(self, sha256: str) -> None:
        self.sha256 = sha256

    def identity(self) -> dict[str, Any]:
        return {"name": "m", "weights_sha256": self.sha256, "device_name": "A100"}


def test_other_weights_or_another_gpu_by_the_same_name_are_refused() -> None:
    facts = Named("a").identity()
    assert again(Named, {"sha256": "a"}, facts).sha256 == "a"
    with pytest.raises(ModelError, match="weights_sha256: a where the run began, b here"):
        again(Named, {"sha256": "b"}, facts)
    with pytest.raises(ModelError, match="device_name: H100 where the run began, A100 here"):
        again(Named, {"sha256": "a"}, facts | {"device_name": "H100"})


@pytest.mark.parametrize(("cores", "n"), [(2, 2), (2, 8), (2, 3), (64, 64), (1, 7)])
def test_all_workers_find_a_core(cores: int, n: int) -> None:
    """A whole core each would let some wait forever."""
    own = share({"CPU": cores}, n)["num_cpus"]
    assert 0 < own <= 1
    assert own * n <= cores + 1e-9


def test_there_are_as_many_workers_as_gpus_cores_and_memory_allow() -> None:
    assert default_workers({"CPU": 16, "GPU": 4}, threads=8) == 4
    assert default_workers({"CPU": 16}, threads=8) == 2
    assert default_workers({"CPU": 2}, threads=8) == 1
    assert n_fitting(60 * 10**9, 17 * 10**9) == 3


def test_errors_come_back_as_they_were_raised() -> None:
    problems = [Problem("a.csv, row 2", "it is empty", "Mend it.", "p2")]
    for error in (InputProblems(problems), MissingExtraError("ray", "ray"), RecordsError("x")):
        make, given, *_ = error.__reduce__()  # type: ignore[misc]
        same = make(*given)
        assert (type(same), str(same)) == (type(error), str(error))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r'pip install "lensbench\[ray\]"'), workers(2):
        pass


def test_a_record_keeps_to_the_threads_that_it_was_begun_with(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with done_by(one_by_one, threads=3), pytest.raises(Exception, match="is no word"):
        count_words(tmp_path, ["a", "wrong"])
    with done_by(one_by_one, threads=2), pytest.raises(RecordsError, match=r"begun with 3 thread"):
        count_words(tmp_path, ["a", "wrong"])


# --- with Ray -----------------------------------------------------------------------------------


@contextmanager
def cluster(n_nodes: int, auth_mode: str) -> Iterator[str]:
    """The address of a cluster on this machine, whose nodes are each started as a user does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    command += ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000"]
    env = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": auth_mode}
    head = ["--head", "--include-dashboard=false", f"--port={port}"]
    others = [[f"--address=127.0.0.1:{port}"]] * (n_nodes - 1)
    nodes = []
    for own in (head, *others):
        nodes.append(subprocess.Popen([*command, *own], env=env, stdout=subprocess.DEVNULL))
        for _ in range(300):
            with socket.socket() as seen:
                seen.settimeout(0.2)
                if seen.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            node.wait(60)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes."""
    pytest.importorskip("ray")
    with cluster(2, "token") as there:
        yield there


@pytest.mark.slow
@pytest.mark.parametrize(
    ("there", "here", "remedy"),
    [
        ("token", "disabled", "with the same Python, Ray and RAY_AUTH_MODE, and the same token"),
        ("disabled", "token", "RAY_AUTH_MODE has to be the same here and there"),
    ],
)
def test_a_cluster_of_another_auth_mode_is_refused_with_what_to_do(
    tmp_path: Path, there: str, here: str, remedy: str
) -> None:
    """By another process: Ray reads its own mode once."""
    pytest.importorskip("ray")
    code = (
        "import sys; from pathlib import Path; from tests.harness.counted import count_words; "
        "from tests.harness.workers import workers_alone\n"
        "with workers_alone(1, ray=sys.argv[1]): count_words(Path(sys.argv[2]), ['a'])"
    )
    with cluster(1, there) as address:
        command = [sys.executable, "-c", code, address, str(tmp_path / "r")]
        env = os.environ | {"RAY_AUTH_MODE": here}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert "ClusterError: " in done.stderr
    assert remedy in done.stderr


@pytest.mark.slow
def test_a_cluster_joined_by_its_address_gives_the_same_bytes(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by workers, sent back, and through a shared folder, also after a stop."""
    count_words(tmp_path / "one", WORDS)
    expected = contents(tmp_path / "one", UNEQUAL)
    with workers_alone(2, ray=address):
        count_words(tmp_path / "written", WORDS)
    assert contents(tmp_path / "written", UNEQUAL) == expected

    def unseen(folder: str, proof: str, shared: str | None, place: str) -> Home:
        return Home(folder, f"no-{proof}", shared, place)

    monkeypatch.setattr(home, "Home", unseen)
    with workers_alone(2, ray=address):
        count_words(tmp_path / "back", WORDS)
    assert contents(tmp_path / "back", UNEQUAL) == expected
    with workers_alone(2, ray=address, shared_folder=str(tmp_path / "shared")):
        count_words(tmp_path / "through", WORDS)
    assert contents(tmp_path / "through", UNEQUAL) == expected
    assert not [path for path in (tmp_path / "shared").rglob("*") if path.is_file()]
