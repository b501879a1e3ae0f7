"""The headline tables of one model: coverage, milestones, groups of prompts, lens sensitivity."""

from __future__ import annotations

import pandas as pd

from lensbench.records.schema import MILESTONES
from lensbench.report.groups import (
    base_prompts,
    by_layer,
    category_prompts,
    control_prompts,
    linked_prompts,
    milestones_of,
)
from lensbench.report.load import Record
from lensbench.report.statistics import (
    Estimate,
    Statistic,
    clustered_bootstrap,
    late_binding_verdict,
    overlap,
    paired_difference,
)

EMERGENCE = {"answer_first": "reaches rank 1", "answer_stays": "stays at rank 1"}


def solved(rows: pd.DataFrame) -> pd.Series:
    """1 where the model's own output has the answer at rank 1, else 0; NaN without an answer."""
    return rows["solved"].astype(float)


def coverage(record: Record, prompts: pd.DataFrame) -> Estimate:
    """Share of `prompts` that the model itself answers."""
    rows = milestones_of(record, record.main_lens, prompts)
    return clustered_bootstrap(solved(rows), rows["relation"])


def milestone_depth(
    record: Record, name: str, lens: str | None = None, prompts: pd.DataFrame | None = None
) -> Estimate:
    """Median relative depth of a milestone over the answered (base) prompts that reach it."""
    rows = milestones_of(
        record, lens or record.main_lens, base_prompts(record) if prompts is None else prompts
    )
    rows = rows[solved(rows) == 1]
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
        answered = answered[solved(answered) == 1]
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
        answered = group[solved(group) == 1]
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
                "answered_share": clustered_bootstrap(solved(group)),
                **depths,
                "last_layer_entropy_bits": clustered_bootstrap(entropy, nothing="not recorded"),
            }
        )
    return pd.DataFrame(rows)


def reverse_table(record: Record) -> pd.DataFrame:
    """Each reverse question beside the base question it turns round."""
    linked = linked_prompts(record, "reverse_of")
    return _paired_table(record, linked, linked["reverse_of"], ("forward", "reverse"))


def paraphrase_table(record: Record) -> pd.DataFrame:
    """Each paraphrase beside its base prompt, and how often the two agree."""
    linked = linked_prompts(record, "paraphrase_of")
    base = linked["paraphrase_of"]
    table = _paired_table(record, linked, base, ("base", "paraphrase"))
    sides = pd.concat(
        {"base": _outcomes(record, base), "own": _outcomes(record, linked.index.to_series())},
        axis=1,
    )
    answered = sides.xs("answered_share", axis=1, level=1).dropna()
    agreement = {
        "measure": "same outcome (both answered, or neither)",
        "answered_share": clustered_bootstrap(
            answered["base"] == answered["own"],
            linked["relation"].reindex(answered.index),
            nothing="no paraphrases",
        ),
    }
    return pd.concat([table, pd.DataFrame([agreement])], ignore_index=True)


def _outcomes(record: Record, ids: pd.Series) -> pd.DataFrame:
    """Answered (0 or 1), and emergence depths where answered, of the prompts `ids` (any index)."""
    rows = record.milestones[record.milestones["lens"] == record.main_lens]
    rows = rows.set_index("prompt_id").reindex(ids.to_numpy()).set_axis(ids.index)
    answered = solved(rows)
    depths = {f"{name}_depth": rows[f"{name}_depth"].where(answered == 1) for name in EMERGENCE}
    return pd.DataFrame({"answered_share": answered, **depths})


def _paired_table(
    record: Record, linked: pd.DataFrame, base_ids: pd.Series, names: tuple[str, str]
) -> pd.DataFrame:
    """Answered share and emergence depth on both sides of a link, and their paired difference."""
    relation = linked["relation"]
    base, own = _outcomes(record, base_ids), _outcomes(record, linked.index.to_series())
    nothing = f"no {names[1]} prompts" if linked.empty else "no answered prompts"
    kinds: dict[str, Statistic] = {
        str(c): "mean" if str(c).endswith("share") else "median" for c in base
    }
    rows: list[dict[str, object]] = [
        dict[str, object](measure=name)
        | {c: clustered_bootstrap(side[c], relation, kind, nothing) for c, kind in kinds.items()}
        for name, side in zip(names, (base, own), strict=True)
    ]
    difference = {
        f"{c.rsplit('_', 1)[0]}_difference_points": paired_difference(
            own[c], base[c], relation, kind
        )
        for c, kind in kinds.items()
    }
    return pd.DataFrame([*rows, {"measure": f"{names[1]} minus {names[0]}"} | difference])


