"""Conditions side by side: the same prompts with an adapter, with retrieval, with both."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lensbench.records.facts import TOKENIZER
from lensbench.records.record import Record
from lensbench.report.inference.section import per_response
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.table import Table
from lensbench.report.section import Reported, Section
from lensbench.stats.estimates import Estimate, clustered_estimate, paired_difference

COMPARED = ("generated_tokens", "entropy_bits", "logprob_bits")

# What has to be alike for a difference to be one of the conditions; some of it only where chance
# takes part. Of the model what an older lensbench did not write down is not known.
_ASKED = ("style", "max_new_tokens", "repetition_penalty", "temperature")
_DRAWN = ("top_p", "sample_top_k", "seed")
_MODEL = ("int8_threshold", "config_sha256", *TOKENIZER)


def conditions(reports: Sequence[Reported]) -> Section:
    """Means of every record of responses, and paired differences to its model's base record."""
    table = conditions_table([(one.place, one.record) for one in reports])
    text = rendered("inference/conditions.md.j2", tables={table.name: table})
    return Section("Conditions side by side", {table.name: table}, text)


def condition(record: Record) -> str:
    """`base`, `adapter`, `rag` or `adapter+rag`; of a control which: `rag (shuffled)`."""
    parts = []
    if record.manifest["model"].get("adapter"):
        parts.append("adapter")
    if record.table("responses")["retrieved_ids"].notna().any():
        control = record.settings.get("control")
        parts.append(f"rag ({control})" if control else "rag")
    return "+".join(parts) or "base"


def conditions_table(named: Sequence[tuple[str, Record]]) -> Table:
    """A row for each record, under the name given."""
    records = [record for _, record in named]
    rows = [_row(name, record, _bases(record, records)) for name, record in named]
    return Table("conditions", "Conditions", pd.DataFrame(rows))


def _bases(record: Record, records: Sequence[Record]) -> list[Record]:
    """The records of the same model and bits without adapter and retrieval."""

    def key(other: Record) -> tuple[object, ...]:
        model = other.manifest["model"]
        return model.get("weights_sha256"), model.get("bits")

    return [o for o in records if condition(o) == "base" and key(o) == key(record)]


def _row(name: str, record: Record, bases: Sequence[Record]) -> dict[str, object]:
    own = per_response(record)
    stopped = (own["finish_reason"] == "stop").astype(float)
    row: dict[str, object] = {
        "record": name,
        "condition": condition(record),
        "n_prompts": len(own),
        "stopped_share": clustered_estimate(stopped, None, "share", "no responses"),
    }
    for column in COMPARED:
        stem, unit = column.rsplit("_", 1)
        row[column] = clustered_estimate(own[column].astype(float), nothing="no responses")
        row[f"{stem}_difference_{unit}"] = _difference(own, record, bases, column)
    return row


def _difference(
    own: pd.DataFrame, record: Record, bases: Sequence[Record], column: str
) -> Estimate | None:
    """Own minus base, prompt by prompt; None for a base itself."""
    if record in bases:
        return None
    if len(bases) != 1:
        return Estimate(None, None, None, 0, 0, f"{len(bases)} base records to compare with")
    (base,) = bases
    if unlike := _unlike(record, base):
        return Estimate(None, None, None, 0, 0, f"the base has another {', '.join(unlike)}")
    own = own.loc[own.index.isin(_same_prompts(record, base))]
    prompts = pd.Series(own.index, index=own.index)  # each stands for itself
    return paired_difference(own[column], per_response(base)[column], prompts, "mean")


def _unlike(record: Record, base: Record) -> list[str]:
    """In which settings the two differ, besides their conditions."""
    drawn = _DRAWN if record.settings.get("temperature") else ()
    found = [key for key in (*_ASKED, *drawn) if record.settings.get(key) != base.settings.get(key)]
    models = record.model, base.model
    known = [key for key in _MODEL if all(key in model for model in models)]
    return found + [key for key in known if models[0][key] != models[1][key]]


def _same_prompts(record: Record, base: Record) -> pd.Index:
    """Ids under which both were asked the same."""
    ours, theirs = (
        one.table("responses").set_index("prompt_id")["prompt"] for one in (record, base)
    )
    ids = ours.index.intersection(theirs.index)
    same: pd.Index = ids[(ours[ids] == theirs[ids]).to_numpy()]
    return same
