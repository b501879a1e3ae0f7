"""An index in a folder: killed at the worst moments, shared, copied, damaged, and not ours."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from lensbench.errors import RecordsError
from lensbench.progress import Progress
from lensbench.quantized.rag import server as rag_server
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import Embedder
from lensbench.quantized.rag.index import create_index, open_index
from tests.harness.tiny_bert import WORDS

ROOT = os.geteuid() == 0
BATCH = 256
DOCUMENTS = [
    Document(f"{i:04d}", " ".join(words), {"source": "a.csv"}, f"{i:04d}")
    for i, words in enumerate(itertools.islice(itertools.permutations(WORDS.split(), 3), 900))
]


@pytest.fixture(scope="module")
def built(open_folder: Path, bert: Embedder) -> Path:
    """An index with the first documents in it, in a folder with a space in its name."""
    with create_index(open_folder / "built here", bert) as index:
        index.add(DOCUMENTS[:20])
    return open_folder / "built here"


def server_pid(folder: Path) -> int | None:
    """The folder's server, by the file that PostgreSQL itself keeps."""
    file = folder / "postgres" / "postmaster.pid"
    return int(file.read_text().split()[0]) if file.exists() else None


def kill_server(pid: int) -> None:
    """kill -9, and wait for its own processes to notice."""
    server = psutil.Process(pid)
    family = [server, *server.children()]
    server.kill()
    psutil.wait_procs(family, timeout=30)


