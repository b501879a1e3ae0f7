"""Opening records: every kind, of both versions of the schema, and all that cannot be opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lensbench as lb
from lensbench.errors import RecordsError
from lensbench.records.lens.record import LensRecord
from lensbench.records.open import find_records, open_lens_record, open_record
from lensbench.records.residuals import shard, shards_of, tensor_name
from lensbench.records.schema import KINDS, SCHEMA_VERSION, TABLES
from tests.harness.files import write_manifest
from tests.harness.lens_records import Settings, write_record
from tests.harness.second_records import responses, write, write_evaluation, write_trace

REPORTS = Path(__file__).parents[2] / "reports"
COMMITTED = sorted(manifest.parent for manifest in REPORTS.glob("*/*/manifest.json"))

# What version 1 called otherwise, written down here once more: today's name -> the old one.
COLUMNS = {
    "site": "point",
    "span": "phase",
    "placement": "arm",
    "loss_nats": "loss",
    "eval_loss_nats": "eval_loss",
    "top1_correct": "solved",
    "top1_correct_a": "solved_a",
    "top1_correct_b": "solved_b",
}
for new, old in {"rank1_first": "answer_first", "rank1_stable": "answer_stays"}.items():
    for end in ("layer", "depth", "reason", "layer_a", "depth_a", "layer_b", "depth_b"):
        COLUMNS[f"{new}_{end}"] = f"{old}_{end}"
        COLUMNS[f"top10_first_{end}"] = f"answer_top10_{end}"


def write_kind(folder: Path, kind: str) -> Path:
    """A record of a kind: with rows where the harness has some to give."""
    if kind == "lens":
        write_record(folder, Settings(model="m", relations=2, per_relation=4))
    elif kind == "evaluation":
        write_evaluation(folder)
    elif kind == "trace":
        write_trace(folder)
    else:
        rows = {"responses": responses(retrieved=True, seed=1)} if kind == "inference" else {}
        write(folder, kind, rows)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of a manifest; ... removes one."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | changes
    write_manifest(folder, {k: v for k, v in manifest.items() if v is not ...})


def as_version_1(folder: Path) -> None:
    """The same record as an older lensbench would have left it."""
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        names = [COLUMNS.get(name, name) for name in table.column_names]
        pq.write_table(table.rename_columns(names), path)
    settings = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["settings"]
    edit(folder, schema_version=1, settings=settings | {"points": ["embed"], "phases": ["prompt"]})


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_kind(tmp_path / "record", request.param)


# --- every kind, of both versions


def test_every_kind_opens_with_its_tables(folder: Path) -> None:
    record = open_record(folder)
    assert record.tables[: len(KINDS[record.kind].names)] == KINDS[record.kind].names
    for name in record.tables:
        written = pq.read_table(folder / f"{name}.parquet")
        assert record.arrow(name).equals(written)
        pd.testing.assert_frame_equal(record.table(name), written.to_pandas())


def test_version_1_is_the_same_under_todays_names(folder: Path) -> None:
    names = open_record(folder).tables
    before = {name: pq.read_table(folder / f"{name}.parquet") for name in names}
    as_version_1(folder)
    record = open_record(folder)
    assert record.manifest["schema_version"] == 1
    assert (record.settings["sites"], record.settings["spans"]) == (["embed"], ["prompt"])
    assert not {"points", "phases"} & set(record.settings)
    for name, table in before.items():
        assert record.arrow(name).cast(TABLES[name].schema).equals(table)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_committed_records_have_the_values_that_were_written(path: Path) -> None:
    record = open_record(path)
    version = record.manifest["schema_version"]
    names = COLUMNS if version == 1 else {}
    for name in record.tables:
        written = pq.read_table(path / f"{name}.parquet")
        newer = {column.name for column in TABLES[name].columns if column.since > version}
        old = [column for column in TABLES[name].names if column not in newer]
        own = {names.get(column, column): column for column in old}
        read = record.arrow(name)
        assert read.select(old).equals(written.select(list(own)).rename_columns(list(own.values())))
        assert all(read[column].null_count == read.num_rows for column in newer)


def test_a_comparisons_runs_and_spans_have_todays_names() -> None:
    path = REPORTS / "002_layer_correlation" / "context-smollm2-135m-8"
    written = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    record = open_record(path)
    assert record.manifest["spans"] == written["phases"]
    assert record.settings["spans"] == written["settings"]["phases"]
    assert record.settings["inputs"].keys() == written["settings"]["inputs"].keys()


def test_names_that_a_user_gave_are_not_renamed(tmp_path: Path) -> None:
    """Runs may be called as entries once were."""
    runs = {"phase": {"phase": "prompt", "role": "reference"}, "points": {"phase": None}}
    folder = write(tmp_path, "correlation", {}, settings={"inputs": runs}, schema_version=1)
    edit(folder, phases={"prompt": {"prompts": {"phase": 3, "points": 3}}}, spans=...)
    record = open_record(folder)
    assert record.settings["inputs"] == {
        "phase": {"span": "prompt", "role": "reference"},
        "points": {"span": None},
    }
    assert record.manifest["spans"] == {"prompt": {"prompts": {"phase": 3, "points": 3}}}


def test_a_manifest_older_than_kinds_is_of_the_lens(tmp_path: Path) -> None:
    write_kind(tmp_path, "lens")
    edit(tmp_path, kind=...)
    assert isinstance(lb.open_record(tmp_path), LensRecord)


# --- what a record gives


@pytest.mark.parametrize("old", [False, True])
def test_columns_and_rows_are_chosen_on_disk(tmp_path: Path, old: bool) -> None:
    write_kind(tmp_path, "lens")
    whole = open_record(tmp_path).table("lens")
    if old:
        as_version_1(tmp_path)
    filters = [("site", "=", "embed"), ("is_last", "=", True)]
    some = open_record(tmp_path).table("lens", ["prompt_id", "site", "kl_bits"], filters)
    expected = whole[(whole.site == "embed") & whole.is_last][["prompt_id", "site", "kl_bits"]]
    pd.testing.assert_frame_equal(some, expected.reset_index(drop=True))
    assert 0 < len(some) < len(whole)


def test_a_table_that_no_such_record_has_is_told_from_one_that_is_missing(folder: Path) -> None:
    record = open_record(folder)
    for name in ("problem", "no such table", ""):
        what = rf"kind {record.kind}\) has no table '{name}'\. .*{record.tables[0]}"
        with pytest.raises(RecordsError, match=what):
            record.table(name)
    with pytest.raises(RecordsError, match=r"Did you mean problems\?"):
        record.table("problem")


def test_tables_are_read_when_they_are_asked_for(folder: Path) -> None:
    record = open_record(folder)
    (folder / "problems.parquet").unlink()
    with pytest.raises(RecordsError, match=r"problems\.parquet: this table is missing"):
        record.table("problems")


def test_a_whole_table_is_read_once(tmp_path: Path) -> None:
    record = open_record(write_kind(tmp_path, "lens"))
    assert record.table("lens") is record.table("lens")


def test_repr_says_what_is_inside(tmp_path: Path) -> None:
    shown = repr(open_record(write_kind(tmp_path / "r", "trace"))).splitlines()
    assert shown[0] == "trace record of tiny/model|a"
    assert (
        shown[1]
        == f"  made 2025-01-01 by lensbench 0.1.0, schema {SCHEMA_VERSION}, {tmp_path / 'r'}"
    )
    rows = pq.read_metadata(tmp_path / "r" / "activations.parquet").num_rows
    assert f"  activations        {rows:>9,} rows x 9 columns" in shown
    (tmp_path / "r" / "activations.parquet").write_bytes(b"torn")
    assert "activations        cannot be read" in repr(open_record(tmp_path / "r"))


def test_optional_tables_are_among_the_tables(tmp_path: Path) -> None:
    write_kind(tmp_path, "inference")
    assert open_record(tmp_path).tables == ["responses", "problems"]
    pq.write_table(TABLES["controls"].schema.empty_table(), tmp_path / "controls.parquet")
    assert open_record(tmp_path).tables == ["responses", "problems", "controls"]


def test_a_lens_record_gives_questions_and_curves(tmp_path: Path) -> None:
    record = open_lens_record(write_kind(tmp_path, "lens"))
    prompts, lens = record.table("prompts"), record.table("lens")
    plain = prompts[prompts[["control_of", "paraphrase_of", "reverse_of"]].isna().all(axis=1)]
    assert list(record.base_prompts.index) == list(plain.prompt_id)
    assert (record.main_lens, record.lenses) == ("final", record.settings["lenses"])
    curves = record.by_layer("kl_bits", record.base_prompts.index, "final")
    assert list(curves.columns) == list(range(record.n_layers + 1))
    for prompt, layer in ((curves.index[0], 0), (curves.index[-1], record.n_layers)):
        cell = lens[(lens.prompt_id == prompt) & (lens.layer == layer) & lens.is_last]
        assert curves.loc[prompt, layer] == cell[cell.lens == "final"].kl_bits.item()
    depths = record.milestones["rank1_first_layer"].astype(float) / record.n_layers
    np.testing.assert_array_equal(record.milestones["rank1_first_depth"], depths)


# --- residual vectors


def keep(folder: Path, version: int, record: str = "") -> None:
    """Two residual vectors beside a lens record, as its manifest stands."""
    settings = {"lenses": ["final"], "keep_residuals": True}
    settings |= {"points" if version == 1 else "sites": ["embed", "resid_post"]}
    edit(folder, schema_version=version, settings=settings)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    vectors = {tensor_name("embed", 0): torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    for name, data in shard(0, vectors, record or shards_of(manifest)).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    place = {"model": "m", "site": "embed", "layer": 0, "depth": 0.0, "n_generated_tokens": 0}
    place |= {"file": "residuals/000000.safetensors", "tensor": "embed.0", "n_prompt_tokens": 1}
    rows = {
        "residual_index": [place | {"prompt_id": id, "first_row": i} for i, id in enumerate("ab")],
        "residual_cells": [
            {"model": "m", "prompt_id": id, "position": 0, "token_id": 7} for id in "ab"
        ],
    }
    for name, own in rows.items():
        table = pa.Table.from_pylist(own, TABLES[name].schema)
        pq.write_table(table, folder / f"{name}.parquet")


@pytest.mark.parametrize("version", [1, SCHEMA_VERSION])
def test_kept_residuals_come_with_the_record(tmp_path: Path, version: int) -> None:
    """Shards of version 1 are bound to the settings as they were written, under the old names."""
    keep(write_kind(tmp_path, "lens"), version)
    residuals = open_record(tmp_path).residuals
    assert residuals is not None
    assert residuals.sites == [("embed", 0)]
    assert residuals.layer("embed", 0).tolist() == [[1, 2], [3, 4]]
    assert list(residuals.cells.prompt_id) == ["a", "b"]


def test_residuals_of_another_run_are_refused(tmp_path: Path) -> None:
    keep(write_kind(tmp_path, "lens"), SCHEMA_VERSION, record="another")
    residuals = open_record(tmp_path).residuals
    assert residuals is not None
    with pytest.raises(RecordsError, match="shard of another record"):
        residuals.layer("embed", 0)


def test_a_run_that_kept_none_has_none(tmp_path: Path) -> None:
    assert open_record(write_kind(tmp_path, "lens")).residuals is None


# --- what cannot be opened


def running_of_version_1(folder: Path) -> None:
    edit(folder, schema_version=1, status="running")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: edit(f, status="running"), "not complete .* it goes on where it stopped"),
        (running_of_version_1, "cannot go on with it. Delete its folder, or .* --out"),
        (lambda f: edit(f, schema_version=SCHEMA_VERSION + 1), "newer .* Upgrade lensbench"),
        (lambda f: edit(f, schema_version=...), "no schema_version"),
        (lambda f: edit(f, schema_version="2"), "no schema_version"),
        (lambda f: edit(f, kind="dream"), "kind 'dream' are not known here. Upgrade lensbench"),
        (lambda f: edit(f, settings=...), r"damaged \(no settings\)"),
        (lambda f: edit(f, gate=..., machine=...), r"damaged \(no machine, gate\)"),
        (lambda f: (f / "manifest.json").write_text("{half"), "damaged .*run the same"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda f: (f / "manifest.json").write_text("[]"), "no manifest of a lensbench record"),
    ],
)
def test_what_cannot_be_opened_names_the_file_and_the_remedy(
    folder: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    spoil(folder)
    with pytest.raises(RecordsError, match=said) as caught:
        open_record(folder)
    assert str(caught.value).startswith(str(folder / "manifest.json"))
    assert caught.value.__cause__ is None or "damaged" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "entry"),
    [(kind, entry.name) for kind in KINDS for entry in KINDS[kind].entries if not entry.absent],
)
def test_an_entry_of_the_kind_that_is_gone_is_named(tmp_path: Path, kind: str, entry: str) -> None:
    edit(write_kind(tmp_path, kind), **{entry: ...})
    with pytest.raises(RecordsError, match=rf"damaged \(no {entry}\)"):
        open_record(tmp_path)


@pytest.mark.parametrize("old", [False, True])
def test_tables_that_cannot_be_read_are_named(tmp_path: Path, old: bool) -> None:
    write_kind(tmp_path, "lens")
    if old:
        as_version_1(tmp_path)
    record, lens = open_record(tmp_path), tmp_path / "lens.parquet"
    whole = pq.read_table(lens)
    pq.write_table(whole.drop_columns(["kl_bits", "point" if old else "site"]), lens)
    with pytest.raises(RecordsError, match=r"lens\.parquet: no column site, kl_bits"):
        record.table("lens")
    assert len(record.table("lens", columns=["layer"])) == len(whole)
    lens.write_bytes(lens.read_bytes()[:-20])
    with pytest.raises(RecordsError, match=r"lens\.parquet: cannot be read .* run the same"):
        record.table("lens")
    lens.unlink()
    with pytest.raises(RecordsError, match=r"lens\.parquet: this table is missing"):
        record.table("lens")


def test_a_record_of_another_kind_is_no_lens_record(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match=r"of kind diff\. Name a record of `lensbench lens"):
        open_lens_record(write_kind(tmp_path, "diff"))


# --- finding


def test_the_only_record_beneath_a_folder_is_opened(tmp_path: Path) -> None:
    write_kind(tmp_path / "run" / "m", "lens")
    write_kind(tmp_path / "run" / ".runs" / "x", "trace")  # what others were made of
    (tmp_path / "run" / "index").mkdir()
    (tmp_path / "run" / "index" / "manifest.json").write_text('{"format": 1}')
    assert open_record(tmp_path / "run").folder == tmp_path / "run" / "m"
    write_kind(tmp_path / "run" / "n", "diff")
    with pytest.raises(RecordsError, match=r"there are 2 records here\. Name one: .*m, .*n"):
        open_record(tmp_path / "run")
    assert find_records([tmp_path, tmp_path / "run"]) == [
        tmp_path / "run" / "m",
        tmp_path / "run" / "n",
    ]


def test_nothing_to_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no such folder"):
        open_record(tmp_path / "nowhere")
    with pytest.raises(RecordsError, match="no records here"):
        open_record(str(tmp_path))
