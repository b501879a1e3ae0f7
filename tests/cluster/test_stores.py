"""S3 and GCS as the shared folder: pyarrow's own clients, and servers that speak to them by HTTP.

The servers are moto and gcp-storage-emulator, in an environment of their own: `make test-stores`.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from lensbench.cluster.folders import home
from lensbench.cluster.folders.home import Home
from lensbench.cluster.folders.shared import SharedFolder
from lensbench.errors import RecordsError
from tests.harness.counted import count_words
from tests.harness.files import UNEQUAL, contents
from tests.harness.shared import require_through
from tests.harness.workers import workers_alone

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv-stores" / "bin"
SERVERS = {
    "s3": ("python", "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"),
    "gs": ("gcp-storage-emulator", "start", "--host=127.0.0.1", "--port={port}", "--in-memory"),
}
WORDS = [f"word{i}" for i in range(9)]
Url = Callable[[str], str]  # of a bucket

# Without `make test-stores`: of what needs no server, a test stands at the end.
with_servers = pytest.mark.skipif(not BIN.is_dir(), reason="made by make test-stores")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def url_at(scheme: str, port: int, bucket: str) -> str:
    who = "anonymous@" if scheme == "gs" else ""
    return f"{scheme}://{who}{bucket}/parts?endpoint_override=127.0.0.1:{port}&scheme=http"


@contextmanager
def server(scheme: str) -> Iterator[int]:
    """The port of one that runs."""
    port = free_port()
    program, *words = (word.format(port=port) for word in SERVERS[scheme])
    process = subprocess.Popen([BIN / program, *words], stdout=-3, stderr=-3)
    try:
        end = time.monotonic() + 60
        while True:
            with socket.socket() as seen:
                if seen.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def ask(method: str, url: str, body: object = None) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    urlopen(Request(url, data, {"Content-Type": "application/json"}, method=method))


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a user of S3 has in the environment; workers have them from there."""
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Iterator[Url]:
    """A store with a bucket, and in S3 one that nobody may write into."""
    scheme = str(request.param)
    with server(scheme) as port:
        at = f"http://127.0.0.1:{port}"
        if scheme == "gs":
            ask("POST", f"{at}/storage/v1/b?project=test", {"name": "bucket"})
        else:
            deny = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"]}
            policy = [deny | {"Resource": "arn:aws:s3:::locked/*"}]
            ask("PUT", f"{at}/bucket")
            ask("PUT", f"{at}/locked")
            ask("PUT", f"{at}/locked?policy", {"Version": "2012-10-17", "Statement": policy})
        yield lambda bucket: url_at(scheme, port, bucket)


@with_servers
def test_a_part_goes_through_a_store_as_it_is(store: Url, tmp_path: Path) -> None:
    shared = SharedFolder(store("bucket"))
    shared.require_room()
    require_through(shared, tmp_path)


@with_servers
@pytest.mark.slow
def test_workers_that_share_a_store_make_the_record_of_one_process(
    store: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not see its folder; what is taken in is in the store no more."""
    pytest.importorskip("ray")

    def unseen(folder: str, proof: str, shared: str | None, place: str) -> Home:
        return Home(folder, f"no-{proof}", shared, place)

    count_words(tmp_path / "one", WORDS)
    monkeypatch.setattr(home, "Home", unseen)
    taken: list[str] = []
    read = SharedFolder.read

    def noted(shared: SharedFolder, name: str) -> bytes:
        taken.append(name)
        return read(shared, name)

    monkeypatch.setattr(SharedFolder, "read", noted)
    with workers_alone(2, shared_folder=store("bucket"), ray=None):
        count_words(tmp_path / "two", WORDS)
    assert contents(tmp_path / "two", UNEQUAL) == contents(tmp_path / "one", UNEQUAL)
    assert len({name.split("/")[1] for name in taken}) == len(WORDS)
    assert SharedFolder(store("bucket")).names("") == []


@with_servers
def test_a_bucket_that_is_missing_or_closed_is_named_with_what_to_do(store: Url) -> None:
    why = {"nosuch": "(Bucket 'nosuch' not found|.*missing project id)"}
    if store("").startswith("s3"):
        why["locked"] = ".*ACCESS_DENIED"
    for bucket, said in why.items():
        url = store(bucket)
        with pytest.raises(RecordsError) as caught:
            SharedFolder(url).require_room()
        assert re.match(
            f"The shared folder {re.escape(url)} cannot be written: {said}", f"{caught.value}"
        )
        assert (
            "see to it that it is there, that there is room, and that you and the"
            in f"{caught.value}"
        )


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_that_does_not_answer_is_said_within_seconds(scheme: str) -> None:
    """Of an address that is closed; the clients themselves ask again for minutes."""
    started, port = time.monotonic(), free_port()
    silent = f"nothing answers at 127.0.0.1:{port} within 5 s"
    with pytest.raises(RecordsError, match=silent):
        SharedFolder(url_at(scheme, port, "bucket")).require_room()
    assert time.monotonic() - started < 10
