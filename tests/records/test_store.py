"""Records on disk: whole or absent, locked while written, and never of two runs at once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench.errors import Problem, RecordsError
from lensbench.files import replacing, sha256_of, write_bytes, write_text
from lensbench.records.manifest import new_manifest
from lensbench.records.schema import SCHEMA_VERSION, TABLES
from lensbench.records.store import RecordStore, folder_name
from tests.harness.files import names_in
from tests.harness.lens_rows import MODEL, lens_table

PROBLEM = Problem("set.csv, row 3, id b", "the prompt is empty", "Write a prompt.", "b")


def manifest(**settings: Any) -> dict[str, Any]:
    return new_manifest(MODEL, {"top_k": 5, "lenses": ["final"]} | settings)


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "run" / "tiny", "tiny")


# --- atomic files -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_while_writing_leaves_the_old_file_alone(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(error), replacing(path) as handle:
        handle.write(b"half of the new")
        raise error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_a_file_that_was_never_whole_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "file.txt") as handle:
        handle.write(b"half")
        raise RuntimeError
    assert names_in(tmp_path) == []


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with replacing(path) as handle:
        handle.write(b"new")
        handle.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_text_is_utf_8_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "é\n")
    assert (tmp_path / "file.txt").read_bytes() == b"\xc3\xa9\n"


def test_missing_folders_are_made_and_the_hash_is_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_table_that_cannot_be_written_leaves_the_old_one(store: RecordStore) -> None:
    store.write_table("lens", [lens_table(0, 1)])
    before = (store.folder / "lens.parquet").read_bytes()
    with pytest.raises((KeyError, pa.ArrowException, ValueError)):
        store.write_table("lens", [pa.table({"other": [1]})])
    assert (store.folder / "lens.parquet").read_bytes() == before
    assert names_in(store.folder) == ["lens.parquet"]


# --- the lock -----------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from lensbench.records.store import RecordStore
with RecordStore(Path(sys.argv[1]), "tiny").locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(store: RecordStore) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(store.folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_a_folder_that_another_process_writes_is_refused(store: RecordStore) -> None:
    with held_by_another_process(store):
        with pytest.raises(RecordsError, match="another process") as caught, store.locked():
            pass
        assert str(store.folder) in str(caught.value)
        assert "--out" in str(caught.value)


def test_a_killed_process_leaves_no_lock_behind(store: RecordStore) -> None:
    with held_by_another_process(store) as holder:
        holder.kill()
        holder.wait()
        with store.locked():
            store.write_manifest(manifest())
    assert store.manifest() is not None


def test_the_lock_is_given_back_after_an_error(store: RecordStore) -> None:
    with pytest.raises(RuntimeError), store.locked():
        raise RuntimeError
    with store.locked():
        pass


# --- tables and the manifest --------------------------------------------------------------------


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (RecordStore(tmp_path / name, "tiny") for name in "ab")
    first.write_table("lens", [lens_table(0, 1, 2)])
    second.write_table("lens", [lens_table(0), lens_table(1, 2)])  # cut another way
    one, two = (store.folder / "lens.parquet" for store in (first, second))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_back_as_its_schema(store: RecordStore, name: str) -> None:
    store.write_table(name, [TABLES[name].schema.empty_table()])
    assert pq.read_table(store.folder / f"{name}.parquet").schema.equals(TABLES[name].schema)


def test_problems_become_a_table(store: RecordStore) -> None:
    table = store.problems_table([PROBLEM, Problem("set.csv", "it has no id", "Add it.")])
    assert table.schema.equals(TABLES["problems"].schema)
    assert table["prompt_id"].to_pylist() == ["b", None]
    assert table["model"].to_pylist() == ["tiny", "tiny"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("org/Model-1.5_b", "org-Model-1.5_b"),
        ("../../etc/passwd", "etc-passwd"),
        ("/", "model"),
        ("..", "model"),
        ("a b\n<c>", "a-b-c"),
    ],
)
def test_a_model_name_becomes_one_plain_folder(model: str, expected: str) -> None:
    assert folder_name(model) == expected


def test_a_new_manifest_says_how_the_record_is_made() -> None:
    found = manifest()
    assert (found["schema_version"], found["status"]) == (SCHEMA_VERSION, "running")
    packages = {"python", "torch", "transformers", "transformer-lens", "numpy", "scipy", "pyarrow"}
    assert packages <= set(found["versions"])
    assert all(found["versions"].values())
    assert set(found["machine"]) == {"cpu", "cores", "threads", "memory_bytes", "os"}
    assert found["machine"]["memory_bytes"] > 1e8
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["created"])
    assert found["git"] is None or set(found["git"]) == {"commit", "dirty", "code_sha256"}
    keys = {"lensbench_version", "model", "settings", "gate", "wall_s", "peak_memory_bytes"}
    assert keys <= set(found)
