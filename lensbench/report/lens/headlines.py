"""The headline tables of one model: coverage, milestones, verdict, relations."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensbench.records.lens.record import LensRecord, has_answer
from lensbench.records.schema.lens import MILESTONES, NOT_MEASURED
from lensbench.report.lens.groups import clusters, linked_prompts, why_nothing
from lensbench.stats.estimates import (
    Estimate,
    Verdict,
    clustered_estimate,
    late_binding_verdict,
    n_relations,
)

_UNSAID = f"{NOT_MEASURED} (no reason recorded)"
EMERGENCE = {"rank1_first": "first at rank 1", "rank1_stable": "stable at rank 1"}


def top1_correct(rows: pd.DataFrame) -> pd.Series:
    """1 where the model's own output has the answer at rank 1, else 0; NaN without an answer."""
    return rows["top1_correct"].astype(float)


def coverage(record: LensRecord, prompts: pd.DataFrame, link: str | None = None) -> Estimate:
    """Top-1 accuracy: the share of `prompts` with an answer that the model itself ranks first."""
    rows = record.milestones_of(record.main_lens, prompts.index[has_answer(prompts)])
    nothing = "no prompts with an answer" if len(prompts) else "no prompts"
    by = clusters(prompts.loc[rows.index], link) if link else {"clusters": rows["relation"]}
    return clustered_estimate(
        top1_correct(rows), statistic="share", nothing=why_nothing(rows, nothing), **by
    )


def correct_rows(record: LensRecord, lens: str | None = None) -> tuple[pd.DataFrame, str]:
    """Milestones of the top-1 correct base prompts, and why there is none, if so."""
    rows = record.milestones_of(lens or record.main_lens, record.answered.index)
    known = top1_correct(rows).notna()
    if len(rows) and not known.any():
        return rows[known], f"whether a prompt is top-1 correct was {NOT_MEASURED}"
    return rows[top1_correct(rows) == 1], "no correct prompts"


def reached(rows: pd.DataFrame, name: str) -> pd.Series:
    """1 where a milestone comes, 0 where it never does, NaN where nobody looked or could ask."""
    at = rows[f"{name}_at"].astype(float)
    return (at < np.inf).astype(float).where(at.notna())


def milestone_depth(record: LensRecord, name: str, lens: str | None = None) -> Estimate:
    """Median relative depth of a milestone over the top-1 correct (base) prompts that reach it."""
    return _depth(*correct_rows(record, lens), name)


def _depth(rows: pd.DataFrame, nothing: str, name: str) -> Estimate:
    if len(rows):
        nothing = _why_unknown(rows, name) or "no correct prompt reaches it"
    return clustered_estimate(rows[f"{name}_depth"], rows["relation"], "median", nothing)


def _why_unknown(rows: pd.DataFrame, name: str) -> str:
    """Why a milestone is unknown of some prompts, or of all; empty where each was asked."""
    unknown = rows[reached(rows, name).isna() & rows[f"{name}_layer"].isna()]
    reasons = unknown[f"{name}_reason"].fillna(_UNSAID)
    unmeasured = reasons[reasons.str.startswith(NOT_MEASURED)]
    if len(unmeasured):
        return str(unmeasured.mode().iloc[0])
    return str(reasons.mode().iloc[0]) if len(unknown) == len(rows) else ""


def without_trivial(milestones: pd.DataFrame, *columns: str) -> tuple[pd.DataFrame, list[str]]:
    """The milestones that say something, and the names of the rest.

    Those of which every depth lies before the first block, whatever is drawn, say nothing: the
    embedding copies its own token.
    """
    depths = milestones[list(columns)].map(lambda e: e.value == 0 and e.high in (0, None))
    trivial = depths.all(axis=1)
    return milestones[~trivial], milestones.loc[trivial, "milestone"].tolist()


