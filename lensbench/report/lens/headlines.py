"""The headline tables of one model: coverage, milestones, verdict, relations."""

from __future__ import annotations

import pandas as pd

from lensbench.records.lens_record import LensRecord
from lensbench.records.schema.lens import MILESTONES
from lensbench.report.lens.groups import linked_prompts
from lensbench.stats.bootstrap import (
    Estimate,
    clustered_bootstrap,
    late_binding_verdict,
)

EMERGENCE = {"rank1_first": "first at rank 1", "rank1_stable": "stable at rank 1"}


def top1_correct(rows: pd.DataFrame) -> pd.Series:
    """1 where the model's own output has the answer at rank 1, else 0; NaN without an answer."""
    return rows["top1_correct"].astype(float)


def coverage(record: LensRecord, prompts: pd.DataFrame) -> Estimate:
    """Top-1 accuracy: the share of `prompts` whose answer the model itself ranks first."""
    rows = record.milestones_of(record.main_lens, prompts.index)
    return clustered_bootstrap(top1_correct(rows), rows["relation"])


def milestone_depth(record: LensRecord, name: str, lens: str | None = None) -> Estimate:
    """Median relative depth of a milestone over the top-1 correct (base) prompts that reach it."""
    rows = record.milestones_of(lens or record.main_lens, record.base_prompts.index)
    rows = rows[top1_correct(rows) == 1]
    nothing = "no correct prompts" if rows.empty else "no correct prompt reaches it"
    return clustered_bootstrap(rows[f"{name}_depth"], rows["relation"], "median", nothing)


def without_trivial(milestones: pd.DataFrame, *columns: str) -> tuple[pd.DataFrame, list[str]]:
    """The milestones that say something, and the names of the rest.

    Those of which every depth lies before the first block, whatever is drawn, say nothing: the
    embedding copies its own token.
    """
    depths = milestones[list(columns)].map(lambda e: e.value == 0 and e.high in (0, None))
    trivial = depths.all(axis=1)
    return milestones[~trivial], milestones.loc[trivial, "milestone"].tolist()


def coverage_table(record: LensRecord) -> pd.DataFrame:
    """How many prompts of each kind there are, and how many the model gets right."""
    base = record.base_prompts
    kinds = {
        "base": base,
        "paraphrase": linked_prompts(record, "paraphrase_of"),
        "reverse": linked_prompts(record, "reverse_of"),
    }
    rows = [
        {
            "prompts": kind,
            "n_prompts": len(prompts),
            "n_relations": prompts["relation"].nunique(),
            "top1_accuracy": coverage(record, prompts),
        }
        for kind, prompts in kinds.items()
    ]
    return pd.DataFrame(rows)


def milestones_table(record: LensRecord) -> pd.DataFrame:
    """Per lens and milestone: median depth over top-1 correct base prompts, and who reach it."""
    rows = []
    for lens in record.lenses:
        correct = record.milestones_of(lens, record.base_prompts.index)
        correct = correct[top1_correct(correct) == 1]
        for name, meaning in MILESTONES.items():
            reached = correct[f"{name}_layer"].notna()
            rows.append(
                {
                    "lens": lens,
                    "milestone": name,
                    "meaning": meaning,
                    "median_depth": milestone_depth(record, name, lens),
                    "reached_share": clustered_bootstrap(
                        reached, correct["relation"], nothing="no correct prompts"
                    ),
                    "n_prompts": int(reached.sum()),
                    "not_reached": _reasons(correct.loc[~reached, f"{name}_reason"]),
                }
            )
    return pd.DataFrame(rows)


def _reasons(reasons: pd.Series) -> str:
    """Why values are missing, most frequent first: `12: never in the top 10; 3: ...`."""
    counts = reasons.fillna("no reason recorded").value_counts()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return "; ".join(f"{n}: {reason}" for reason, n in ordered)


def verdict_table(record: LensRecord) -> pd.DataFrame:
    """Late binding at 75-85 % of depth: does this model's median emergence lie there?"""
    rows = []
    for name, words in EMERGENCE.items():
        depth = milestone_depth(record, name)
        verdict = late_binding_verdict(depth)
        rows.append(
            {
                "emergence": words,
                "median_depth": depth,
                "n_prompts": depth.n,
                "n_relations": depth.n_clusters,
                "verdict": verdict.answer,
                "reason": verdict.reason,
            }
        )
    return pd.DataFrame(rows)


def relations_table(record: LensRecord) -> pd.DataFrame:
    """One row per relation; here each prompt stands for itself in the interval."""
    base = record.base_prompts
    milestones = record.milestones_of(record.main_lens, base.index)
    last = record.by_layer("entropy_bits", base.index, record.main_lens).get(record.n_layers)
    rows = []
    for relation, group in milestones.groupby("relation", sort=True):
        correct = group[top1_correct(group) == 1]
        depths = {
            f"{name}_depth": clustered_bootstrap(
                correct[f"{name}_depth"], None, "median", "no correct prompts"
            )
            for name in EMERGENCE
        }
        entropy = pd.Series(dtype=float) if last is None else last.reindex(group.index)
        rows.append(
            {
                "relation": relation,
                "n_prompts": len(group),
                "top1_accuracy": clustered_bootstrap(top1_correct(group)),
                **depths,
                "last_layer_entropy_bits": clustered_bootstrap(entropy, nothing="not recorded"),
            }
        )
    return pd.DataFrame(rows)
