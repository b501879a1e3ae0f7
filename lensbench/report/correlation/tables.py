"""The tables of a correlation study: which layers changed, against what, and what survives."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import pandas as pd

from lensbench.records.record import Record
from lensbench.records.schema.correlation import SIMILARITY_ENDS, VARIANTS
from lensbench.records.schema.generation import MIXED, SPANS
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.table import Table, catalogue
from lensbench.spec import ranges
from lensbench.stats.estimates import LEVEL, Estimate, within

MAIN = "without_massive"
RANKS_BY = ("cosine", "pearson")  # the second between different prompts, which have no cosines
MAPPED = {"pearson": "without_massive", "cka": "as_is"}  # measure of the maps -> its variant
TESTED = ("pearson", "cosine")  # measures that have p-values
TOKENS = "mean_tokens_"  # before the span, in a column's name
_ROLES = ("reference", "condition", "control")


def tables(record: Record) -> dict[str, Table]:
    """Every number of the report, by name."""
    n, ranking = n_prompts(record), record.table("layer_ranking")
    return catalogue(
        {
            "compared": ("Runs", compared(record)),
            "survivors": ("What survives", survivors(ranking)),
            "against": ("Against each control", against(ranking)),
            "ranking": (
                "Ranked layers",
                estimates(ranking.query("measure in @TESTED"), "change", n),
            ),
            "choice": ("Chosen blocks", record.table("layer_choice")),
            "agreement": (
                "Chosen blocks by measure and variant",
                agreement(record.table("layer_choice")),
            ),
            "similarity": (
                "Similarity to the reference by layer",
                similarity(record.table("similarity"), n),
            ),
            "maps": ("Layer by layer", maps(record.table("layer_map"))),
            "massive": ("Massive dimensions", record.table("massive_dimensions")),
        }
    )


def n_prompts(record: Record) -> dict[str, int]:
    """Prompts in each span, of the condition with the fewest: the same for all where paired."""
    counted = record.manifest.get("spans", {})
    return {span: min(own["prompts"].values()) for span, own in counted.items()}


def ranking_measure(frame: pd.DataFrame) -> str | None:
    """The measure by which layers are ranked: the first of `RANKS_BY` that was measured."""
    return next((name for name in RANKS_BY if (frame["measure"] == name).any()), None)


def main_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by which layers are ranked."""
    return frame[(frame["measure"] == ranking_measure(frame)) & (frame["variant"] == MAIN)]


def compared(record: Record) -> pd.DataFrame:
    """One row per run: its part, its model, how many prompts and tokens."""
    counted, rows = record.manifest.get("spans", {}), []
    inputs = record.manifest["settings"].get("inputs", {})
    for name, facts in sorted(inputs.items(), key=lambda item: _ROLES.index(item[1]["role"])):
        row = {"condition": name, "role": facts["role"], "model": facts["name"]}
        row |= {"weights": _weights(facts), "adapter": facts["adapter"] or "none"}
        for span in (span for span in (*SPANS, MIXED) if span in counted):
            row[f"n_prompts_{span}"] = counted[span]["prompts"][name]
            row[f"{TOKENS}{span}"] = counted[span]["mean_tokens"][name]
        rows.append(row)
    return pd.DataFrame(rows)


def _weights(facts: dict[str, Any]) -> str:
    """How a run's weights were held; a name with @8 alone does not say the threshold."""
    threshold = facts.get("int8_threshold")
    outliers = "" if threshold is None else f", outlier threshold {threshold:g}"
    return "floating point" if facts["bits"] is None else f"{facts['bits']} bits{outliers}"


def estimates(frame: pd.DataFrame, column: str, n: dict[str, int]) -> pd.DataFrame:
    """The rows with `column`, its ends and its reason as one Estimate each."""

    def number(value: object) -> float | None:
        return None if is_missing(value) else float(value)  # type: ignore[arg-type]

    made = [
        Estimate(
            number(row[column]),
            number(row["low"]),
            number(row["high"]),
            n.get(row["span"], 0),
            n.get(row["span"], 0),
            None if is_missing(row["reason"]) else row["reason"],
        )
        for row in frame.to_dict("records")
    ]
    kept = frame.drop(columns=["low", "high", "reason"]).copy()
    kept[column] = pd.Series(made, index=frame.index, dtype=object)
    return kept


