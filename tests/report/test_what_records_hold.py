"""Each statement has the n, the lens and the gate of its own record."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench.records.lens.record import LensRecord
from lensbench.records.open import open_lens_record
from lensbench.report import manifest as manifests
from lensbench.report.build import build_report
from lensbench.report.kit.table import catalogue
from lensbench.report.kit.views import COLOURS
from lensbench.report.lens import comparison, contrasts, curves, headlines
from lensbench.report.lens.lenses import sensitivity
from lensbench.report.lens.page import records_page
from lensbench.report.lens.section import across_models
from lensbench.report.lens.section import lens as lens_section
from lensbench.report.lens.tables import model_tables
from lensbench.report.section import Reported
from tests.harness.files import write_manifest
from tests.harness.lens_records import Settings, write_record

SMALL: dict[str, Any] = {"relations": 2, "per_relation": 5, "heatmap_prompts": 0}


def record_of(folder: Path, *, model: str = "m", **changes: Any) -> LensRecord:
    settings = SMALL | {"n_layers": 8, "lenses": ("final",)} | changes
    write_record(folder, Settings(model=model, **settings))
    return open_lens_record(folder)


def rewritten(folder: Path, table: str, change: Any) -> None:
    path = folder / f"{table}.parquet"
    old = pq.read_table(path)
    rows = [change(row) for row in old.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, old.schema), path)


def text_of(folder: Path) -> str:
    record = open_lens_record(folder)
    section = lens_section(record, "m")
    return section.text + "\n".join([*section.limitations, *manifests.limitations(record)])


# --- denominators -------------------------------------------------------------------------------

ANSWERS = ("answer", "answer_id", "answer_token", "answer_prob", "answer_rank", "top1_correct")


@pytest.fixture
def unanswered(tmp_path: Path) -> Path:
    """Ten base prompts, of which four have no answer; the first three of the others are right."""
    record_of(tmp_path / "m", top1_accuracy=1.0)
    gone = {"r0-00", "r0-01", "r1-02", "r1-03"}
    right = {"r0-02", "r0-03", "r0-04"}

    def change(row: dict[str, Any]) -> dict[str, Any]:
        none = {n: None for n in ANSWERS if n in row} if row["prompt_id"] in gone else {}
        said = {"top1_correct": row["prompt_id"] in right} if "top1_correct" in row else {}
        return row | said | none

    for table in ("prompts", "lens", "milestones"):
        rewritten(tmp_path / "m", table, change)
    return tmp_path / "m"


def test_prompts_without_an_answer_are_counted_apart(unanswered: Path) -> None:
    record = open_lens_record(unanswered)
    row = headlines.coverage_table(record).iloc[0]
    assert (row["n_prompts"], row["n_with_answer"]) == (10, 6)
    assert (row["top1_accuracy"].value, row["top1_accuracy"].n) == (0.5, 6)
    assert headlines.relations_table(record)["n_prompts"].sum() == 6
    section = lens_section(record, "m")
    assert "over 6 prompts (and 4 without an answer)" in section.headline
    assert "Over 6 base prompts with an answer" in section.text
    assert "4 more base prompts have no answer" in section.text
    assert "over 10" not in section.text + section.headline


def test_what_has_no_answer_has_a_section_of_its_own(unanswered: Path) -> None:
    record = open_lens_record(unanswered)
    tables = model_tables(record)
    own = tables["without_answer"].frame.iloc[0]
    rows = record.at_last(["entropy_bits", "kl_bits", "top_tokens"])
    rows = rows[rows["prompt_id"].isin(record.unanswered.index)]
    last = rows[rows["layer"] == 8]
    assert own["n_prompts"] == 4
    assert own["last_layer_entropy_bits"].value == pytest.approx(last["entropy_bits"].mean())
    by_layer = rows.groupby("layer")["kl_bits"].mean()
    means = tables["without_answer_curves"].frame.set_index("layer")["kl_bits"]
    assert [e.value for e in means] == pytest.approx(by_layer.tolist())
    says = tables["without_answer_says"].frame
    tops = last.set_index("prompt_id")["top_tokens"].map(lambda tokens: tokens[0])
    assert dict(zip(says["prompt_id"], says["token"], strict=True)) == tops.to_dict()
    others = tables["depth_curves"].frame["entropy_bits"]
    assert {e.n for e in others} == {6}
    assert "## Prompts without an answer" in lens_section(record, "m").text


def test_a_share_is_of_those_that_can_be_asked(tmp_path: Path) -> None:
    record = record_of(tmp_path / "m", top1_accuracy=1.0)
    reasons = {"r0-00": "the relation has no category word", "r0-01": "never", "r0-02": None}
    reasons |= {"r1-00": "not measured at layer 3"}

    def change(row: dict[str, Any]) -> dict[str, Any]:
        reason = reasons.get(row["prompt_id"], "the category word stands in the prompt")
        layer = 4 if reason is None else None
        return row | {"category_top10_layer": layer, "category_top10_reason": reason}

    rewritten(record.folder, "milestones", change)
    table = headlines.milestones_table(open_lens_record(record.folder)).set_index("milestone")
    row = table.loc["category_top10"]
    assert (row["reached_share"].value, row["n_asked"], row["n_prompts"]) == (0.5, 2, 1)


# --- curves -------------------------------------------------------------------------------------


def test_curves_stand_at_each_models_own_layers(tmp_path: Path) -> None:
    """The answer is at rank 1 at every other layer only: no layer has the share in between."""
    every = {}
    for name, n in (("eighty", 80), ("seven", 7)):
        folder = tmp_path / name
        record_of(folder, model=name, n_layers=n)

        def change(row: dict[str, Any]) -> dict[str, Any]:
            return row | {"answer_rank": 1 if row["layer"] % 2 else 50, "answer_ties": 0}

        rewritten(folder, "lens", change)
        every[name] = open_lens_record(folder)
    own = {
        name: catalogue(
            {
                "depth_curves": ("", curves.depth_curves(record)),
                "emergence": ("", curves.emergence_curve(record)),
            }
        )
        for name, record in every.items()
    }
    table = comparison.curves_table(every, own)
    assert table.groupby("model").size().to_dict() == {"eighty": 81, "seven": 8}
    for name, record in every.items():
        rows = table[table["model"] == name]
        assert rows["depth"].tolist() == [i / record.n_layers for i in rows["layer"]]
        shares = [e.value for e in rows["answer_rank1_share"]]
        assert shares == [float(layer % 2) for layer in rows["layer"]]


def test_stability_is_unknown_beyond_a_layer_that_nobody_read() -> None:
    flags = pd.DataFrame([[1, 1, None, 1], [0, 1, 1, 1], [1, None, 0, 1]], dtype=float)
    found = curves._least_from_here(flags)
    expected = [[None, None, None, 1], [0, 1, 1, 1], [0, 0, 0, 1]]
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected, dtype=float))


def test_twelve_colours_can_be_told_apart() -> None:
    """CIE 1976 colour differences of at least 25, and contrast with white and with near-black."""
    assert len(COLOURS) == 12
    for a, b in itertools.combinations(COLOURS, 2):
        assert sum((x - y) ** 2 for x, y in zip(lab(a), lab(b), strict=True)) ** 0.5 > 25, (a, b)
    assert all(38 < lab(colour)[0] < 66 for colour in COLOURS)


def lab(colour: str) -> tuple[float, float, float]:
    """CIELAB of an sRGB colour (D65)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