def coverage_table(record: LensRecord) -> pd.DataFrame:
    """How many prompts of each kind there are, how many have an answer, how many are right."""
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
            "n_with_answer": int(has_answer(prompts).sum()),
            "n_relations": n_relations(prompts.loc[has_answer(prompts), "relation"]),
            "top1_accuracy": coverage(record, prompts, None if kind == "base" else f"{kind}_of"),
        }
        for kind, prompts in kinds.items()
    ]
    return pd.DataFrame(rows)


def milestones_table(record: LensRecord) -> pd.DataFrame:
    """Per lens and milestone: median depth over top-1 correct base prompts, and who reach it.

    The share is of those that could be asked (`n_asked`): a prompt without a category word, or one
    that contains it, counts on neither side.
    """
    rows = []
    for lens in record.lenses:
        correct, nothing = correct_rows(record, lens)
        for name, meaning in MILESTONES.items():
            came = reached(correct, name)
            depth = _depth(correct, nothing, name)
            none = nothing if correct.empty else _why_unknown(correct, name) or _UNSAID
            rows.append(
                {
                    "lens": lens,
                    "milestone": name,
                    "meaning": meaning,
                    "median_depth": depth,
                    "reached_share": clustered_estimate(came, correct["relation"], "share", none),
                    "n_prompts": depth.n,
                    "n_asked": int(came.notna().sum()),
                    "not_reached": _reasons(correct, name),
                }
            )
    return pd.DataFrame(rows)


def _reasons(rows: pd.DataFrame, name: str) -> str:
    """Why layers are missing, most frequent first: `12: never in the top 10; 3: ...`."""
    reasons = rows.loc[rows[f"{name}_layer"].isna(), f"{name}_reason"]
    counts = reasons.fillna(_UNSAID).value_counts()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return "; ".join(f"{n}: {reason}" for reason, n in ordered)


def unmeasured(estimate: Estimate) -> bool:
    """Whether there is no number because nobody measured it, not because nothing was there."""
    return estimate.value is None and NOT_MEASURED in (estimate.reason or "")


def claim_verdict(depth: Estimate) -> Verdict:
    """The verdict on late binding; of a depth that was not measured nothing is told."""
    if unmeasured(depth):
        return Verdict("cannot tell", depth.reason or NOT_MEASURED)
    return late_binding_verdict(depth)


def verdict_table(record: LensRecord) -> pd.DataFrame:
    """Late binding at 75-85 % of depth: does this model's median emergence lie there?"""
    named = n_relations(record.answered["relation"])
    rows = []
    for name, words in EMERGENCE.items():
        depth = milestone_depth(record, name)
        verdict = claim_verdict(depth)
        rows.append(
            {
                "emergence": words,
                "median_depth": depth,
                "n_prompts": depth.n,
                "n_relations": depth.n_clusters if named else 0,
                "verdict": verdict.answer,
                "reason": verdict.reason,
            }
        )
    return pd.DataFrame(rows)


def relations_table(record: LensRecord) -> pd.DataFrame:
    """One row per relation; here each prompt stands for itself in the interval."""
    base = record.answered
    milestones = record.milestones_of(record.main_lens, base.index)
    last = record.by_layer("entropy_bits", base.index, record.main_lens).get(record.n_layers)
    rows = []
    for relation, group in milestones.groupby("relation", sort=True):
        accuracy = clustered_estimate(top1_correct(group), None, "share", NOT_MEASURED)
        correct = group[top1_correct(group) == 1]
        nothing = NOT_MEASURED if accuracy.n == 0 or len(correct) else "no correct prompts"
        depths = {
            f"{name}_depth": clustered_estimate(correct[f"{name}_depth"], None, "median", nothing)
            for name in EMERGENCE
        }
        entropy = pd.Series(dtype=float) if last is None else last.reindex(group.index)
        rows.append(
            {
                "relation": relation,
                "n_prompts": len(group),
                "top1_accuracy": accuracy,
                **depths,
                "last_layer_entropy_bits": clustered_estimate(entropy, nothing=NOT_MEASURED),
            }
        )
    return pd.DataFrame(rows)
