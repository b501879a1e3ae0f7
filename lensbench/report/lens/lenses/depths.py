"""Depth of emergence fact by fact, paired between lenses, and what is read, lost and read again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from lensbench.records.lens.record import LensRecord
from lensbench.report.lens.headlines import EMERGENCE, top1_correct
from lensbench.stats.estimates import clustered_estimate, n_relations, paired_difference

_MAIN = "rank1_first"  # what relations are sorted by
_REFERENCE = "final"


def _depth(record: LensRecord, name: str, lens: str) -> pd.Series:
    """Of the base prompts that are top-1 correct, by prompt_id; NaN where a lens has none."""
    rows = record.milestones_of(lens, record.answered.index)
    return rows[f"{name}_depth"].where(top1_correct(rows) == 1)


def _pairs(record: LensRecord) -> Iterator[tuple[str, dict[str, tuple[pd.Series, pd.Series]]]]:
    """Each lens but `final` beside it: both depths of each emergence."""
    lenses = record.headline_lenses
    for lens in lenses if _REFERENCE in lenses else ():
        if lens != _REFERENCE:
            yield (
                lens,
                {
                    name: (_depth(record, name, lens), _depth(record, name, _REFERENCE))
                    for name in EMERGENCE
                },
            )


def depths_table(record: LensRecord) -> pd.DataFrame:
    """Median difference in depth, lens minus `final`, over the facts that both read."""
    relation = record.answered["relation"]
    rows = []
    for lens, depths in _pairs(record):
        for name, words in EMERGENCE.items():
            own, final = depths[name]
            both = own.notna() & final.notna()
            change = (own - final)[both]
            difference = paired_difference(own, final, relation)
            rows.append(
                {
                    "lens": lens,
                    "minus": _REFERENCE,
                    "emergence": words,
                    "n_both_read": int(both.sum()),
                    "n_relations": n_relations(relation.reindex(change.index)),
                    "difference_pp": difference,
                    "n_earlier": int((change < 0).sum()),
                    "n_same": int((change == 0).sum()),
                    "n_later": int((change > 0).sum()),
                }
            )
    return pd.DataFrame(rows)


def relations_table(record: LensRecord) -> pd.DataFrame:
    """The same by relation, those first that move most; each prompt stands for itself."""
    relation = record.answered["relation"]
    rows = []
    for lens, depths in _pairs(record):
        for value, ids in relation.groupby(relation, sort=True).groups.items():
            row: dict[str, object] = {"lens": lens, "minus": _REFERENCE, "relation": value}
            for name in EMERGENCE:
                change = (depths[name][0] - depths[name][1]).reindex(ids)
                nothing = "no fact that both lenses read"
                row[f"n_{name}"] = int(change.notna().sum())
                row[f"{name}_difference_pp"] = clustered_estimate(change, None, "median", nothing)
            rows.append(row)
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    moved = [-1 if e.value is None else abs(e.value) for e in frame[f"{_MAIN}_difference_pp"]]
    order = frame.assign(moved=-np.round(moved, 9)).sort_values(["lens", "moved"], kind="stable")
    return frame.loc[order.index].reset_index(drop=True)


def _lost(record: LensRecord, lens: str) -> pd.DataFrame:
    """The facts that a lens reads to the end; `lost` those that it read earlier, and not between.

    Where either milestone was not measured nothing is known of the fact.
    """
    rows = record.milestones_of(lens, record.answered.index)
    first, stable = rows["rank1_first_at"], rows["rank1_stable_at"]
    read = (stable < np.inf) & first.notna()
    kept = rows[read]
    return kept.assign(lost=(first < stable)[read].astype(float))


def forgotten_table(record: LensRecord) -> pd.DataFrame:
    """Per lens how many facts are at rank 1, then not, then again to the end."""
    rows = []
    lenses = record.headline_lenses
    for lens in lenses if len(lenses) > 1 else ():
        facts = _lost(record, lens)
        gap = (facts["rank1_stable_depth"] - facts["rank1_first_depth"])[facts["lost"] == 1]
        nothing = "no fact is read to the end"
        rows.append(
            {
                "lens": lens,
                "n_read": len(facts),
                "n_forgotten": int(facts["lost"].sum()),
                "forgotten_share": clustered_estimate(
                    facts["lost"], facts["relation"], "share", nothing
                ),
                "from_first_to_stable_pp": clustered_estimate(
                    gap,
                    facts["relation"].reindex(gap.index),
                    "median",
                    "no fact is forgotten" if len(facts) else nothing,
                ),
            }
        )
    return pd.DataFrame(rows)


def forgotten_facts(record: LensRecord) -> pd.DataFrame:
    """Those facts, the longest way from the first rank 1 to the stable one first."""
    lenses = record.headline_lenses
    found = [row for lens in lenses if len(lenses) > 1 for row in _forgotten(record, lens)]
    frame = pd.DataFrame(found)
    if frame.empty:
        return frame
    way = frame.assign(way=frame["first_layer"] - frame["stable_layer"])
    order = way.sort_values(["way", "lens", "prompt_id"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def _forgotten(record: LensRecord, lens: str) -> Iterator[dict[str, object]]:
    facts = _lost(record, lens)
    facts = facts[facts["lost"] == 1]
    places = record.by_layer("answer_place", facts.index, lens).to_dict("index")
    prompts = record.prompts.loc[facts.index].to_dict("records")
    ends = zip(facts["rank1_first_at"], facts["rank1_stable_at"], strict=True)
    for prompt_id, prompt, (first, stable) in zip(facts.index, prompts, ends, strict=True):
        ranks = places[prompt_id].items()
        lost = {layer: rank for layer, rank in ranks if first < layer < stable and rank > 1}
        yield {
            "lens": lens,
            "prompt_id": prompt_id,
            "prompt": prompt["prompt"],
            "answer": prompt["answer"],
            "first_layer": int(first),
            "forgotten_at_layers": ", ".join(map(str, lost)),
            "worst_rank": int(max(lost.values())),
            "stable_layer": int(stable),
        }
