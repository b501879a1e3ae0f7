"""A pilot of a lens run is widened: what was measured stays byte for byte, the rest is measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from lensbench.lens.vocabulary import bound
from lensbench.progress import Progress
from lensbench.prompts.prompt import added, choose
from lensbench.prompts.sets import load_prompts
from lensbench.records.open import open_lens_record
from lensbench.records.read import sealed
from lensbench.report.build import build_report
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.files import contents, manifest, tables, write_csv
from tests.harness.tiny import Case

KEYS = {"lens": ["prompt_id", "lens", "position", "layer"], "milestones": ["prompt_id", "lens"]}


def rows(frame: pd.DataFrame) -> set[str]:
    """Every row as text, to the last digit; pandas makes floats of whole numbers beside a null."""
    numbers = frame.select_dtypes("number").columns
    return {repr(row) for row in frame.astype(dict.fromkeys(numbers, float)).to_dict("records")}


def record_of(spec: RunSpec, out: Path) -> Path:
    outcome = run(spec, out)
    assert not outcome.failed, outcome.failed
    return outcome.folder


@pytest.mark.parametrize("limit", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_rows_of_a_pilot_are_untouched_and_the_rest_is_as_in_a_run_of_all(
    spec: Callable[..., RunSpec], done: Path, tmp_path: Path, limit: int
) -> None:
    """With 2 the pilot lacks relations of the set, and with them categories."""
    pilot = tables(record_of(spec(limit=limit), tmp_path))
    folder = record_of(spec(), tmp_path)
    wide, whole = tables(folder), tables(done)
    assert set(wide) == set(whole)
    for name in ("lens", "milestones"):
        assert rows(pilot[name]) < rows(wide[name])
    pd.testing.assert_frame_equal(wide["prompts"], whole["prompts"])
    for name, keys in KEYS.items():
        ours, theirs = (frame[name].sort_values(keys, ignore_index=True) for frame in (wide, whole))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3, atol=1e-4)  # other batches
    shown = wide["lens"][~wide["lens"].is_last].prompt_id.unique()
    assert len(shown) == 2  # heat maps, no more than were asked for
    made = manifest(folder)
    assert (made["status"], made["settings"]["limit"]) == ("complete", None)
    assert made["settings"]["n_prompts"] == len(whole["prompts"])
    (narrower,) = made["widened"]
    assert narrower["settings"] == {"limit": limit, "n_prompts": 3 * limit}
    assert made["gate"][0]["error"] >= narrower["gate"][0]["error"]
    assert made["gate"][0]["passed"]


def test_a_widened_record_is_a_record_like_others(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """With residual vectors: old shards stay, new ones have numbers of their own."""
    folder = record_of(spec(limit=3, keep_residuals=True), tmp_path)
    shards = contents(folder / "residuals")
    assert record_of(spec(limit=8, keep_residuals=True), tmp_path) == folder
    now = contents(folder / "residuals")
    assert {name: now[name] for name in shards} == shards
    assert len(now) > len(shards)
    record = open_lens_record(folder)
    assert record.residuals is not None
    assert set(record.residuals.prompt_ids) == set(record.prompts.index)
    assert all(what is None for _, what in record.residuals.verify())
    told: list[Progress] = []
    run(spec(limit=8, keep_residuals=True), tmp_path, told.append)
    assert [now.stage.split()[0] for now in told] == ["hashing"]  # it is finished


def test_an_unfinished_pilot_is_widened_too(
    spec: Callable[..., RunSpec], done: Path, tmp_path: Path
) -> None:
    def stop(now: Progress) -> None:
        if now.unit == "batches" and now.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec(limit=6), tmp_path, stop)
    folder = record_of(spec(), tmp_path)
    pd.testing.assert_frame_equal(tables(folder)["prompts"], tables(done)["prompts"])
    assert [each["status"] for each in manifest(folder)["widened"]] == ["running"]
    assert manifest(folder)["resumed_batches"] == 2


def said_of_exactness(folder: Path) -> list[str]:
    """Which of these the record's report has."""
    text = "".join(path.read_text() for path in build_report([folder]) if path.suffix == ".md")
    said = r"[\d,]+ of (?:the )?[\d,]+ readings|an unknown share|% of all logits"
    return re.findall(said, text)


