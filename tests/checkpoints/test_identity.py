"""A file is hashed once while it stays as it is, and again whenever it may have changed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench.checkpoints import identity
from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.identity import sha256_once

_SETTLED_S = 0.03  # instead of two seconds: the clock of this file system is finer


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read whole, one after the other."""
    names: list[str] = []
    own = identity.sha256_of
    monkeypatch.setattr(identity, "sha256_of", lambda path: names.append(path.name) or own(path))
    monkeypatch.setattr(identity, "_SETTLED_S", _SETTLED_S)
    monkeypatch.setattr(identity, "_LARGE", 1000)
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path / "cache"))
    return names


def _weights(folder: Path, data: bytes = b"w" * 2000) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    time.sleep(2 * _SETTLED_S)
    return path


def _next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It remembers nothing itself."""
    monkeypatch.setattr(identity, "_known", {})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_read_once_a_process(tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"words")
    _weights(tmp_path)
    found = [hashes(tmp_path) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert sorted(read) == ["model.safetensors", "tokenizer.json"]


def test_a_large_file_is_read_once_for_all_processes(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _weights(tmp_path)
    assert sha256_once(path) == _sha256(path)
    _next_process(monkeypatch)
    assert sha256_once(path) == _sha256(path)
    assert read == ["model.safetensors"]


def test_a_small_file_is_read_by_each_process(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _weights(tmp_path, b"small")
    sha256_once(path)
    _next_process(monkeypatch)
    assert sha256_once(path) == _sha256(path)
    assert len(read) == 2 and not (tmp_path / "cache").exists()


def _in_place(path: Path) -> None:
    """One byte is another; size and time of the content are set back to what they were."""
    before = path.stat()
    with path.open("r+b") as handle:
        handle.write(b"W")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _by_another(path: Path) -> None:
    """Another file takes the name, of the same size and time."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"W" + path.read_bytes()[1:])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def _longer(path: Path) -> None:
    with path.open("ab") as handle:
        handle.write(b"more")


@pytest.mark.parametrize("change", [_in_place, _by_another, _longer])
@pytest.mark.parametrize("later", [False, True])
def test_a_change_is_seen_by_this_process_and_by_later_ones(
    tmp_path: Path,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    later: bool,
) -> None:
    path = _weights(tmp_path)
    before = sha256_once(path)
    change(path)
    if later:
        _next_process(monkeypatch)
    assert sha256_once(path) == _sha256(path) != before
    assert len(read) == 2


def test_what_was_just_written_is_not_remembered(tmp_path: Path, read: list[str]) -> None:
    """A second write could come within the same tick of the clock."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"w" * 2000)
    assert sha256_once(path) == sha256_once(path)
    assert len(read) == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _weights(tmp_path)
    own = identity.sha256_of

    def meanwhile(one: Path) -> str:
        found = own(one)
        _in_place(one)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(identity, "sha256_of", meanwhile)
        sha256_once(path)
    assert sha256_once(path) == _sha256(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: "{",
        lambda told: json.dumps(told | {"sha256": "0" * 63}),
        lambda told: json.dumps(told | {"file": told["file"] | {"size": 1}}),
        lambda told: "[]",
    ],
)
def test_a_damaged_memory_is_no_memory(
    tmp_path: Path,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[dict[str, dict[str, int]]], str],
) -> None:
    path = _weights(tmp_path)
    sha256_once(path)
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    kept.write_text(damage(json.loads(kept.read_text())))
    _next_process(monkeypatch)
    assert sha256_once(path) == _sha256(path)
    assert len(read) == 2


def test_a_cache_that_cannot_be_written_stops_nobody(tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "cache").write_text("a file")
    path = _weights(tmp_path)
    assert sha256_once(path) == _sha256(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the count is Linux's")
def test_another_process_reads_a_real_file_no_more(tmp_path: Path) -> None:
    """By the kernel's own count of what was read, with two seconds' peace and 80 MB."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"w" * (80 << 20))
    time.sleep(2.2)
    code = (
        "import sys; from pathlib import Path; from lensbench.checkpoints.identity import *\n"
        "read = lambda: int(open('/proc/self/io').readline().split()[1])\n"
        "before = read(); found = sha256_once(Path(sys.argv[1])); print(found, read() - before)"
    )
    own = os.environ | {"LENSBENCH_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(path)]
    runs = [
        subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert runs[0][0] == runs[1][0] == _sha256(path)
    assert int(runs[0][1]) >= 80 << 20 and int(runs[1][1]) < 1 << 16
