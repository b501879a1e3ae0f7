"""Lenses side by side in a report: numbers by hand, the rule and the verdicts in words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench.records.lens.kind import OWN
from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.lens import GUESSED
from lensbench.report.build import build_report
from lensbench.report.kit.views import Lines
from lensbench.report.lens.lenses import depths, verdicts
from lensbench.report.lens.page import records_page
from lensbench.report.lens.tables import model_tables
from tests.harness.lens_records import Settings, edited, fitted, write_run
from tests.harness.reports import lens_records_in, section_of

N = 10  # layers
Layers = tuple[int | None, int | None]  # of the first and the stable rank 1
FACTS: dict[str, dict[str, Layers]] = {
    # prompt -> lens -> layers
    "r0-00": {"final": (8, 8), "linear": (4, 4)},
    "r0-01": {"final": (9, 9), "linear": (3, 8)},  # read, forgotten, read again
    "r0-02": {"final": (10, 10), "linear": (10, 10)},
    "r1-00": {"final": (2, 9), "linear": (5, 5)},  # by final: a chance hit at layer 2
    "r1-01": {"final": (9, 9), "linear": (8, 8)},
    "r1-02": {"final": (None, None), "linear": (1, None)},  # not top-1 correct: counts nowhere
}


def lenses(**told: dict[str, Any]) -> dict[str, Any]:
    """The `lenses` of a manifest."""
    return {"final": asdict(OWN["final"]), "raw": asdict(OWN["raw"]), **told}


def record_of(folder: Path, told: dict[str, Any], **changes: Any) -> LensRecord:
    """Six facts in two relations, read by final, raw and linear."""
    settings = Settings(
        model="m", n_layers=N, relations=2, per_relation=3, heatmap_prompts=1,
        lenses=("final", "raw", "linear"), extra={"lenses": told},
    )  # fmt: skip
    for name, value in changes.items():
        setattr(settings, name, value)
    run = write_run(folder / "run", settings)
    return next(iter(lens_records_in([run]).values()))


def by_hand(row: dict[str, Any]) -> dict[str, Any]:
    """A milestone row as FACTS has it."""
    if row["prompt_id"] not in FACTS or row["lens"] == "raw":
        return row
    first, stable = FACTS[row["prompt_id"]][row["lens"]]
    found = {"rank1_first": first, "rank1_stable": stable}
    layers = {f"{name}_layer": layer for name, layer in found.items()}
    reasons = {f"{n}_reason": "never" if k is None else None for n, k in found.items()}
    return (
        row | layers | reasons | {"top1_correct": FACTS[row["prompt_id"]]["final"][1] is not None}
    )


def ranks(row: dict[str, Any]) -> dict[str, Any]:
    """A reading as FACTS has it: at rank 1 at the first layer and from the stable one on."""
    if row["prompt_id"] not in FACTS or row["lens"] == "raw" or not row["is_last"]:
        return row
    first, stable = FACTS[row["prompt_id"]][row["lens"]]
    at = row["layer"] == first or (stable is not None and row["layer"] >= stable)
    return row | {"answer_rank": 1 if at else 20 + row["layer"]}


@pytest.fixture
def record(tmp_path: Path) -> LensRecord:
    told = lenses(linear=fitted(2.0, 20.0))
    record_of(tmp_path, told)
    edited(tmp_path / "run", "milestones", by_hand)
    edited(tmp_path / "run", "lens", ranks)
    return next(iter(lens_records_in([tmp_path / "run"]).values()))


def test_the_main_lens_is_the_nearest_and_final_stands_beside_it(record: LensRecord) -> None:
    assert record.main_lens == "linear"
    assert record.headline_lenses == ["linear", "final"]
    table = verdicts.verdicts_table(record).set_index(["lens", "emergence"])
    first = table["median_depth"].xs("first at rank 1", level=1).map(lambda e: e.value)
    assert first.to_dict() == {"linear": 0.5, "final": 0.9}  # of .4 .3 1 .5 .8 and .8 .9 1 .2 .9
    assert table.loc[("linear", "first at rank 1"), "held_out_kl_bits"] == 2.0
    assert table.loc[("linear", "first at rank 1"), "held_out_final_kl_bits"] == 20.0


def test_depths_are_paired_fact_by_fact(record: LensRecord) -> None:
    table = depths.depths_table(record).set_index("emergence")
    first, stable = (table.loc[f"{kind} at rank 1"] for kind in ("first", "stable"))
    assert first["difference_pp"].value == pytest.approx(-0.1)  # of -.4 -.6 0 +.3 -.1
    assert stable["difference_pp"].value == pytest.approx(-0.1)  # of -.4 -.1 0 -.4 -.1
    assert first[["n_both_read", "n_earlier", "n_same", "n_later"]].tolist() == [5, 3, 1, 1]
    assert stable[["n_both_read", "n_earlier", "n_same", "n_later"]].tolist() == [5, 4, 1, 0]
    assert set(table["lens"]) == {"linear"}
    assert set(table["minus"]) == {"final"}


def test_relations_that_move_most_come_first(record: LensRecord) -> None:
    table = depths.relations_table(record)
    assert table["relation"].tolist() == ["relation 0", "relation 1"]
    moved = table["rank1_first_difference_pp"].map(lambda e: e.value).tolist()
    assert moved == pytest.approx([-0.4, 0.1])
    assert table["n_rank1_first"].tolist() == [3, 2]


def test_what_is_read_early_forgotten_and_read_again_is_counted(record: LensRecord) -> None:
    table = depths.forgotten_table(record).set_index("lens")
    assert table["n_read"].to_dict() == {"linear": 5, "final": 5}
    assert table["n_forgotten"].to_dict() == {"linear": 1, "final": 1}
    assert table.loc["linear", "forgotten_share"].value == pytest.approx(0.2)
    assert table.loc["final", "from_first_to_stable_pp"].value == pytest.approx(0.7)
    facts = depths.forgotten_facts(record).set_index("prompt_id")
    assert facts.index.tolist() == ["r1-00", "r0-01"]  # the longest way first
    assert facts.loc["r0-01", "lens"] == "linear"
    assert facts.loc["r0-01", "forgotten_at_layers"] == "4, 5, 6, 7"
    assert facts.loc["r0-01", "worst_rank"] == 27
    assert facts.loc["r0-01", ["first_layer", "stable_layer"]].tolist() == [3, 8]


def test_the_curves_of_each_lens_are_its_own(record: LensRecord) -> None:
    tables = model_tables(record)
    by_lens = tables["lens_emergence"].frame
    own = by_lens[by_lens["lens"] == "linear"].set_index("layer")["answer_rank1_share"]
    assert own[5].value == pytest.approx(2 / 6)  # r0-00 and r1-00
    main = tables["emergence"].frame.set_index("layer")["answer_rank1_share"]
    assert main.map(lambda e: e.value).to_dict() == own.map(lambda e: e.value).to_dict()
    final = by_lens[by_lens["lens"] == "final"].set_index("layer")["answer_rank1_share"]
    assert final[2].value == pytest.approx(1 / 6)  # the chance hit
    assert final[8].value == pytest.approx(1 / 6)  # r0-00


def test_the_headline_names_the_lens_and_its_rule(record: LensRecord) -> None:
    section = section_of(record)
    for text in (section.headline, section.text):
        assert "by the lens linear, which has the lowest held-out KL at this model" in text
    assert "by final 90" in section.headline
    assert {"depth_curves", "emergence"} <= set(section.figures)
    for make in section.figures.values():
        assert make().startswith(b"<?xml")


def test_lenses_that_disagree_are_said_to(tmp_path: Path) -> None:
    """By final all emerge above 85 % of depth, by linear below 75 %: both outside, and opposite."""
    told = lenses(linear=fitted(2.0, 20.0))
    record_of(tmp_path, told, relations=8, per_relation=8, top1_accuracy=1.0)

    def edit(row: dict[str, Any]) -> dict[str, Any]:
        layer = {"final": 9, "linear": 3, "raw": 9}[row["lens"]]
        layers = {"rank1_first_layer": layer, "rank1_stable_layer": layer}
        reasons = {"rank1_first_reason": None, "rank1_stable_reason": None}
        return row | layers | reasons | {"top1_correct": True}

    edited(tmp_path / "run", "milestones", edit)
    (record,) = lens_records_in([tmp_path / "run"]).values()
    section = section_of(record)
    said = "by linear outside (the whole interval lies below 75 %); by final outside (the whole"
    assert f"On the answer first at rank 1 the verdict depends on the lens: {said}" in section.text
    assert "the verdict on late emergence depends on the lens" in section.headline
    assert any("the verdict depends on the lens" in line for line in section.limitations)


@pytest.mark.parametrize(
    ("told", "main", "words"),
    [
        (fitted(20.0, 2.0), "final", "no fitted lens is nearer to the model"),
        (fitted(2.0, 20.0, bits=8), "final", "no fitted lens says how far it is"),
    ],
)
def test_a_lens_that_is_not_nearer_or_of_another_model_is_not_chosen(
    tmp_path: Path, told: dict[str, Any], main: str, words: str
) -> None:
    record = record_of(tmp_path, lenses(linear=told))
    assert record.main_lens == main
    section = section_of(record)
    assert words in section.text
    unchosen = any("could not be chosen" in line for line in section.limitations)
    assert unchosen == bool(told["fitted_to"].get("bits"))


def guessed(row: dict[str, Any]) -> dict[str, Any]:
    """As FACTS has it, but a control of linear reads two facts at rank 1, and one in the top 10."""
    row = by_hand(row)
    if row["lens"] == "linear" and row["prompt_id"] in ("r0-00", "r0-01"):
        for name in ("rank1_first", "rank1_stable"):
            row |= {f"{name}_guessed_layer": row[f"{name}_layer"], f"{name}_layer": None}
            row |= {f"{name}_reason": GUESSED}
    return row


def guess_ranks(row: dict[str, Any]) -> dict[str, Any]:
    places = {"r0-00": 1, "r0-01": 1, "r0-02": 7}
    guess = places.get(row["prompt_id"], 300) if row["lens"] == "linear" else None
    return ranks(row) | {"answer_guess_rank": guess}


@pytest.mark.slow
def test_a_fact_that_a_control_reads_counts_at_no_layer(tmp_path: Path) -> None:
    record_of(tmp_path, lenses(linear=fitted(2.0, 20.0)))
    edited(tmp_path / "run", "milestones", guessed)
    edited(tmp_path / "run", "lens", guess_ranks)
    (record,) = lens_records_in([tmp_path / "run"]).values()
    tables = model_tables(record)
    row = tables["lens_guesses"].row(lens="linear", emergence="first at rank 1")
    assert (row["n_facts"], row["n_guessed"], row["guessed_share"].value) == (5, 2, 0.4)
    assert row["median_depth"].value == 0.8  # of 1 .5 .8
    assert row["uncorrected_depth"].value == 0.5  # of .4 .3 1 .5 .8
    assert set(tables["lens_guesses"].frame["lens"]) == {"linear"}
    shares = tables["emergence"].frame.set_index("layer")["answer_rank1_share"]
    assert (shares[5].value, shares[5].n) == (pytest.approx(1 / 4), 4)  # r1-00 of four
    final = tables["lens_emergence"].frame.query("lens == 'final'").set_index("layer")
    assert final["answer_rank1_share"][8].n == 6
    paired = tables["lens_depths"].row(emergence="first at rank 1")
    assert paired["n_both_read"] == 3
    reasons = tables["milestones"].row(lens="linear", milestone="rank1_first")["not_reached"]
    assert reasons == f"2: {GUESSED}"
    section = section_of(record)
    assert "2 of the 5 that are top-1 correct by linear, 40.0 %" in section.text
    assert "only if no control of it has the answer at that rank" in section.text
    assert not any("no control was read" in line for line in section.limitations)
    page = records_page({"m": record}, {"m": tables})
    (said,) = (one for one in page.charts if one.heading == "This prompt")
    (prompt,) = (one for one in page.pickers if one.name == "Prompt")
    shown = said.views[(list(prompt.options).index("r0-00"),)]
    assert f"first at rank 1: {GUESSED}" in str(shown)


@pytest.mark.slow
def test_a_record_without_controls_keeps_its_numbers_and_says_so(record: LensRecord) -> None:
    tables = model_tables(record)
    assert "lens_guesses" not in tables
    assert tables["emergence"].frame["answer_rank1_share"][5].n == 6
    lines = section_of(record).limitations
    assert any("Of the lens linear no control was read" in line for line in lines)


def test_a_record_of_lensbenchs_own_lenses_has_none_of_this(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", Settings(model="m", n_layers=6))
    (record,) = lens_records_in([run]).values()
    assert not [name for name in model_tables(record) if name.startswith("lens_")]
    assert "side by side" not in section_of(record).text


def test_the_whole_report_is_built(record: LensRecord, tmp_path: Path) -> None:
    build_report([record.folder], tmp_path / "out")
    text = min((tmp_path / "out").rglob("report.md")).read_text(encoding="utf-8")
    assert "## Lenses side by side" in text
    shown = pd.read_csv(next((tmp_path / "out").rglob("lens_depths.csv")))
    assert shown["difference_pp"].tolist() == pytest.approx([-0.1, -0.1])


def test_the_page_shows_each_prompt_by_each_lens(record: LensRecord) -> None:
    page = records_page({"m": record}, {"m": model_tables(record)})
    charts = {one.heading: one for one in page.charts}
    assert [name for name in charts if name.startswith("m by")] == ["m by linear", "m by final"]
    (prompt,) = (one for one in page.pickers if one.name == "Prompt")
    assert [name for name in prompt.facets or () if "top-1" in name] == ["top-1"]
    item = list(prompt.options).index("r0-01")
    lines, under = charts["answer at rank 1"].views[(item,)], charts["answer at rank 1"].under
    assert isinstance(lines, Lines)
    own = {line.name: [point.value for point in line.points] for line in lines.lines}
    assert own["m by linear"] == [0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1]
    assert own["m by final"] == [0] * 9 + [1, 1]
    assert under is not None
    means = {line.name: line.points[2].value for line in under.lines}
    assert means == {"mean, m by linear": 0, "mean, m by final": pytest.approx(1 / 6)}