@pytest.mark.parametrize("products", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_what_was_made_again_is_counted_of_all_widenings(
    spec: Callable[..., RunSpec],
    llama: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    products: str,
) -> None:
    """With no error allowed every reading is made again, whichever session measured it."""
    monkeypatch.setattr(bound, "BITS", -1.0)

    def stop(now: Progress) -> None:
        if now.unit == "batches" and now.done == now.total - 1:
            raise KeyboardInterrupt

    each = [manifest(record_of(spec(limit=2, products=products), tmp_path))]
    each.append(manifest(record_of(spec(limit=3, products=products), tmp_path)))
    with pytest.raises(KeyboardInterrupt):
        run(spec(limit=5, products=products), tmp_path, stop)
    folder = record_of(spec(limit=6, products=products), tmp_path)
    each.append(manifest(folder))
    n_rows = len(tables(folder)["lens"])
    assert each[-1]["read_again"] == {"n_rows": n_rows, "n_read_again": n_rows}
    if products == "bfloat16":
        told = [one["recomputed"] for one in each]
        for name in ("n", "n_logits", "worst_error_roundings"):
            assert told[0][name] <= told[1][name] <= told[2][name]
        assert told[-1]["n_logits"] == n_rows * llama.model.d_vocab
        assert told[-1]["share"] == told[-1]["n"] / told[-1]["n_logits"]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_of_a_record_that_an_older_lensbench_began_only_what_is_known_is_said(
    spec: Callable[..., RunSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: bool,
) -> None:
    """Of its products the share, without counts; of its readings how many, or nothing."""
    monkeypatch.setattr(bound, "BITS", -1.0)
    folder = record_of(spec(limit=2, products="bfloat16"), tmp_path)
    n_before = len(tables(folder)["lens"])
    old = manifest(folder)
    old["recomputed"] = {key: old["recomputed"][key] for key in ("share", "worst_error_roundings")}
    if not kept:
        del old["read_again"]
    (folder / "manifest.json").write_text(json.dumps(sealed(old)), encoding="utf-8")
    assert said_of_exactness(folder)[-1] == "% of all logits"  # all of it, although not the counts
    assert record_of(spec(limit=3, products="bfloat16"), tmp_path) == folder
    n_rows = len(tables(folder)["lens"])
    n_known = n_rows if kept else n_rows - n_before
    made = manifest(folder)
    assert made["read_again"] == {"n_rows": n_known, "n_read_again": n_known}
    assert "recomputed" not in made
    last = f"{n_known} of {n_known} readings" if kept else f"{n_known} of the {n_known} readings"
    assert said_of_exactness(folder) == [last, "an unknown share"]
    made |= {"recomputed": old["recomputed"]}  # as an older one wrote it: of the last widening
    (folder / "manifest.json").write_text(json.dumps(sealed(made)), encoding="utf-8")
    assert said_of_exactness(folder) == [last, "an unknown share"]


def test_a_prompt_that_could_not_be_asked_stays_a_problem(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    lines = [
        {"id": f"{word}-{i}", "relation": "capital", "prompt": prompt, "answer": "Rome"}
        for i in range(3)
        for word, prompt in (("long", "The capital " * 60), ("good", f"Berlin {i} is"))
    ]
    path = str(write_csv(tmp_path / "some.csv", lines))
    first = run(spec(prompts=path, limit=2), tmp_path / "out")
    assert [problem.prompt_id for problem in first.problems] == ["long-0"]
    wide = run(spec(prompts=path, limit=6), tmp_path / "out")
    assert [problem.prompt_id for problem in wide.problems] == ["long-0", "long-1", "long-2"]
    found = tables(wide.folder)
    assert found["problems"].prompt_id.tolist() == ["long-0", "long-1", "long-2"]
    assert found["prompts"].prompt_id.tolist() == ["good-0", "good-1", "good-2"]


@pytest.mark.parametrize("limits", [(1, 2, 30), (20, 40), (5, None), (None,)])
def test_a_limit_adds_to_smaller_ones_and_all_come_once(limits: tuple[int | None, ...]) -> None:
    prompts = load_prompts("facts").prompts
    stages = added(prompts, limits)
    for i, limit in enumerate(limits):
        so_far = {prompt.id for stage in stages[: i + 1] for prompt in stage}
        assert so_far == {prompt.id for prompt in choose(prompts, limit)}
    everything = [prompt.id for stage in stages for prompt in stage]
    assert len(everything) == len(set(everything))
