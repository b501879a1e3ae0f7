"""A record being made: gone on with only by equal settings, and finished whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from lensbench.errors import RecordsError
from lensbench.records.manifest import as_planned, peak_memory_bytes
from lensbench.records.parts import Part
from lensbench.records.recording import Finished, Recording, Request, recording
from lensbench.records.schema import TABLES
from lensbench.records.store import RecordStore
from lensbench.report.manifest import how_made
from tests.harness.files import names_in
from tests.harness.lens_rows import MODEL, lens_table

MADE = {
    "lens": lens_table(0, 1),
    "prompts": TABLES["prompts"].schema.empty_table(),
    "milestones": TABLES["milestones"].schema.empty_table(),
}


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "run" / "tiny", "tiny")


def settings(**changes: Any) -> dict[str, Any]:
    return {"top_k": 5, "lenses": ["final"]} | changes


def begun(store: RecordStore, model: dict[str, Any] = MODEL, **changes: Any) -> Recording:
    """A record whose model is loaded now; nobody knew anything of it before."""
    record = Recording(Request(store, settings(**changes)))
    record.begin(model)
    return record


def test_equal_settings_go_on(store: RecordStore) -> None:
    begun(store)
    before = (store.folder / "manifest.json").read_bytes()
    begun(store)
    assert (store.folder / "manifest.json").read_bytes() == before
    found = store.manifest()
    assert found is not None
    assert (found["status"], found["model"]) == ("running", MODEL)
    assert found["settings"] == settings()


def test_other_settings_are_refused_and_every_difference_is_named(store: RecordStore) -> None:
    begun(store, limit=8)
    before = store.manifest()
    with pytest.raises(RecordsError) as caught:
        begun(store, MODEL | {"weights_sha256": "1" * 64}, limit=9, top_k=7)
    message = str(caught.value)
    assert "settings.limit: 8 there, 9 now" in message
    assert "settings.top_k: 5 there, 7 now" in message
    assert "lenses" not in message
    assert "--out" in message
    assert store.manifest() == before


@pytest.mark.parametrize(("kind", "option"), [("trace", "--trace ("), ("inference", "--out")])
def test_every_refusal_names_the_option_that_gives_another_folder(
    tmp_path: Path, kind: str, option: str
) -> None:
    """`infer --trace FOLDER` keeps its record there, whatever --out says."""
    there, used = RecordStore(tmp_path / "a", "m", kind), tmp_path / "used"
    begun(there, limit=8)
    used.mkdir()
    (used / "mine.txt").touch()
    said = []
    for refused in (
        lambda: begun(there, limit=9),
        lambda: RecordStore(used, "m", kind).require_free(),
        lambda: _locked_twice(there),
    ):
        with pytest.raises(RecordsError) as caught:
            refused()
        said.append(str(caught.value))
    assert all(f"another folder with {option}" in message for message in said), said


def _locked_twice(store: RecordStore) -> None:
    with store.locked(), store.locked():
        pass


def test_a_model_that_turns_out_to_be_another_is_refused(store: RecordStore) -> None:
    """What is known beforehand is compared before loading, all of it after."""
    begun(store)
    other = MODEL | {"weights_sha256": "1" * 64, "n_layers": 4}
    with pytest.raises(RecordsError, match=r"model\.weights_sha256") as caught:
        begun(store, other)
    assert "model.n_layers: 3 there, 4 now" in str(caught.value)
    known = {"weights_sha256": "1" * 64}
    with pytest.raises(RecordsError, match=r"model\.weights_sha256"):
        Recording(Request(store, settings(), known))


@pytest.mark.parametrize("fact", ["config_sha256", "chat_template_sha256", "added_tokens_sha256"])
def test_another_config_is_another_model_and_of_an_older_record_it_is_not_known(
    store: RecordStore, fact: str
) -> None:
    def known(digit: str) -> dict[str, Any]:
        return MODEL | {fact: digit * 64}

    begun(store)  # as an older lensbench did
    record = begun(store, known("1"))
    record.finish(Finished([], MADE))
    found = store.manifest()
    assert found is not None
    assert found["model"] == MODEL  # nobody knows what its first half was made with
    assert Recording(Request(store, settings(), known("2"))).finished
    other = RecordStore(store.folder.parent / "new", "new")
    begun(other, known("1"))
    begun(other, known("1"))
    with pytest.raises(RecordsError, match=rf"model\.{fact}: '1+' there, '2+' now"):
        Recording(Request(other, settings(), known("2")))


def test_of_an_entry_with_entries_only_what_differs_is_named(store: RecordStore) -> None:
    begun(store, MODEL | {"a": {"limit": 8, "dtype": "float32"}})
    with pytest.raises(RecordsError, match=r"model\.a\.limit: 8 there, 9 now") as caught:
        begun(store, MODEL | {"a": {"limit": 9, "dtype": "float32"}})
    assert "dtype" not in str(caught.value)


def test_a_setting_that_is_new_or_gone_is_a_difference(store: RecordStore) -> None:
    begun(store, old=1)
    with pytest.raises(RecordsError, match=r"settings\.new: None there, 2 now") as caught:
        begun(store, new=2)
    assert "settings.old: 1 there, None now" in str(caught.value)


def test_a_setting_that_loading_decides_is_compared_once_it_is_known(store: RecordStore) -> None:
    def asked(**known: int) -> Recording:
        return Recording(Request(store, settings(**known), decided=("batch_size",)))

    asked().begin(MODEL, {"batch_size": 8})
    asked().begin(MODEL, {"batch_size": 8})
    with pytest.raises(RecordsError, match=r"settings\.batch_size: 8 there, 4 now"):
        asked().begin(MODEL, {"batch_size": 4})
    with pytest.raises(RecordsError, match=r"settings\.batch_size"):
        asked(batch_size=4)
    record = asked()
    record.begin(MODEL, {"batch_size": 8})
    record.finish(Finished([], MADE))
    assert asked(batch_size=4).finished  # how it was cut is of no matter any more


def test_the_end_says_complete_and_drops_the_parts(store: RecordStore) -> None:
    with recording(Request(store, settings())) as record:
        record.begin(MODEL)
        record.parts.write(0, Part({"lens": lens_table(0)}))
        made = {name: table for name, table in MADE.items() if name != "lens"}  # of its part
        record.finish(Finished([], made, files={"note.txt": b"x"}), wall_s=1.5)
    found = store.manifest()
    assert found is not None
    assert (found["status"], found["wall_s"], found["files"]) == ("complete", 1.5, ["note.txt"])
    tables = ["lens.parquet", "milestones.parquet", "problems.parquet", "prompts.parquet"]
    assert names_in(store.folder) == sorted([*tables, "manifest.json", "note.txt"])


def test_a_finished_record_that_lost_a_file_is_made_again(store: RecordStore) -> None:
    begun(store).finish(Finished([], MADE, files={"note.txt": b"x"}))
    assert Recording(Request(store, settings())).finished
    (store.folder / "note.txt").unlink()
    again = Recording(Request(store, settings()))
    assert not again.finished
    again.begin(MODEL)
    assert json.loads((store.folder / "manifest.json").read_text())["status"] == "running"


def test_a_record_of_an_older_schema_is_not_widened(store: RecordStore) -> None:
    begun(store, n_prompts=2).finish(Finished([], MADE))
    store.write_manifest({**(store.manifest() or {}), "schema_version": 1})
    with pytest.raises(RecordsError, match="older lensbench, so it cannot be widened"):
        Recording(Request(store, settings(n_prompts=3), grows=("n_prompts",)))


@pytest.mark.parametrize("foreign", ["notes.txt", "smollm2-135m/manifest.json"])
def test_a_folder_in_use_is_refused_and_nothing_is_written_there(
    store: RecordStore, foreign: str
) -> None:
    there = store.folder / foreign
    there.parent.mkdir(parents=True)
    there.write_text("{}")
    with (
        pytest.raises(RecordsError, match=f"tiny holds {foreign.split('/')[0]} and no lens record"),
        recording(Request(store, settings())),
    ):
        pass
    assert names_in(store.folder) == [foreign.split("/")[0]]


def test_a_run_that_was_stopped_before_its_manifest_is_begun_anew(store: RecordStore) -> None:
    """Only hidden files are there by then: the lock, and a manifest that is not whole."""
    store.folder.mkdir(parents=True)
    (store.folder / ".manifest.json.x.part").write_text("{")
    (store.folder / ".lock").touch()
    with recording(Request(store, settings())) as record:
        record.begin(MODEL)
    with recording(Request(store, settings())) as record:
        assert not record.finished


def test_a_record_of_another_kind_is_named_before_any_setting(store: RecordStore) -> None:
    begun(store)
    other = RecordStore(store.folder, "tiny", "lineage")
    with (
        pytest.raises(RecordsError) as caught,
        recording(Request(other, {"untrained": 3})),
    ):
        pass
    said = str(caught.value)
    assert said == (
        f"{store.folder} holds a lens record, not a lineage one; give another folder with --out."
    )


_SAYS = "from lensbench.records.manifest import peak_memory_bytes; print(peak_memory_bytes())"


def test_a_programs_peak_is_its_own_whoever_started_it() -> None:
    """The kernel's count for a child begins with the memory of the process that it came from."""
    held = bytearray(b"x") * 10**9
    said = subprocess.run([sys.executable, "-c", _SAYS], capture_output=True, text=True, check=True)
    assert 2 * 10**7 < int(said.stdout) < len(held) / 2
    assert peak_memory_bytes() > len(held)


@pytest.mark.parametrize("more", [False, True])
def test_a_peak_that_other_work_reached_before_is_not_the_record_s(
    store: RecordStore, more: bool
) -> None:
    """The process' mark stays where an earlier model put it; only a rise is this record's."""
    plan = {"wall_s": [1, 2], "disk_bytes": [1, 2], "n_tokens": 0, "memory_bytes": 1_300_000_000}
    with as_planned({store.folder.resolve(): plan}):
        earlier = bytearray(b"1") * (1 << 26)  # gone when the record begins
        del earlier
        before = peak_memory_bytes()
        record = begun(store)
        missing = before - psutil.Process().memory_info().rss
        held = b"1" * (missing + (1 << 26) if more else 1)
        record.finish(Finished([], MADE))
        del held
    found = store.manifest()
    assert found is not None
    (said,) = [line for line in how_made(found) if line.startswith("Planned ")]
    if more:
        assert found["took"]["memory_bytes"] > before
        assert f"the process held {found['took']['memory_bytes'] / 1e9:.1f} at its peak" in said
    else:
        assert found["took"]["memory_bytes"] is None
        assert "1.3 GB of memory, took no more than what ran in the process before" in said
