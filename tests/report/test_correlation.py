"""The report of a correlation study: its sentences follow from its numbers."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd

from lensbench.records.record import Record
from lensbench.report.correlation.findings import findings
from lensbench.report.correlation.tables import against, similarity, survivors, tables
from tests.harness.correlation_records import N_PROMPTS
from tests.harness.pages import MARKUP
from tests.harness.reports import said


def test_the_sentences_say_which_layers_survive(correlation: Record) -> None:
    prompt, _, generated, _ = findings(correlation, tables(correlation))
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


def test_values_in_the_csv_are_those_of_the_record(built: Path, correlation: Record) -> None:
    csv = pd.read_csv(built / "correlation" / "tables" / "similarity.csv")
    expected = correlation.table("similarity")
    distance = expected["measure"] == "procrustes"
    least = np.where(distance | (expected["measure"] == "cka_biased"), 0, -1)
    ends = {"low": np.maximum(expected["low"], least)}
    ends["high"] = np.minimum(expected["high"], np.where(distance, 2, 1))
    for column, own in (("value", expected["value"]), *ends.items()):
        name = column if column == "value" else f"value_{column}"
        np.testing.assert_allclose(csv[name], own, rtol=1e-6)


def test_no_interval_ends_where_its_measure_cannot_be() -> None:
    """The record has them as wide as resampling makes them; the report cuts them."""
    rows = [
        {"span": "prompt", "measure": "procrustes", "value": 0.3, "low": -0.1, "high": 2.4},
        {"span": "prompt", "measure": "pearson", "value": 0.99, "low": 0.97, "high": 1.01},
        {"span": "prompt", "measure": "cka_biased", "value": 0.1, "low": -0.1, "high": 0.3},
        {"span": "prompt", "measure": "cka", "value": 0.1, "low": -0.1, "high": 0.3},
        {"span": "prompt", "measure": "rsa", "value": 0.1, "low": None, "high": None},
    ]
    found = similarity(pd.DataFrame(rows).assign(reason=None), {"prompt": 9})["value"]
    ends = [(one.low, one.high) for one in found]
    assert ends == [(0, 2), (0.97, 1), (0, 0.3), (-0.1, 0.3), (None, None)]


def test_limitations_follow_from_the_record(correlation: Record) -> None:
    record = Record(correlation.folder, copy.deepcopy(correlation.manifest))
    lines = said(record)
    assert "adds up" in lines
    assert "no groups" in lines
    assert "No control" not in lines
    assert "Only" not in lines  # 20 prompts
    record.manifest["settings"]["inputs"]["other"]["role"] = "condition"
    record.manifest["settings"]["relative_depth"] = True
    record.manifest["spans"]["prompt"]["prompts"] = dict.fromkeys(
        ("plain", MARKUP, "far", "other"), 7
    )
    record.manifest["spans"]["prompt"]["mean_tokens"]["other"] = 50
    lines = said(record)
    for part in ("No control", "convention", "Only 7 prompts", "differ in length"):
        assert part in lines
    assert N_PROMPTS == 20
