"""What the report of a lineage makes of scores and names, on frames written by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from lensbench.report.fit.section import quality
from lensbench.report.lineage.heads import (
    MOST_HEADS,
    UNTRAINED,
    counts,
    named,
    named_since,
    score_curves,
    untrained_band,
)

STEPS = (0, 2, 4, 8)


def names(heads: dict[tuple[str, int, int], str]) -> pd.DataFrame:
    """Of each (run, block, head) its names at each step: `-` is none, `a+b` two."""
    rows = []
    for (run, block, head), each in heads.items():
        for step, text in zip(STEPS, each.split(), strict=True):
            own = text.replace("-", "").replace("+", " + ")
            name = "mixed" if "+" in text else own or "undecided"
            rows.append({"run": run, "step": step, "block": block, "head": head, "name": name})
            rows[-1] |= {"names": own, "score": "s", "value": step / 10, "null": "random"}
            rows[-1] |= {"null_value": 0.0, "q_value": 0.01, "stability": 1.0}
    return pd.DataFrame(rows)


LINEAGE = names(
    {
        ("a", 0, 0): "- local local local",
        ("a", 1, 0): "- induction - induction",
        ("a", 1, 1): "- - induction+local -",
        ("b", 0, 0): "local - local induction+local",
        ("b", 1, 0): "- induction local -",
        ("c", 0, 0): "- induction - -",
    }
)


def test_a_name_counts_from_the_step_from_which_some_head_always_has_it() -> None:
    """One head may take over from another; what is lost at the end does not count."""
    assert named_since(LINEAGE, "induction") == {"a": 2, "b": 8, "c": None}
    assert named_since(LINEAGE, "local") == {"a": 2, "b": 4, "c": None}


def test_heads_named_at_the_end_stand_with_the_step_since_when() -> None:
    found = named(LINEAGE)
    assert found[["run", "block", "head", "name", "since_step"]].to_numpy().tolist() == [
        ["a", 0, 0, "local", 2],
        ["a", 1, 0, "induction", 8],
        ["b", 0, 0, "induction + local", 8],
    ]
    assert found["value"].to_list() == [0.8] * 3  # of the last step
    assert named(LINEAGE[LINEAGE["run"] == "c"]).empty


def test_every_head_is_counted_once_at_each_step() -> None:
    found = counts(LINEAGE)
    assert found.query("run == 'a' and step == 4").iloc[0].to_dict() == {
        "run": "a",
        "step": 4,
        "induction": 0,
        "local": 1,
        "mixed": 1,
        "undecided": 1,
    }
    assert found.drop(columns=["run", "step"]).sum(axis=1).to_list() == [3] * 4 + [2] * 4 + [1] * 4


def test_the_band_is_of_the_best_heads_and_panels_show_the_same_heads_in_the_same_order() -> None:
    """Heads 0 and 1, which have least, are left out of both runs."""
    rows = [
        {"run": run, "seed": 0, "step": step, "block": 0, "head": head}
        | {"induction": 0.01 * head, "previous_token": 0.0}
        for run in ("a", "b")
        for step in STEPS
        for head in range(10)
    ]
    rows[-1]["induction"] = 0.9
    rows += [
        {"run": UNTRAINED, "seed": seed, "step": 0, "block": 0, "head": head}
        | {"induction": 0.1 * seed + 0.01 * head, "previous_token": 0.0}
        for seed in (1, 2, 3)
        for head in range(2)
    ]
    heads = pd.DataFrame(rows)
    band = untrained_band(heads, "induction")
    assert (band.value, band.low, band.high) == pytest.approx((0.21, 0.11, 0.31))
    assert band.n == 3
    panels = score_curves(heads)
    assert len(panels) == 4
    shown = [[line.name for line in panel.lines] for panel in panels]
    assert shown == [[f"0.{head}" for head in range(2, 10)] + [UNTRAINED]] * 4
    assert len(shown[0]) == MOST_HEADS + 1
    by_title = {panel.title: panel for panel in panels}
    assert [point.value for point in by_title["b: induction"].lines[7].points][-1] == 0.9


def test_no_interval_of_a_lens_holds_what_the_quantity_cannot_be() -> None:
    ends = {"": 0.4, "_low": -0.2, "_high": 1.3}
    measured = ("kl_bits", "top1_agreement", "marginal_kl_bits")
    measured += ("calibration_error", "calibration_share")
    cells = {f"{name}{end}": value for name in measured for end, value in ends.items()}
    who = {"model": "m", "reading": "fitted", "layer": 1, "depth": 0.5, "n_documents": 9}
    row = quality(pd.DataFrame([who | cells])).iloc[0]
    found = {name: (row[name].low, row[name].high) for name in measured}
    assert found["kl_bits"] == found["marginal_kl_bits"] == (0.0, 1.3)
    assert found["top1_agreement"] == found["calibration_error"] == (0.0, 1.0)
    assert found["calibration_share"] == (-0.2, 1.3)  # of a gain: it can be a loss
