"""Base prompts against what belongs to them: reverses, paraphrases, controls, categories."""

from __future__ import annotations

import pandas as pd

from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.lens import NOT_MEASURED
from lensbench.report.lens.groups import (
    category_prompts,
    clusters,
    control_prompts,
    linked_prompts,
    why_nothing,
)
from lensbench.report.lens.headlines import EMERGENCE, reached, top1_correct
from lensbench.stats.estimates import (
    Statistic,
    clustered_estimate,
    paired_difference,
)


def reverse_table(record: LensRecord) -> pd.DataFrame:
    """Each reverse question beside the base question it turns round."""
    linked = linked_prompts(record, "reverse_of")
    return _paired_table(record, linked, "reverse_of", ("forward", "reverse"))


def paraphrase_table(record: LensRecord) -> pd.DataFrame:
    """Each paraphrase beside its base prompt, and how often the two agree."""
    linked = linked_prompts(record, "paraphrase_of")
    base = linked["paraphrase_of"]
    table = _paired_table(record, linked, "paraphrase_of", ("base", "paraphrase"))
    sides = pd.concat(
        {"base": _outcomes(record, base), "own": _outcomes(record, linked.index.to_series())},
        axis=1,
    )
    correct = sides.xs("top1_accuracy", axis=1, level=1).dropna()
    agreement = {
        "measure": "same outcome (both top-1 correct, or neither)",
        "top1_accuracy": clustered_estimate(
            correct["base"] == correct["own"],
            statistic="share",
            nothing=why_nothing(linked, "no paraphrases"),
            **clusters(linked.loc[correct.index], "paraphrase_of"),
        ),
    }
    return pd.concat([table, pd.DataFrame([agreement])], ignore_index=True)


def _outcomes(record: LensRecord, ids: pd.Series) -> pd.DataFrame:
    """Top-1 correct (0 or 1), and emergence depths where so, of the prompts `ids` (any index)."""
    rows = record.milestones[record.milestones["lens"] == record.main_lens]
    rows = rows.set_index("prompt_id").reindex(ids.to_numpy()).set_axis(ids.index)
    correct = top1_correct(rows)
    depths = {f"{name}_depth": rows[f"{name}_depth"].where(correct == 1) for name in EMERGENCE}
    return pd.DataFrame({"top1_accuracy": correct, **depths})


def _paired_table(
    record: LensRecord, linked: pd.DataFrame, link: str, names: tuple[str, str]
) -> pd.DataFrame:
    """Top-1 accuracy and emergence depth on both sides of a link, and their paired difference."""
    by = clusters(linked, link)
    base, own = _outcomes(record, linked[link]), _outcomes(record, linked.index.to_series())
    nothing = f"no {names[1]} prompts" if linked.empty else "no correct prompts, or not measured"
    kinds: dict[str, Statistic] = {
        str(c): "share" if str(c).endswith("accuracy") else "median" for c in base
    }
    rows: list[dict[str, object]] = [
        dict[str, object](measure=name)
        | {
            c: clustered_estimate(side[c], statistic=kind, nothing=nothing, **by)
            for c, kind in kinds.items()
        }
        for name, side in zip(names, (base, own), strict=True)
    ]
    difference = {
        f"{c.removesuffix('_depth')}_difference_pp": paired_difference(
            own[c], base[c], statistic=kind, **by
        )
        for c, kind in kinds.items()
    }
    return pd.DataFrame([*rows, {"measure": f"{names[1]} minus {names[0]}"} | difference])


def controls_table(record: LensRecord) -> pd.DataFrame:
    """How often the base prompt's answer comes up although the subject is another one.

    All controls count, whether or not the model gets their base prompt right.
    """
    controls = control_prompts(record)
    rows = record.milestones_of(record.main_lens, controls.index)
    base = record.milestones_of(record.main_lens, record.answered.index)
    measures = {
        "at rank 1 in the output": lambda m: top1_correct(m),
        "at rank 1 at any layer": lambda m: reached(m, "rank1_first"),
        "in the top 10 at any layer": lambda m: reached(m, "top10_first"),
    }
    return pd.DataFrame(
        [
            {
                "answer": words,
                "control_share": clustered_estimate(
                    measure(rows),
                    statistic="share",
                    nothing=why_nothing(rows, "no controls"),
                    **clusters(controls.loc[rows.index], "control_of"),
                ),
                "base_share": clustered_estimate(
                    measure(base),
                    base["relation"],
                    "share",
                    why_nothing(base, "no prompts with an answer"),
                ),
            }
            for words, measure in measures.items()
        ]
    )


def category_flags(record: LensRecord, lens: str) -> pd.DataFrame:
    """Per category prompt: does the category, or the null category, come before the answer?

    Before: in the top 10 at an earlier layer, or at all where the answer never is. NaN where one of
    the two was not measured.
    """
    rows = record.milestones_of(lens, category_prompts(record).index)
    answer = rows["top10_first_at"]

    def before(name: str) -> pd.Series:
        other = rows[f"{name}_top10_at"]
        return (other < answer).astype(float).where(other.notna() & answer.notna())

    return pd.DataFrame(
        {
            "relation": rows["relation"],
            "correct": top1_correct(rows),
            "category": before("category"),
            "null": before("null_category"),
        }
    )


def category_table(record: LensRecord) -> pd.DataFrame:
    """Category before instance, beside the same share for another relation's category word."""
    flags = category_flags(record, record.main_lens)
    rows = []
    for words, group in {"all": flags, "top-1 correct": flags[flags["correct"].eq(1)]}.items():
        relation = group["relation"]
        nothing = why_nothing(group, "no prompts with a category word")
        if group.empty and len(flags):
            told = flags["correct"].notna().any()
            nothing = "no correct prompts" if told else NOT_MEASURED
        rows.append(
            {
                "prompts": words,
                "n_prompts": len(group),
                "category_first_share": clustered_estimate(
                    group["category"], relation, "share", nothing
                ),
                "null_first_share": clustered_estimate(group["null"], relation, "share", nothing),
                "difference_pp": paired_difference(
                    group["category"], group["null"], relation, "share"
                ),
            }
        )
    return pd.DataFrame(rows)