# --- lens and gate ------------------------------------------------------------------------------

HELD = "the lens had to reproduce the model"


@pytest.mark.parametrize(
    ("checks", "measured", "brief", "said"),
    [
        ([True, True], None, "passed, 2 of 2 checks", HELD),
        ([True, None], None, "passed, 1 of 2 checks", HELD),
        ([True, False], None, "FAILED, 1 of 2 checks", "It FAILED"),
        ([None], None, "none: not checked", "nobody has checked"),
        ([], None, "none: not checked", "nobody has checked"),
        ([None], {"tool": "theirs"}, "imported: not checked", "lensbench has not checked"),
        ([True], {"tool": "theirs"}, "imported: not checked", "lensbench has not checked"),
    ],
)
def test_no_gate_is_said_to_hold_that_did_not(
    checks: list[bool | None], measured: Any, brief: str, said: str, tmp_path: Path
) -> None:
    record = record_of(tmp_path / "m")
    gate = [
        {
            "identity": f"i{k}",
            "error": 1.0,
            "bound": 0.1,
            "unit": "bits",
            "passed": p,
            "reason": "r",
        }
        for k, p in enumerate(checks)
    ]
    told = record.manifest | {"gate": gate} | ({"measured": measured} if measured else {})
    write_manifest(record.folder, told)
    held = manifests.gate_said(told)
    assert said in held
    assert (HELD in held) == (said == HELD)
    stated = "\n".join(manifests.limitations(open_lens_record(record.folder)))
    assert (brief in stated) == (not brief.startswith("passed"))
    assert manifests.gate_brief(told) == brief
    assert brief in manifests.summary(told)


def test_a_report_says_that_its_gate_failed(tmp_path: Path) -> None:
    record = record_of(tmp_path / "m", n_layers=3)
    check = {"identity": "i", "error": 1.0, "bound": 0.1, "unit": "bits", "passed": False}
    write_manifest(record.folder, record.manifest | {"gate": [check]})
    text = text_of(record.folder)
    assert "It FAILED" in text
    assert HELD not in text


def test_a_run_that_went_on_does_not_call_its_last_seconds_the_whole(tmp_path: Path) -> None:
    made = dict(record_of(tmp_path / "m", n_layers=3).manifest)
    whole, rest = (
        manifests.how_made(made | {"wall_s": 12.5, "resumed_batches": n})[-1] for n in (0, 24)
    )
    assert whole.endswith(", 12 s.")
    assert rest.endswith(", 12 s of the last run, which went on from 24 finished parts.")