def controls_table(record: Record) -> pd.DataFrame:
    """How often the base prompt's answer comes up although the subject is another one.

    All controls count, whether or not the model answers their base prompt.
    """
    controls = control_prompts(record)
    rows = milestones_of(record, record.main_lens, controls)
    base = milestones_of(record, record.main_lens, base_prompts(record))
    measures = {
        "at rank 1 in the output": lambda m: solved(m),
        "at rank 1 at any layer": lambda m: m["answer_first_layer"].notna(),
        "in the top 10 at any layer": lambda m: m["answer_top10_layer"].notna(),
    }
    return pd.DataFrame(
        [
            {
                "answer": words,
                "control_share": clustered_bootstrap(
                    measure(rows), rows["relation"], nothing="no controls"
                ),
                "base_share": clustered_bootstrap(measure(base), base["relation"]),
            }
            for words, measure in measures.items()
        ]
    )


def category_flags(record: Record, lens: str) -> pd.DataFrame:
    """Per category prompt: does the category, or the null category, come before the answer?

    Before: in the top 10 at an earlier layer, or at all where the answer never is.
    """
    rows = milestones_of(record, lens, category_prompts(record))
    answer = rows["answer_top10_layer"].astype(float).fillna(float("inf"))
    return pd.DataFrame(
        {
            "relation": rows["relation"],
            "answered": solved(rows) == 1,
            "category": (rows["category_top10_layer"].astype(float) < answer).astype(float),
            "null": (rows["null_category_top10_layer"].astype(float) < answer).astype(float),
        }
    )


def category_table(record: Record) -> pd.DataFrame:
    """Category before instance, beside the same share for another relation's category word."""
    flags = category_flags(record, record.main_lens)
    rows = []
    for words, group in {"all": flags, "answered": flags[flags["answered"]]}.items():
        relation = group["relation"]
        nothing = "no prompts with a category word"
        rows.append(
            {
                "prompts": words,
                "count": len(group),
                "category_first_share": clustered_bootstrap(
                    group["category"], relation, nothing=nothing
                ),
                "null_first_share": clustered_bootstrap(group["null"], relation, nothing=nothing),
                "difference_points": paired_difference(
                    group["category"], group["null"], relation, "mean"
                ),
            }
        )
    return pd.DataFrame(rows)


def sensitivity_table(record: Record) -> pd.DataFrame:
    """Each headline by each lens, and whether the choice of lens changes the conclusion."""
    rows: list[dict[str, object]] = []
    base = base_prompts(record)
    for lens in record.lenses:
        milestones = milestones_of(record, lens, base)
        read = (solved(milestones) == 1) & milestones["answer_stays_layer"].notna()
        flags = category_flags(record, lens)
        first, stays = (milestone_depth(record, name, lens) for name in EMERGENCE)
        rows.append(
            {
                "lens": lens,
                "answer_first_depth": first,
                "answer_stays_depth": stays,
                "answered_share": clustered_bootstrap(read, milestones["relation"]),
                "category_first_share": clustered_bootstrap(
                    flags["category"], flags["relation"], nothing="no prompts with a category word"
                ),
                "verdict": late_binding_verdict(first).answer,
            }
        )
    reference = next(row for row in rows if row["lens"] == record.main_lens)
    for row in rows:
        row["changes"] = "reference" if row is reference else _changes(row, reference)
    return pd.DataFrame(rows)


def _changes(row: dict[str, object], reference: dict[str, object]) -> str:
    """What differs from the reference lens: the verdict, or an interval that does not overlap."""
    found = ["the verdict differs"] if row["verdict"] != reference["verdict"] else []
    unknown = []
    for column, value in row.items():
        other = reference[column]
        if isinstance(value, Estimate) and isinstance(other, Estimate):
            shared = overlap(value, other)
            name = column.replace("_", " ")
            if shared is None:
                unknown.append(name)
            elif not shared:
                found.append(f"{name}: intervals do not overlap")
    if found:
        return "yes: " + "; ".join(found)
    return f"cannot tell: no interval for {', '.join(unknown)}" if unknown else "no"