def similarity(frame: pd.DataFrame, n: dict[str, int]) -> pd.DataFrame:
    """Each measure with its interval, which the record has wide: cut where the measure ends."""
    made = estimates(frame, "value", n)
    measures = zip(made["value"], made["measure"], strict=True)
    cut = [within(value, *SIMILARITY_ENDS[name]) for value, name in measures]
    return made.assign(value=pd.Series(cut, index=made.index, dtype=object))


def maps(frame: pd.DataFrame) -> pd.DataFrame:
    """The maps that are drawn, each pair of layers once."""
    kept = [
        frame[(frame["measure"] == measure) & (frame["variant"] == variant)]
        for measure, variant in MAPPED.items()
    ]
    return pd.concat(kept, ignore_index=True).round({"value": 4})


def agreement(choice: pd.DataFrame) -> pd.DataFrame:
    """The chosen blocks of each measure, a column for each variant."""
    keys = ["span", "condition", "measure"]
    rows = []
    for labels, own in choice.groupby(keys, sort=False):
        by_variant = {row["variant"]: _blocks(row) for row in own.to_dict("records")}
        blocks = {variant: by_variant.get(variant, "n/a") for variant in VARIANTS}
        rows.append(dict(zip(keys, labels, strict=True)) | blocks)
    return pd.DataFrame(rows, columns=[*keys, *VARIANTS])


def _blocks(row: dict[Hashable, Any]) -> str:
    if is_missing(row["first_block"]):
        return f"n/a ({'no reason recorded' if is_missing(row['reason']) else row['reason']})"
    first, last = int(row["first_block"]), int(row["last_block"])
    return str(first) if first == last else f"{first}-{last}"


def survivors(ranking: pd.DataFrame) -> pd.DataFrame:
    """Per span, condition, measure and variant: the layers that stand against every control."""
    tested = ranking[ranking["p_adjusted"].notna()]
    rows = []
    keys = ["span", "condition", "measure", "variant"]
    for labels, own in tested.groupby(keys, sort=False):
        by_layer = own.groupby("layer")
        firm = by_layer["p_adjusted"].max() < LEVEL
        layers = [int(layer) for layer in firm.index[firm & (by_layer["change"].min() > 0)]]
        controls = [name for name in own["control"].unique() if isinstance(name, str)]
        row = dict(zip(keys, labels, strict=True))
        row |= {"controls": ", ".join(controls) or "none", "tested_layers": len(firm)}
        rows.append(row | {"changed_layers": len(layers), "layers": _layers(layers)})
    columns = [*keys, "controls", "tested_layers", "changed_layers", "layers"]
    return pd.DataFrame(rows, columns=columns)


def against(ranking: pd.DataFrame) -> pd.DataFrame:
    """Per span, condition, measure, variant and control: where the condition changed otherwise."""
    tested = ranking[ranking["p_adjusted"].notna() & ranking["control"].notna()]
    keys = ["span", "condition", "measure", "variant", "control"]
    rows = []
    for labels, own in tested.groupby(keys, sort=False):
        firm = own[own["p_adjusted"] < LEVEL].sort_values("layer")
        row: dict[str, object] = dict(zip(keys, labels, strict=True))
        row["more_layers"] = _layers(firm.loc[firm["change"] > 0, "layer"].tolist())
        row["less_layers"] = _layers(firm.loc[firm["change"] < 0, "layer"].tolist())
        rows.append(row)
    return pd.DataFrame(rows, columns=[*keys, "more_layers", "less_layers"])


def _layers(numbers: Iterable[int]) -> str:
    return ranges(numbers, ", ") or "none"
