"""Conditions side by side: the same prompts with an adapter, with retrieval, with both."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lensbench.report.inference.section import per_response
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord
from lensbench.stats.bootstrap import Estimate, clustered_bootstrap, paired_difference

COMPARED = ("generated_tokens", "entropy_bits", "logprob_bits")


def condition(record: SecondRecord) -> str:
    """`base`, `adapter`, `rag` or `adapter+rag`; empty for a record without responses."""
    if "responses" not in record.tables:
        return ""
    parts = []
    if record.manifest["model"].get("adapter"):
        parts.append("adapter")
    if record.tables["responses"]["retrieved_ids"].notna().any():
        parts.append("rag")
    return "+".join(parts) or "base"


def conditions_table(records: Sequence[SecondRecord]) -> Table:
    """Means of every record of responses, and paired differences to its model's base record."""
    frame = pd.DataFrame([_row(record, _bases(record, records)) for record in records])
    note = (
        "Means over each record's responses, each prompt for itself. Difference: paired with the "
        "base record of the same model and bits, over the prompts that both answered."
    )
    return Table("conditions", "Conditions", frame, note)


def _bases(record: SecondRecord, records: Sequence[SecondRecord]) -> list[SecondRecord]:
    """The records of the same model and bits without adapter and retrieval."""

    def key(other: SecondRecord) -> tuple[object, ...]:
        model = other.manifest["model"]
        return model.get("weights_sha256"), model.get("bits")

    return [o for o in records if condition(o) == "base" and key(o) == key(record)]


def _row(record: SecondRecord, bases: Sequence[SecondRecord]) -> dict[str, object]:
    own = per_response(record)
    stopped = (own["finish_reason"] == "stop").astype(float)
    row: dict[str, object] = {
        "record": record.name,
        "condition": condition(record),
        "count": len(own),
        "stopped_share": clustered_bootstrap(stopped, nothing="no responses"),
    }
    for column in COMPARED:
        stem, unit = column.rsplit("_", 1)
        row[column] = clustered_bootstrap(own[column].astype(float), nothing="no responses")
        row[f"{stem}_difference_{unit}"] = _difference(own, record, bases, column)
    return row


def _difference(
    own: pd.DataFrame, record: SecondRecord, bases: Sequence[SecondRecord], column: str
) -> Estimate | None:
    """Own minus base, prompt by prompt; None for a base itself."""
    if record in bases:
        return None
    if len(bases) != 1:
        return Estimate(None, None, None, 0, 0, f"{len(bases)} base records to compare with")
    prompts = pd.Series(own.index, index=own.index)  # each stands for itself
    return paired_difference(own[column], per_response(bases[0])[column], prompts, "mean")
