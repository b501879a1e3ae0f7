"""A lens study: four tables by contract, and again, and with other settings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lensbench.errors import InputProblems, RecordsError
from lensbench.files import sha256_of
from lensbench.progress import Progress
from lensbench.records.schema import KINDS, TABLES
from lensbench.records.schema.lens import MILESTONES
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import BASE_COLUMNS, FACTS, N_BASE, N_ROWS, facts_rows
from tests.harness.files import manifest, table_bytes, tables, write_csv
from tests.harness.tiny import Case

TABLE_FILES = [f"{name}.parquet" for name in KINDS["lens"].names]


# --- one undisturbed run ------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS["lens"].names)
def test_each_table_follows_its_schema(done: Path, name: str) -> None:
    table = pq.read_table(done / f"{name}.parquet")
    assert table.schema.equals(TABLES[name].schema)
    assert table.schema.metadata is None
    assert (table.num_rows == 0) == (name == "problems")


def test_every_prompt_is_there_in_the_order_of_the_file(done: Path) -> None:
    prompts = tables(done)["prompts"]
    assert prompts.prompt_id.tolist() == [row["id"] for row in facts_rows()]
    assert (prompts.n_tokens == prompts.tokens.map(len)).all()
    assert prompts.category.isna().sum() == 6  # the rivers


def test_every_base_prompt_is_read_under_every_lens_at_every_layer(done: Path, llama: Case) -> None:
    lens = tables(done)["lens"]
    last = lens[lens.is_last]
    counts = last.groupby(["prompt_id", "lens"]).layer.apply(sorted)
    layers = list(range(llama.model.n_layers + 1))
    assert all(found == layers for found in counts)
    base = [row["id"] for row in facts_rows() if set(row) == BASE_COLUMNS]
    assert len(base) == N_BASE
    assert {(i, name) for i in base for name in ("final", "next", "raw")} <= set(counts.index)
    assert set(last.prompt_id) == {row["id"] for row in facts_rows()}


def test_some_base_prompts_are_read_at_every_position(done: Path) -> None:
    found = tables(done)
    earlier = found["lens"][~found["lens"].is_last]
    assert set(earlier.lens) == {"final"}
    assert list(dict.fromkeys(earlier.prompt_id)) == ["capital-Germany", "river-Germany"]
    lengths = found["prompts"].set_index("prompt_id").n_tokens
    for item, part in earlier.groupby("prompt_id"):
        assert set(part.position) == set(range(lengths[item] - 1))


def test_values_stay_within_their_ranges(done: Path) -> None:
    lens = tables(done)["lens"]
    assert lens.entropy_bits.between(0, 9).all()  # log2(384) = 8.6
    assert (lens.kl_bits > -1e-4).all()
    assert lens.answer_prob.between(0, 1).all()
    assert (lens.answer_rank >= 1).all()
    assert (lens.depth == lens.layer / 3).all()
    assert lens.next_surprisal_bits.isna().equals(lens.is_last)
    assert (lens.top_ids.map(len) == 3).all()
    model_itself = lens[(lens.layer == 3) & (lens.lens == "final")]
    assert (model_itself.kl_bits < 1e-4).all()


def test_each_prompt_has_its_milestones(done: Path) -> None:
    found = tables(done)
    milestones = found["milestones"].set_index(["prompt_id", "lens"])
    last = found["lens"][found["lens"].is_last]
    assert set(milestones.index) == set(zip(last.prompt_id, last.lens, strict=True))
    for name in MILESTONES:
        layer, reason = milestones[f"{name}_layer"], milestones[f"{name}_reason"]
        assert (layer.isna() == reason.notna()).all()
    assert (milestones.top1_correct.notna()).all()


def test_the_manifest_says_how_to_make_the_record_again(
    done: Path, llama: Case, facts: Path
) -> None:
    found = manifest(done)
    assert found["status"] == "complete"
    assert found["problems"] == found["resumed_batches"] == 0
    assert found["model"]["name"] == str(llama.folder)
    assert found["model"]["source"] == llama.folder.name
    assert (found["model"]["dtype"], found["model"]["device"]) == ("float32", "cpu")
    for key in ("weights_sha256", "tokenizer_sha256"):
        assert len(found["model"][key]) == 64
    assert found["settings"]["prompts"] == facts.name  # not where it lies on this machine
    assert found["settings"]["prompts_sha256"] == sha256_of(facts)
    assert found["settings"]["n_prompts"] == N_ROWS
    assert [check["passed"] for check in found["gate"]] == [True] * 5
    assert found["gate"][0]["error"] < found["gate"][0]["bound"] == 1e-4
    assert found["wall_s"] > 0
    assert found["peak_memory_bytes"] > 1e8


def test_the_parts_are_gone_when_the_tables_are_there(done: Path) -> None:
    shown = [path.name for path in done.iterdir() if path.name != ".lock"]
    assert sorted(shown) == sorted([*TABLE_FILES, "manifest.json"])


# --- again, and other settings ------------------------------------------------------------------


def copied(done: Path, tmp_path: Path) -> Path:
    """The finished record in a run folder of this test's own."""
    shutil.copytree(done, tmp_path / "run" / done.name)
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_second_run_does_nothing(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(done, tmp_path)
    before = contents(out)

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("lensbench.models.load.load_model", unwanted)
    outcome = run(spec(), out)
    assert outcome.ok
    assert [folder.name for folder in outcome.folders] == [done.name]
    assert contents(out) == before


def test_another_path_to_the_same_prompt_file_is_the_same_run(
    done: Path,
    tmp_path: Path,
    spec: Callable[..., RunSpec],
    facts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = copied(done, tmp_path)
    before = contents(out)
    monkeypatch.chdir(facts.parent)
    assert run(spec(prompts=facts.name), out).ok
    assert contents(out) == before


def test_a_record_says_how_many_tokens_were_in_a_pass(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    assert run(spec(batch_tokens=None, limit=2), tmp_path).ok
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert manifest(folder)["settings"]["batch_tokens"] == 512  # the CPU's, as before
    again = run(spec(batch_tokens=512, limit=2), tmp_path)
    assert again.ok and again.folders == [folder]


def test_a_folder_made_by_other_settings_is_refused_and_kept(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    out = copied(done, tmp_path)
    before = contents(out)
    outcome = run(spec(top_k=4, limit=2), out)
    (error,) = outcome.failed.values()
    assert isinstance(error, RecordsError)
    assert "settings.top_k: 3 there, 4 now" in str(error)
    assert "settings.limit: None there, 2 now" in str(error)
    assert contents(out) == before


def test_a_folder_made_from_another_prompt_file_is_refused(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec], facts: Path
) -> None:
    out = copied(done, tmp_path)
    changed = write_csv(tmp_path / facts.name, facts_rows()[:-3])
    (error,) = run(spec(prompts=str(changed)), out).failed.values()
    assert "settings.prompts_sha256" in str(error)


def test_two_runs_give_the_same_bytes(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    outcome = run(spec(), tmp_path)
    assert table_bytes(outcome.folders[0]) == table_bytes(done)


def test_a_larger_limit_only_adds_prompts(tmp_path: Path, spec: Callable[..., RunSpec]) -> None:
    asked = {}
    for limit in (4, 6):
        outcome = run(spec(limit=limit, heatmap_prompts=0), tmp_path / str(limit))
        prompts = tables(outcome.folders[0])["prompts"]
        asked[limit] = set(prompts.prompt_id)
        base = prompts[prompts.control_of.isna() & prompts.paraphrase_of.isna()]
        assert len(base) == limit
        assert len(prompts) == 3 * limit
        assert set(base.relation) == set(FACTS)  # every relation keeps its share
    assert asked[4] < asked[6]


def test_only_some_relations(tmp_path: Path, spec: Callable[..., RunSpec]) -> None:
    outcome = run(spec(relations=("river",), heatmap_prompts=0), tmp_path)
    assert set(tables(outcome.folders[0])["prompts"].relation) == {"river"}


def test_an_unknown_relation_stops_the_run_before_anything_is_written(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    with pytest.raises(InputProblems, match="no relation 'colour'"):
        run(spec(relations=("colour",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_stage_is_named_before_it_begins_and_says_what_it_counts(
    spec: Callable[..., RunSpec], llama: Case, tmp_path: Path
) -> None:
    told: list[Progress] = []
    run(spec(limit=2), tmp_path, told.append)
    name = str(llama.folder)
    stages = [
        f"{what} {name}" for what in ("hashing the weights of", "loading", "testing the gate of")
    ]
    assert list(dict.fromkeys(now.stage for now in told)) == [*stages, name]
    assert all(now.total is None for now in told[:3])
    counted = told[3:]
    assert {(now.total, now.unit) for now in counted} == {(counted[-1].done, "batches")}
    assert [now.done for now in counted] == list(range(len(counted)))
