"""Models side by side: their headlines, their curves, and differences paired by prompt."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import combinations

import pandas as pd

from lensbench.records.lens.kind import OWN
from lensbench.records.lens.record import LensRecord, has_answer
from lensbench.report.kit.table import Table
from lensbench.report.lens.headlines import EMERGENCE, top1_correct
from lensbench.report.manifest import gate_brief
from lensbench.stats.estimates import paired_difference

MOST_PAIRS = 15  # in a text
Named = tuple[str, pd.DataFrame]
CURVES = {
    "depth_curves": ("entropy_bits", "kl_bits", "answer_prob"),
    "emergence": ("answer_rank1_share", "rank1_stable_share"),
}


def labels(every: Mapping[str, LensRecord]) -> dict[str, str]:
    """What each model is called beside others: where not all were read alike, with its lens.

    Read through its own final norm it goes without saying.
    """
    kinds = {name: record.lens_kind() for name, record in every.items()}
    alike = len({kind.reads_like for kind in kinds.values()}) == 1
    plain = OWN["final"].reads_like
    return {
        name: name if alike or kind.reads_like == plain else f"{name} [{kind.brief}]"
        for name, kind in kinds.items()
    }


def models_table(
    every: Mapping[str, LensRecord], own: Mapping[str, Mapping[str, Table]]
) -> pd.DataFrame:
    """The headlines of every model, from its own tables."""
    return pd.DataFrame([_headlines(name, every[name], tables) for name, tables in own.items()])


def _headlines(name: str, record: LensRecord, tables: Mapping[str, Table]) -> dict[str, object]:
    base = tables["coverage"].row(prompts="base")
    emerged = [tables["late_binding"].row(emergence=words) for words in EMERGENCE.values()]
    depths = {f"{m}_depth": row["median_depth"] for m, row in zip(EMERGENCE, emerged, strict=True)}
    category = tables["category"].row(prompts="all")
    return {
        "model": name,
        "lens": f"{record.main_lens} ({record.lens_kind().brief})",
        "gate": gate_brief(record.manifest),
        "layers": record.n_layers,
        "n_prompts": base["n_with_answer"],
        "n_without_answer": base["n_prompts"] - base["n_with_answer"],
        "top1_accuracy": base["top1_accuracy"],
        **depths,
        "category_first_share": category["category_first_share"],
        "late_binding": emerged[0]["verdict"],
        "reason": emerged[0]["reason"],
    }


def pairs_table(every: Mapping[str, LensRecord]) -> pd.DataFrame:
    """Every pair of models: differences (second minus first) over prompts that both were asked.

    Depth differences are medians over the prompts that both get right.
    """
    named = labels(every)
    asked = [(named[name], compared(record.anew())) for name, record in every.items()]
    return pd.DataFrame([_pair(a, b) for a, b in combinations(asked, 2)])


def largest(pairs: pd.DataFrame, most: int = MOST_PAIRS) -> pd.DataFrame:
    """The pairs that a text shows: all of a few, else those that differ most in depth."""
    if len(pairs) <= most:
        return pairs
    size = pairs["rank1_first_difference_pp"].map(lambda e: -abs(e.value or 0))
    return pairs.loc[sorted(size.sort_values(kind="stable").index[:most])]


def compared(record: LensRecord) -> pd.DataFrame:
    """What pairs are made of, and no more: many models are held at once.

    Each base prompt with its text, answer ("" where it has none) and relation; by the main lens
    whether it is top-1 correct and, where it is, the depths of its emergence. By prompt_id; texts
    that several models share are in memory once.
    """
    base = record.base_prompts
    base = base.set_index(base.index.map(sys.intern))
    rows = record.milestones_of(record.main_lens, base.index)
    correct = top1_correct(rows)
    of_prompt = {
        "prompt": base["prompt"].map(sys.intern),
        "answer": base["answer"].fillna("").map(sys.intern),
        "relation": base["relation"],
        "has_answer": has_answer(base),
        "measured": base.index.isin(rows.index),
        "top1_correct": correct.reindex(base.index),
    }
    depths = {f"{name}_depth": rows[f"{name}_depth"].where(correct == 1) for name in EMERGENCE}
    return pd.DataFrame(of_prompt | {name: d.reindex(base.index) for name, d in depths.items()})


def _pair(a: Named, b: Named) -> dict[str, object]:
    shared = shared_prompts(a[1], b[1])
    shared = shared[shared["has_answer"]]
    left, right = (side.loc[shared.index] for _, side in (a, b))
    left, right = (side[side["measured"]] for side in (left, right))
    relation, both = shared["relation"], left["top1_correct"] * right["top1_correct"]
    row: dict[str, object] = {
        "first": a[0],
        "second": b[0],
        "n_shared_prompts": len(shared),
        "n_both_correct": int(both.sum()) if both.notna().any() or both.empty else None,
        "top1_accuracy_difference_pp": paired_difference(
            right["top1_correct"], left["top1_correct"], relation, "share"
        ),
    }
    for name in EMERGENCE:
        ours, theirs = (side[f"{name}_depth"] for side in (right, left))
        row[f"{name}_difference_pp"] = paired_difference(ours, theirs, relation, "median")
    return row


def shared_prompts(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Of `a` the prompts with the same id, text and answer in both; see `compared`."""
    left = a.loc[a.index.intersection(b.index)]
    other = b.loc[left.index]
    return left[(left["prompt"] == other["prompt"]) & (left["answer"] == other["answer"])]


def curves_table(
    every: Mapping[str, LensRecord], own: Mapping[str, Mapping[str, Table]]
) -> pd.DataFrame:
    """Every model's curves at its own layers; `own` holds each model's tables."""
    frames = []
    for name, label in labels(every).items():
        of_layers = {table: own[name][table].frame.set_index("layer") for table in CURVES}
        layers = sorted(set().union(*(frame.index for frame in of_layers.values())))
        frame = pd.DataFrame({"model": label, "layer": layers})
        frame["depth"] = frame["layer"] / every[name].n_layers
        for table, columns in CURVES.items():
            for column in columns:
                frame[column] = of_layers[table][column].reindex(layers).tolist()
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