@pytest.mark.slow
def test_the_lens_is_called_what_its_record_says(tmp_path: Path) -> None:
    record = record_of(tmp_path / "m", lenses=("raw",))
    assert "read through no norm and the head" in text_of(record.folder)
    lenses = {"raw": {"norm": "final", "fitted": True, "soft_cap": False}}
    write_manifest(record.folder, record.manifest | {"lenses": lenses})
    text = text_of(record.folder)
    assert "a fitted map, then the model's own final norm" in text
    assert "without the model's soft cap" in text
    write_manifest(record.folder, record.manifest | {"lenses": {"raw": {}}})
    assert "a way that the record does not describe" in text_of(record.folder)
    assert "own final norm" not in text_of(record.folder)


@pytest.mark.slow
def test_lenses_of_different_kinds_are_named_wherever_they_meet(tmp_path: Path) -> None:
    for name, lens in (("plain", "final"), ("bare", "raw")):
        record_of(tmp_path / "run" / name, model=name, lenses=(lens,))
    build_report([tmp_path / "run"])
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "read by lenses of different kinds" in text
    assert "plain: the model's own final norm and the head" in text
    every = {n: open_lens_record(tmp_path / "run" / n) for n in ("plain", "bare")}
    pair = comparison.pairs_table(every).iloc[0]
    assert (pair["first"], pair["second"]) == ("plain", "bare [no norm]")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "bare [no norm]" in page
    assert "no norm and the head" in page


def test_without_relations_paraphrases_of_one_prompt_count_as_one(tmp_path: Path) -> None:
    """Five prompts with many paraphrases say no more of base prompts than these five."""
    record = record_of(tmp_path / "m", relations=1, per_relation=10, top1_accuracy=1.0)
    rewritten(record.folder, "prompts", lambda row: row | {"relation": "prompt"})
    rewritten(record.folder, "milestones", lambda row: row | {"relation": "prompt"})
    for table in ("prompts", "lens", "milestones"):
        path = record.folder / f"{table}.parquet"
        old = pq.read_table(path)
        again = [
            row | {"prompt_id": f"{row['prompt_id']}-{k}"}
            for row in old.to_pylist()
            if row["prompt_id"].endswith("-p")
            for k in range(3)
        ]
        pq.write_table(pa.concat_tables([old, pa.Table.from_pylist(again, old.schema)]), path)
    record = open_lens_record(record.folder)
    base, own, difference, same = contrasts.paraphrase_table(record).to_dict("records")
    for found in (
        base["top1_accuracy"],
        own["top1_accuracy"],
        difference["top1_accuracy_difference_pp"],
        same["top1_accuracy"],
    ):
        assert (found.n, found.n_clusters) == (20, 5)
    assert base["top1_accuracy"].low == pytest.approx(0.025 ** (1 / 5))  # Clopper & Pearson of 5
    coverage = headlines.coverage_table(record).set_index("prompts")["top1_accuracy"]
    assert coverage["paraphrase"].n_clusters == 5


@pytest.mark.parametrize("template", ["chat", None])
def test_models_asked_in_different_templates_are_named(
    tmp_path: Path, template: str | None
) -> None:
    reports = []
    for name, own in (("one", "plain"), ("two", template)):
        record = record_of(tmp_path / name, model=name)
        told = dict(record.manifest)
        write_manifest(record.folder, told | {"settings": told["settings"] | {"template": own}})
        record = open_lens_record(record.folder)
        reports.append(Reported(record, name, name, lens_section(record, name)))
    text = across_models(reports).text
    said = "asked in different templates"
    assert said in text
    assert f"one: plain; two: {template or 'not said'}." in text
    assert said not in across_models([reports[0], replace(reports[0], name="again")]).text


def test_without_category_words_the_verdict_does_not_change(tmp_path: Path) -> None:
    record = record_of(tmp_path / "m", lenses=("final", "next"), top1_accuracy=1.0, relations=8)
    none = dict.fromkeys(("category", "category_id", "null_category", "null_category_id"))
    rewritten(record.folder, "prompts", lambda row: row | none)
    rewritten(record.folder, "milestones", lambda row: row | {"lens": row["lens"]})
    record = open_lens_record(record.folder)
    assert contrasts.category_table(record)["category_first_share"].iloc[0].value is None
    table = sensitivity.sensitivity_table(record).set_index("lens")
    assert table.at["next", "verdict_changes"] == "no"


@pytest.mark.slow
def test_the_page_of_many_models_opens_on_the_comparison(tmp_path: Path) -> None:
    every = {}
    for i in range(4):
        every[f"m{i}"] = record_of(
            tmp_path / f"m{i}", model=f"m{i}", seed=i, n_layers=6 + i, relations=1
        )
    own = {name: model_tables(record) for name, record in every.items()}
    page = records_page(every, own)
    headings = [chart.heading for chart in page.charts]
    assert headings[0] == "When the answer emerges"
    assert headings[-1] == "Top tokens"
    assert headings.count("Top tokens") == 1
    assert [picker.name for picker in page.pickers] == ["Prompt", "Colour", "Model"]
    assert page.title == "When does it know? 4 models"
