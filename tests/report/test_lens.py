"""The report of lens records: numbers by hand, every one traceable, what is missing said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lensbench.records.lens.record import LensRecord
from lensbench.report.build import build_report
from lensbench.report.kit.markdown import cell, markdown_table
from lensbench.report.lens import anomalies, comparison, contrasts, curves, headlines
from lensbench.report.lens.lenses import sensitivity
from lensbench.report.lens.tables import model_tables
from lensbench.stats.estimates import NO_RELATION, Estimate
from tests.harness.lens_records import Settings, edited, write_run
from tests.harness.reports import lens_records_in, section_of


def one(run: Path) -> LensRecord:
    """The first lens record of a run."""
    return next(iter(lens_records_in([run]).values()))


def test_every_number_in_a_markdown_table_is_in_its_csv(run: Path, built: Path) -> None:
    tables = model_tables(one(run))
    text = (built / "tiny-model-a" / "report.md").read_text(encoding="utf-8")
    for table in tables.values():
        csv = pd.read_csv(built / "tiny-model-a" / "tables" / f"{table.name}.csv")
        assert len(csv) == len(table.frame), table.name
        for column in table.frame:
            for shown, (_, row) in zip(table.frame[column], csv.iterrows(), strict=True):
                if isinstance(shown, Estimate) and shown.low is not None:
                    again = Estimate(
                        row[column], row[f"{column}_low"], row[f"{column}_high"], shown.n, 2
                    )
                    assert cell(again, str(column)) == cell(shown, str(column))
    for name in ("coverage", "relations", "controls", "category", "sensitivity", "late_binding"):
        assert markdown_table(tables[name].frame) in text


def test_numbers_in_prose_name_the_table_they_are_in(built: Path) -> None:
    text = (built / "tiny-model-a" / "report.md").read_text(encoding="utf-8")
    overview = text.split("## Overview")[1].split("## How to read")[0]
    coverage = pd.read_csv(built / "tiny-model-a" / "tables" / "coverage.csv").iloc[0]
    shown = f"{100 * coverage['top1_accuracy']:.1f} % [{100 * coverage['top1_accuracy_low']:.1f}"
    assert f"{shown}, {100 * coverage['top1_accuracy_high']:.1f}]" in overview
    for name in ("coverage", "late_binding", "category", "controls"):
        assert f"(tables/{name}.csv)" in overview


def test_tokens_and_prompts_cannot_break_out(built: Path) -> None:
    for report in built.rglob("report.md"):
        text = report.read_text(encoding="utf-8")
        assert "<script>" not in text
        assert "\u202e" not in text
        assert "\n# no heading" not in text
    page = (built / "report.html").read_text(encoding="utf-8")
    data = page.split('id="data">')[1].split("</script>")[0]
    assert not set(data) & set("<>&")
    words = json.loads(data)["words"]
    assert "<script>alert(1)</script>" in words
    assert "\\u202etxt" in words
    assert "tiny/model|a" in page


def test_cross_model_numbers_are_paired_by_prompt(run: Path, built: Path) -> None:
    pair = pd.read_csv(built / "tables" / "pairs.csv").iloc[0]
    sides = []
    for record in lens_records_in([run]).values():
        rows = record.milestones[record.milestones["lens"] == "final"].set_index("prompt_id")
        rows = rows[~rows.index.str.contains("-[cpr]$")]
        sides.append(rows["rank1_first_depth"].where(rows["top1_correct"]))
    difference = (sides[1] - sides[0]).dropna()
    assert pair["n_both_correct"] == len(difference)
    assert pair["rank1_first_difference_pp"] == pytest.approx(difference.median())


def test_milestones_by_hand(tmp_path: Path) -> None:
    """Four answered prompts at layers 2, 4, 6 and 8 of 8, one unsolved: the median depth is 5/8."""
    settings = Settings(
        model="m", n_layers=8, relations=2, per_relation=3, lenses=("final",), heatmap_prompts=0
    )
    run = write_run(tmp_path / "run", settings)
    layers = {"r0-00": 2, "r0-01": 4, "r1-00": 6, "r1-01": 8}

    def edit(row: dict[str, object]) -> dict[str, object]:
        layer = layers.get(str(row["prompt_id"]))
        reason = None if layer else "never at rank 1"
        answer = {"rank1_first_layer": layer, "rank1_first_reason": reason}
        return row | answer | {"top1_correct": layer is not None, "rank1_first_depth": 0.99}

    edited(run, "milestones", edit)
    record = one(run)
    depth = headlines.milestone_depth(record, "rank1_first")
    assert depth.value == 5 / 8
    assert (depth.n, depth.n_clusters) == (4, 2)
    coverage = headlines.coverage_table(record).iloc[0]
    assert coverage["top1_accuracy"].value == pytest.approx(4 / 6)
    verdict = headlines.verdict_table(record).iloc[0]
    assert verdict["verdict"] == "cannot tell"
    assert verdict["reason"] == "4 correct prompts, fewer than 20"


@pytest.mark.parametrize("named", [1, 2, 0], ids=["one", "two", "none"])
def test_relations_are_counted_where_there_are_some(tmp_path: Path, named: int) -> None:
    """Prompts without a relation stand for themselves, and are no relations."""
    settings = Settings(model="m", relations=named or 2, per_relation=5, lenses=("final",))
    run = write_run(tmp_path / "run", settings)
    if not named:
        edited(run, "prompts", lambda row: row | {"relation": NO_RELATION})
    counted = {
        table.name: table.frame["n_relations"].max()
        for table in model_tables(one(run)).values()
        if "n_relations" in table.frame
    }
    assert set(counted) >= {"late_binding", "coverage"}
    assert {name: n for name, n in counted.items() if n > named} == {}


def test_category_before_instance_by_hand(tmp_path: Path) -> None:
    settings = Settings(
        model="m", relations=1, per_relation=4, lenses=("final",), heatmap_prompts=0
    )
    run = write_run(tmp_path / "run", settings)
    # prompt -> layers of category, null category and answer in the top 10
    layers = {
        "r0-00": (3, None, 5),  # before
        "r0-01": (5, 4, 5),  # together is not before; the null is before
        "r0-02": (7, None, None),  # the answer never: before
        "r0-03": (None, 2, 4),  # the category never: not before
    }

    def edit(row: dict[str, object]) -> dict[str, object]:
        found = layers.get(str(row["prompt_id"]), (None, None, None))
        names = ("category_top10", "null_category_top10", "top10_first")
        reasons = {f"{n}_reason": None if k else "never" for n, k in zip(names, found, strict=True)}
        at = {f"{n}_layer": layer for n, layer in zip(names, found, strict=True)}
        return row | at | reasons

    edited(run, "milestones", edit)
    row = contrasts.category_table(one(run)).iloc[0]
    assert row["category_first_share"].value == 0.5
    assert row["null_first_share"].value == 0.5
    assert row["difference_pp"].value == 0
    assert row["difference_pp"].reason == "1 relation: no interval"


def test_chance_is_the_mean_over_all_deals() -> None:
    tops, own = ["a", "b", "b"], [frozenset("a"), frozenset("ab"), frozenset("c")]
    seen, chance = curves.own_and_chance(tops, own)
    assert seen.tolist() == [1, 1, 0]
    assert chance.tolist() == pytest.approx([1 / 3, 1, 0])
    rng = np.random.default_rng(0)
    deals = [[t in o for t, o in zip(rng.permutation(tops), own, strict=True)] for _ in range(4000)]
    assert np.mean(deals, axis=0) == pytest.approx(chance, abs=0.03)


def test_anomalies_are_the_unexplained_middle_cells(run: Path) -> None:
    record = list(lens_records_in([run]).values())[1]
    cells, shares = anomalies.cells_table(record), anomalies.share_table(record)
    prompts = record.prompts
    assert len(cells) == shares["anomalies"].iloc[0] > 0
    assert cells["depth"].between(0.25, 0.75).all()
    assert cells["prob"].is_monotonic_decreasing
    for row in cells.to_dict("records"):
        prompt = prompts.loc[row["prompt_id"]]
        assert row["token"] not in {*prompt["tokens"], prompt["answer_token"], "|"}


def test_sensitivity_flags_the_lens_that_changes_the_conclusion(tmp_path: Path) -> None:
    settings = Settings(model="m", n_layers=12, relations=8, per_relation=8, heatmap_prompts=0)
    record = one(write_run(tmp_path / "run", settings))
    table = sensitivity.sensitivity_table(record).set_index("lens")
    assert table.loc["final", "verdict_changes"] == "reference"
    assert table.loc["next", "verdict_changes"] == "no"
    assert table.loc["raw", "verdict_changes"].startswith("yes: ")
    build_report([tmp_path / "run"])
    report = (tmp_path / "run" / "m" / "report.md").read_text(encoding="utf-8")
    assert "With the lens raw a verdict changes" in report


def test_missing_values_are_shown_with_their_reason(tmp_path: Path) -> None:
    """One relation, nothing answered, one lens, no heat map: a report all the same."""
    settings = Settings(
        model="m",
        relations=1,
        per_relation=2,
        top1_accuracy=0,
        lenses=("final",),
        heatmap_prompts=0,
        dtype="bfloat16",
        extra={"git": None},
    )
    run = write_run(tmp_path / "run", settings)
    build_report([run])
    text = (run / "m" / "report.md").read_text(encoding="utf-8")
    assert "n/a (no correct prompts)" in text
    assert "1 relation: no interval" in text
    assert "n/a (no prompt was recorded at all positions)" in text
    limitations = text.split("## Limitations")[1]
    for words in ("Few prompts: 2", "Few relations: 1", "Low coverage", "One lens only"):
        assert words in limitations
    assert "bfloat16, not float32" in limitations
    assert "not from a git checkout" in limitations
    assert re.search(r"\bnan\b", text, re.IGNORECASE) is None


def test_prompts_without_answers_still_make_a_report(tmp_path: Path) -> None:
    settings = Settings(model="m", per_relation=3, lenses=("final",))
    run = write_run(tmp_path / "run", settings)
    gone = ["answer", "answer_id", "answer_token", "answer_shared_with", "answer_prob"]
    gone += ["answer_rank", "answer_margin_bits", "category", "category_id", "category_rank"]
    gone += ["null_category", "null_category_id", "null_category_rank", "top1_correct"]
    gone += ["control_of", "reverse_of"]
    for table in ("prompts", "lens", "milestones"):
        edited(run, table, lambda row: row | {name: None for name in gone if name in row})
    build_report([run])
    text = (run / "m" / "report.md").read_text(encoding="utf-8")
    n = len(one(run).base_prompts)
    assert f"Base prompts without an answer: {n} of {n}" in text
    assert f"None of its {n} base prompts has an answer" in text
    assert "n/a (no prompts with a category word)" in text
    record = one(run)
    assert (
        len(comparison.shared_prompts(*[comparison.compared(record)] * 2))
        == len(record.base_prompts)
        > 0
    )


def test_a_prompt_that_was_skipped_leaves_those_that_belong_to_it(tmp_path: Path) -> None:
    """A model whose tokenizer lacks an answer skips the prompt; its controls may be there."""
    run = write_run(tmp_path, Settings(model="m", n_layers=4, relations=2, lenses=("final",)))
    for table in ("prompts", "lens", "milestones"):
        path = next(run.rglob(f"{table}.parquet"))
        old = pq.read_table(path)
        pq.write_table(old.filter(pc.not_equal(old["prompt_id"], "r0-00")), path)
    record = one(run)
    assert "r0-00" in set(record.prompts["control_of"])
    assert model_tables(record)["coverage"].row(prompts="base")["n_prompts"] == 15
    assert section_of(record).title