def wait_for_stop(folder: Path) -> None:
    """Nobody does anything, and the server goes."""
    deadline = time.monotonic() + 120
    while server_pid(folder) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def forked(work: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    """Another process at work (the loaded model goes with it), and a line to it."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, *arguments), daemon=True)
    process.start()
    there.close()  # or nobody would notice when the process dies
    return process, here


def fill(line: Connection, folder: Path, bert: Embedder) -> None:
    def batch_done(now: Progress) -> None:
        line.send(now.done)
        line.recv()

    with create_index(folder, bert) as index:
        index.add(DOCUMENTS, progress=batch_done)


@pytest.mark.slow
@pytest.mark.parametrize(("batches", "server_too"), [(1, False), (2, True)])
def test_a_killed_build_loses_nothing_and_the_same_call_finishes(
    open_folder: Path, database_address: str, bert: Embedder, batches: int, server_too: bool
) -> None:
    folder = open_folder / f"killed {batches} {'long ' * 25}"  # no socket's path could hold it
    process, line = forked(fill, folder, bert)
    for _ in range(batches - 1):
        line.recv()
        line.send("go on")
    assert line.recv() == batches * BATCH
    server = server_pid(folder)
    assert server is not None
    if server_too:
        kill_server(server)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    if not server_too:
        wait_for_stop(folder)
    with open_index(folder) as index:
        assert index.count() == batches * BATCH
        assert index.facts()["complete"] is False
        changes = index.add(DOCUMENTS)
        assert (changes.new, changes.unchanged) == (900 - batches * BATCH, batches * BATCH)
        with create_index(f"{database_address}#undisturbed_{batches}", bert) as undisturbed:
            undisturbed.add(DOCUMENTS)
            assert index.facts() == undisturbed.facts()
            questions = ["gold river", "stone paper"]
            pairs = zip(index.search(questions, 9), undisturbed.search(questions, 9), strict=True)
            assert all([a.id for a in x] == [b.id for b in y] for x, y in pairs)
    assert server_pid(folder) is None


def keep_open(line: Connection, folder: Path, bert: Embedder) -> None:
    with open_index(folder) as index:
        line.send("open")
        line.recv()
        line.send([hit.id for hit in index.search(["gold river"], 3)[0]])


def test_two_processes_share_a_folder_and_the_last_one_stops_the_server(
    built: Path, bert: Embedder
) -> None:
    process, line = forked(keep_open, built, bert)
    assert line.recv() == "open"
    with open_index(built) as index:
        expected = [hit.id for hit in index.search(["gold river"], 3)[0]]
    assert server_pid(built) is not None  # the other one still needs it
    line.send("search")
    assert line.recv() == expected
    process.join()
    assert server_pid(built) is None


@pytest.mark.parametrize("who", ["the last user", "the guard"])
def test_who_stops_the_server_lets_go_of_it_before_the_next_one_looks(
    built: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Else the next one would now and then find the folder in use by a process without a server."""
    turn, held = rag_server._turn, []

    @contextmanager
    def watched(folder: Path) -> Iterator[None]:
        with turn(folder):
            yield
            if server_pid(folder) is None:
                with (folder / ".users").open("a") as users:
                    held.append(not rag_server._alone(users))

    if who == "the guard":
        with turn(built):
            rag_server._start(built)  # as by a process that is killed before it uses the server
        monkeypatch.setattr(rag_server, "_GUARD_S", 0)
        monkeypatch.setattr(rag_server, "_turn", watched)
        rag_server.guard(built)
    else:
        with open_index(built), (built / ".users").open("a") as users:
            assert not rag_server._alone(users)  # that it is held can be seen
            monkeypatch.setattr(rag_server, "_turn", watched)
    assert held == [False]


def test_an_interrupt_stops_the_server(built: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_index(built):
        assert server_pid(built) is not None
        raise KeyboardInterrupt
    assert server_pid(built) is None


@pytest.mark.parametrize("stale", ["{own}\n/some/folder\n", "99999999\n", "", "torn"])
def test_a_stale_process_file_is_survived(built: Path, stale: str) -> None:
    text = stale.format(own=os.getpid())
    (built / "postgres" / "postmaster.pid").write_text(text)
    with open_index(built) as index:
        assert index.count() == 20


def test_a_server_that_died_leaves_nothing_behind(built: Path) -> None:
    with pytest.raises(RecordsError), open_index(built) as index:
        sockets = Path(index._database.connection.info.host)
        pid = server_pid(built)
        assert pid is not None
        kill_server(pid)
        index.count()
    assert not sockets.exists()
    with open_index(built) as index:
        assert index.count() == 20


def test_a_copy_made_while_the_server_runs_is_an_index_of_its_own(
    built: Path, bert: Embedder
) -> None:
    copied = built.with_name("copied")
    with open_index(built) as index:
        index._database.connection.execute("CHECKPOINT")
        shutil.copytree(built, copied)
        if ROOT:
            for path in (copied / "postgres", *(copied / "postgres").rglob("*")):
                shutil.chown(path, "nobody", pwd.getpwnam("nobody").pw_gid)
        with open_index(copied) as copy:
            copy.add(DOCUMENTS[20:23])
            assert copy.count() == 23
        assert index.count() == 20


def test_a_half_made_cluster_is_made_anew(open_folder: Path, bert: Embedder) -> None:
    folder = open_folder / "half"
    (folder / "postgres.part").mkdir(parents=True)
    (folder / "postgres.part" / "half").write_text("made")
    manifest = {"format": "lensbench index", "schema_version": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with create_index(folder, bert) as index:
        assert index.count() == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, bert: Embedder) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RecordsError, match="is no index"), create_index(tmp_path, bert):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for manifest, said in {"{": "damaged", '{"kind": "lens"}': "something else"}.items():
        (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(RecordsError, match=said), open_index(tmp_path):
            pass


def test_a_damaged_database_says_so_with_postgresql_s_words(built: Path) -> None:
    control = built / "postgres" / "global" / "pg_control"
    whole = control.read_bytes()
    control.write_bytes(b"garbage")
    with pytest.raises(RecordsError, match=r"(?s)pg_ctl failed.*build the index again"):
        open_index(built).__enter__()
    control.write_bytes(whole)
    with open_index(built) as index:
        assert index.count() == 20


@pytest.mark.skipif(not ROOT, reason="only root's server runs as another user")
def test_root_is_told_when_the_server_cannot_enter(open_folder: Path, bert: Embedder) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(RecordsError, match=r"chmod o\+x .*closed"):
        create_index(closed / "index", bert).__enter__()
    assert closed.stat().st_mode & 0o777 == 0o700


def as_nobody(line: Connection, folder: Path, bert: Embedder) -> None:
    nobody = pwd.getpwnam("nobody")
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    sys.executable = shutil.which("true")  # root's own Python may be out of this user's reach
    with create_index(folder / "index", bert) as index:
        index.add(DOCUMENTS[:5])
        line.send(index.count())


@pytest.mark.skipif(not ROOT, reason="the other tests are this test already")
def test_an_ordinary_user_needs_no_rights(open_folder: Path, bert: Embedder) -> None:
    folder = open_folder / "for all"
    folder.mkdir()
    folder.chmod(0o777)
    process, line = forked(as_nobody, folder, bert)
    assert line.recv() == 5
    process.join()
    assert server_pid(folder / "index") is None
