"""The headline tables of one model: coverage, milestones, verdict, relations."""

from __future__ import annotations

import pandas as pd

from lensbench.records.schema.lens import MILESTONES
from lensbench.report.lens.groups import (
    base_prompts,
    by_layer,
    linked_prompts,
    milestones_of,
)
from lensbench.report.load import Record
from lensbench.stats.bootstrap import (
    Estimate,
    clustered_bootstrap,
    late_binding_verdict,
)

EMERGENCE = {"rank1_first": "reaches rank 1", "rank1_stable": "stays at rank 1"}


def top1_correct(rows: pd.DataFrame) -> pd.Series:
    """1 where the model's own output has the answer at rank 1, else 0; NaN without an answer."""
    return rows["top1_correct"].astype(float)


def coverage(record: Record, prompts: pd.DataFrame) -> Estimate:
    """Share of `prompts` that the model itself answers."""
    rows = milestones_of(record, record.main_lens, prompts)
    return clustered_bootstrap(top1_correct(rows), rows["relation"])


def milestone_depth(
    record: Record, name: str, lens: str | None = None, prompts: pd.DataFrame | None = None
) -> Estimate:
    """Median relative depth of a milestone over the answered (base) prompts that reach it."""
    rows = milestones_of(
        record, lens or record.main_lens, base_prompts(record) if prompts is None else prompts
    )
    rows = rows[top1_correct(rows) == 1]
    nothing = "no answered prompts" if rows.empty else "no answered prompt reaches it"
    return clustered_bootstrap(rows[f"{name}_depth"], rows["relation"], "median", nothing)


def coverage_table(record: Record) -> pd.DataFrame:
    """How many prompts of each kind there are, and the share that the model answers."""
    base = base_prompts(record)
    kinds = {
        "base": base,
        "paraphrase": linked_prompts(record, "paraphrase_of"),
        "reverse": linked_prompts(record, "reverse_of"),
    }
    rows = [
        {
            "prompts": kind,
            "count": len(prompts),
            "relations": prompts["relation"].nunique(),
            "answered_share": coverage(record, prompts),
        }
        for kind, prompts in kinds.items()
    ]
    return pd.DataFrame(rows)


def milestones_table(record: Record) -> pd.DataFrame:
    """Per lens and milestone: median depth over the answered base prompts, and who reach it."""
    rows = []
    for lens in record.lenses:
        answered = milestones_of(record, lens, base_prompts(record))
        answered = answered[top1_correct(answered) == 1]
        for name, meaning in MILESTONES.items():
            reached = answered[f"{name}_layer"].notna()
            rows.append(
                {
                    "lens": lens,
                    "milestone": name,
                    "meaning": meaning,
                    "median_depth": milestone_depth(record, name, lens),
                    "reached_share": clustered_bootstrap(
                        reached, answered["relation"], nothing="no answered prompts"
                    ),
                    "count": int(reached.sum()),
                    "not_reached": _reasons(answered.loc[~reached, f"{name}_reason"]),
                }
            )
    return pd.DataFrame(rows)


def _reasons(reasons: pd.Series) -> str:
    """Why values are missing, most frequent first: `12: never in the top 10; 3: ...`."""
    counts = reasons.fillna("no reason recorded").value_counts()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return "; ".join(f"{n}: {reason}" for reason, n in ordered)


def verdict_table(record: Record) -> pd.DataFrame:
    """Late binding at 75-85 % of depth: does this model's median emergence lie there?"""
    rows = []
    for name, words in EMERGENCE.items():
        depth = milestone_depth(record, name)
        verdict = late_binding_verdict(depth)
        rows.append(
            {
                "emergence": f"answer {words}",
                "median_depth": depth,
                "answered": depth.n,
                "relations": depth.n_clusters,
                "verdict": verdict.answer,
                "reason": verdict.reason,
            }
        )
    return pd.DataFrame(rows)


def relations_table(record: Record) -> pd.DataFrame:
    """One row per relation; here each prompt stands for itself in the interval."""
    base = base_prompts(record)
    milestones = milestones_of(record, record.main_lens, base)
    last = by_layer(record, "entropy_bits", base, record.main_lens).get(record.n_layers)
    rows = []
    for relation, group in milestones.groupby("relation", sort=True):
        answered = group[top1_correct(group) == 1]
        depths = {
            f"{name}_depth": clustered_bootstrap(
                answered[f"{name}_depth"], None, "median", "no answered prompts"
            )
            for name in EMERGENCE
        }
        entropy = pd.Series(dtype=float) if last is None else last.reindex(group.index)
        rows.append(
            {
                "relation": relation,
                "count": len(group),
                "answered_share": clustered_bootstrap(top1_correct(group)),
                **depths,
                "last_layer_entropy_bits": clustered_bootstrap(entropy, nothing="not recorded"),
            }
        )
    return pd.DataFrame(rows)
