"""The report of a correlation study: its sentences follow from its numbers."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.records.record import Record
from lensbench.report.build import build_report
from lensbench.report.correlation.findings import findings
from lensbench.report.correlation.tables import against, survivors, tables
from tests.harness import second_records as second_fixture
from tests.harness.correlation_records import N_PROMPTS, base, noisy, planted, write_trace
from tests.harness.reports import record_in, said

NASTY = "a|b <script> *x*"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers 5-7 change in the prompt, none in what is generated; one name would break Markdown."""
    folder, values = tmp_path_factory.mktemp("study"), base()
    quiet = [noisy(values, seed) for seed in (3, 4)]
    write_trace(folder / "plain", values)
    write_trace(folder / "rag", planted(values, 1), generated=quiet[0])
    write_trace(folder / "other", noisy(values, 2), generated=quiet[1])
    spec = CorrelationSpec(
        runs=(str(folder / "plain"), f"{NASTY}={folder / 'rag'}"),
        controls=(str(folder / "other"),),
        out=folder / "out",
        measures=("pearson", "cosine", "cka"),
        n_blocks=3,
        resamples=200,
    )
    correlate(spec)
    build_report([folder / "out"])
    return folder / "out"


@pytest.fixture(scope="module")
def record(study: Path) -> Record:
    return record_in(study)


def text_of(study: Path) -> str:
    return (study / "report.md").read_text(encoding="utf-8")


def test_the_sentences_say_which_layers_survive(record: Record) -> None:
    prompt, generated = findings(record, tables(record))
    assert prompt.count("layers 5-7 of 12") == 3  # each variant
    assert "more than under other" in prompt
    assert "other: more at layers 5-7, less at no layer" in prompt
    assert "The blocks that changed most are 4-6" in prompt
    assert generated.count("no layer of 12") == 3


def test_survivors_need_every_control() -> None:
    rows = [
        {"span": "prompt", "condition": "c", "measure": "cosine", "variant": "as_is"}
        | {"control": control, "layer": layer, "p_adjusted": p, "change": 0.1}
        for control, ps in (("x", (0.01, 0.01, 0.2, 0.01)), ("y", (0.04, 0.3, 0.01, 0.01)))
        for layer, p in enumerate(ps, start=1)
    ]
    frame = pd.DataFrame(rows)
    frame.loc[(frame["control"] == "y") & (frame["layer"] == 4), "change"] = -0.1  # firmly less
    (row,) = survivors(frame).to_dict("records")
    assert (row["layers"], row["changed_layers"], row["tested_layers"]) == ("1", 1, 4)
    assert row["controls"] == "x, y"


def test_each_control_has_its_own_more_and_less() -> None:
    rows = [
        {"span": "prompt", "condition": "c", "measure": "cosine", "variant": "as_is"}
        | {"control": control, "layer": layer, "p_adjusted": p, "change": change}
        for control, cells in (
            ("x", ((0.01, 0.1), (0.01, -0.1), (0.2, -0.1))),
            ("y", ((0.04, -0.1), (0.3, 0.1), (0.01, -0.1))),
        )
        for layer, (p, change) in enumerate(cells, start=1)
    ]
    found = against(pd.DataFrame(rows)).set_index("control")
    assert found["more_layers"].to_dict() == {"x": "1", "y": "none"}
    assert found["less_layers"].to_dict() == {"x": "2", "y": "1, 3"}


def test_every_link_leads_somewhere_and_every_figure_is_svg(study: Path) -> None:
    links = re.findall(r"(?<!\\)\]\(([^)]+)\)", text_of(study))
    assert links
    assert [link for link in links if not (study / link).is_file()] == []
    figures = list((study / "figures").iterdir())
    names = {
        f"{name}_{p}.svg"
        for name in ("ranking", "measures", "variants", "maps")
        for p in ("prompt", "generated")
    }
    assert {figure.name for figure in figures} == names
    for figure in figures:
        ElementTree.fromstring(figure.read_bytes())
        assert b"<script" not in figure.read_bytes()


def test_names_cannot_break_the_tables(study: Path) -> None:
    text = text_of(study)
    assert "<script" not in text.replace("\\<", "")
    rows = [line for line in text.split("\n") if line.startswith("| prompt | a")]
    assert rows
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows[:2]}) == 1


def test_the_same_record_gives_the_same_bytes(study: Path, tmp_path: Path) -> None:
    build_report([study], tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (study / path.relative_to(tmp_path)).read_bytes()


def test_values_in_the_csv_are_those_of_the_record(study: Path, record: Record) -> None:
    csv = pd.read_csv(study / "tables" / "similarity.csv")
    expected = record.table("similarity")
    for column, own in (("value", "value"), ("value_low", "low"), ("value_high", "high")):
        np.testing.assert_allclose(csv[column], expected[own], rtol=1e-6)


def test_limitations_follow_from_the_record(record: Record) -> None:
    lines = said(record)
    assert "adds up" in lines
    assert "no groups" in lines
    assert "No control" not in lines
    assert "Only" not in lines  # 20 prompts
    record.manifest["settings"]["inputs"]["other"]["role"] = "condition"
    record.manifest["settings"]["relative_depth"] = True
    record.manifest["spans"]["prompt"]["prompts"] = dict.fromkeys(("plain", NASTY, "other"), 7)
    record.manifest["spans"]["prompt"]["mean_tokens"]["other"] = 50
    lines = said(record)
    for part in ("No control", "convention", "Only 7 prompts", "differ in length"):
        assert part in lines
    assert N_PROMPTS == 20


def test_a_record_without_rows_has_a_report(tmp_path: Path) -> None:
    second_fixture.write(tmp_path, "correlation", {})
    assert tmp_path / "report.md" in build_report([tmp_path])
    assert "nothing was compared" in text_of(tmp_path)
