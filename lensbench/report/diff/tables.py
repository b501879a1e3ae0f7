"""The tables of a diff: what changed between two lens records, layer by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd

from lensbench.records.facts import known_of
from lensbench.records.record import Record
from lensbench.records.schema.lens import LENS, MILESTONES
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.lens.headlines import EMERGENCE
from lensbench.report.manifest import SIDES
from lensbench.stats.estimates import (
    TINY,
    Estimate,
    Statistic,
    Verdict,
    all_within,
    clustered_estimate,
    late_binding_verdict,
    n_relations,
    paired_difference,
)

SHOWN_MOVED = 10  # prompts in the table of the most moved
_CURVES = ("entropy_bits", "kl_bits", "answer_prob")
# column of the table of changes -> column of diff_layers with its test
TESTED = {
    "entropy_bits_change": "entropy_bits",
    "kl_bits_change": "kl_bits",
    "answer_rank_log2_change": "answer_rank_log2",
    "answer_prob_change": "answer_prob",
}
_FACTS = (
    "source",
    "weights_sha256",
    "config_sha256",
    "chat_template_sha256",
    "added_tokens_sha256",
    "dtype",
    "bits",
    "int8_threshold",
    "adapter",
    "adapter_sha256",
    "device",
    "n_layers",
    "prompts",
    "prompts_sha256",
    "template",
    "limit",
)


def names(record: Record) -> tuple[str, str]:
    """What the two sides are called."""
    a, b = (str(record.manifest["model"][side]["name"]) for side in SIDES)
    return (a, b) if a != b else (f"{a} (a)", f"{b} (b)")


def tables(record: Record) -> dict[str, Table]:
    """The tables of one diff, by name."""
    return catalogue(
        {
            "verdict": ("Verdict", verdict_table(record)),
            "accuracy": ("Top-1 accuracy", accuracy_table(record)),
            "milestones": ("Milestones", milestones_table(record)),
            "changes": ("Changes by layer", changes_table(record)),
            "curves": ("Both by layer", curves_table(record)),
            "most_moved": ("Most moved prompts", moved_table(record)),
            "differences": ("What differs", differences_table(record)),
        }
    )


def verdict_table(record: Record) -> pd.DataFrame:
    """Late binding by either side, and how far the emergence moves from one to the other."""
    prompts = record.table("diff_prompts")
    rows = []
    for name, words in EMERGENCE.items():
        row: dict[str, object] = {"emergence": words}
        for side in SIDES:
            verdict, depth = own_verdict(prompts, name, side)
            row |= {f"{side}_median_depth": depth, f"{side}_verdict": verdict.answer}
            row[f"{side}_reason"] = verdict.reason
        rows.append(row | {"shift_pp": shift(prompts, name)})
    return pd.DataFrame(rows)


def own_verdict(prompts: pd.DataFrame, name: str, side: str) -> tuple[Verdict, Estimate]:
    """One side's late-binding verdict, and the median depth that it follows from."""
    own = prompts[_correct(prompts, side)]
    missed = "prompts" if own.empty else "prompt reaches it"
    depth = clustered_estimate(
        own[f"{name}_depth_{side}"], own["relation"], "median", f"no correct {missed}"
    )
    return late_binding_verdict(depth), depth


def shift(prompts: pd.DataFrame, name: str) -> Estimate:
    """Median of b's depth minus a's over prompts that both get right, in shares of the depth."""
    both = _both_correct(prompts)
    a, b = (both[f"{name}_depth_{side}"] for side in SIDES)
    return paired_difference(b, a, both["relation"], "median")


def _correct(prompts: pd.DataFrame, side: str) -> pd.Series:
    return prompts[f"top1_correct_{side}"].fillna(False).astype(bool)


def _both_correct(prompts: pd.DataFrame) -> pd.DataFrame:
    return prompts[_correct(prompts, "a") & _correct(prompts, "b")]


def accuracy_table(record: Record) -> pd.DataFrame:
    """How many prompts each side gets right, and the paired difference."""
    prompts = record.table("diff_prompts")
    relation = prompts["relation"]
    a, b = (prompts[f"top1_correct_{side}"].astype(float) for side in SIDES)
    row = {
        "n_prompts": len(prompts),
        "n_relations": n_relations(relation),
        "a_accuracy": clustered_estimate(a, relation, "share"),
        "b_accuracy": clustered_estimate(b, relation, "share"),
        "change_pp": paired_difference(b, a, relation, "share"),
        "both": int((a * b).sum()),
        "only_a": int((a * (1 - b)).sum()),
        "only_b": int((b * (1 - a)).sum()),
    }
    return pd.DataFrame([row])


def milestones_table(record: Record) -> pd.DataFrame:
    """Every milestone: where each side reaches it, and how far it moves prompt by prompt."""
    both = _both_correct(record.table("diff_prompts"))
    rows = []
    for name, meaning in MILESTONES.items():
        a, b = (both[f"{name}_depth_{side}"] for side in SIDES)
        reached = a.notna() & b.notna()
        relation = both.loc[reached, "relation"]
        medians = {
            f"{side}_median_depth": clustered_estimate(
                depth[reached], relation, "median", "no prompt reaches it in both"
            )
            for side, depth in (("a", a), ("b", b))
        }
        rows.append(
            {
                "milestone": name,
                "meaning": meaning,
                "n_prompts": int(reached.sum()),
                **medians,
                "shift_pp": shift(both, name),
                "same_depth_share": clustered_estimate(
                    (a[reached] == b[reached]).astype(float), relation, "share", "no prompts"
                ),
                "only_a": int((a.notna() & b.isna()).sum()),
                "only_b": int((b.notna() & a.isna()).sum()),
            }
        )
    return pd.DataFrame(rows)


def changes_table(record: Record) -> pd.DataFrame:
    """One row per layer: every change with its interval and, where tested, its adjusted p."""
    cells = record.table("diff_cells")
    found = {
        "entropy_bits_change": cells["entropy_bits_b"] - cells["entropy_bits_a"],
        "kl_bits_change": cells["kl_bits_b"] - cells["kl_bits_a"],
        "answer_rank_log2_change": cells["answer_rank_log2_change"],
        "answer_prob_change": cells["answer_prob_b"] - cells["answer_prob_a"],
        "top1_same_share": cells["top1_same"].astype(float),
        "resid_cosine": cells["resid_cosine"],
        "resid_change_relative": cells["resid_change"],
        "lens_kl_bits_mean": cells["lens_kl_bits"],
    }
    nothing = dict.fromkeys(found, "no prompt has it in both")
    nothing |= dict.fromkeys(("resid_cosine", "resid_change_relative"), residuals_reason(record))
    nothing["lens_kl_bits_mean"] = record.manifest["lenses_reason"] or ""
    if record.manifest["settings"]["relative_depth"]:
        nothing["top1_same_share"] = "the models' layers are at other depths"
    frame = _places(cells)
    for name, values in found.items():
        kind: Statistic = "share" if name == "top1_same_share" else "mean"
        frame[name] = _by_depth(cells, values, frame["depth"], nothing[name], kind)
        if name in TESTED:
            frame[f"{name}_p"] = _adjusted_p(record, TESTED[name], frame["depth"])
    for side in SIDES:
        norms = record.manifest["model"][side].get("adapter_update_norms")
        if norms is not None and len(norms) == len(frame) - 1:
            frame[f"{side}_update_norm"] = [None, *norms]  # block i gives layer i + 1
    return frame


def residuals_reason(record: Record) -> str:
    """Why residual vectors are not compared; empty where they are."""
    return str(record.manifest["residuals_reason"] or "")


def _places(cells: pd.DataFrame) -> pd.DataFrame:
    """The layers, or depths, in order."""
    places = cells[["layer", "depth"]].drop_duplicates().sort_values("depth", ignore_index=True)
    return places.astype({"layer": "Int64"})


def _by_depth(
    cells: pd.DataFrame,
    values: pd.Series,
    depths: pd.Series,
    nothing: str,
    statistic: Statistic = "mean",
) -> pd.Series:
    """Mean or share over prompts at each depth, clustered by relation: an Estimate each."""
    groups = dict(list(cells.assign(value=values.astype(float)).groupby("depth")))
    means = [
        clustered_estimate(groups[depth]["value"], groups[depth]["relation"], statistic, nothing)
        for depth in depths
    ]
    return pd.Series(means, index=depths.index, dtype=object)


def _adjusted_p(record: Record, measure: str, depths: pd.Series) -> list[float]:
    layers = record.table("diff_layers")
    own = layers[layers["measure"] == measure].set_index("depth")["p_adjusted"]
    return [float(own[depth]) for depth in depths]


def curves_table(record: Record) -> pd.DataFrame:
    """One row per layer: both sides' means, and the share with the answer at rank 1."""
    cells = record.table("diff_cells")
    frame = _places(cells)
    for name in _CURVES:
        stem, unit = name.rsplit("_", 1)
        for side in SIDES:
            values = cells[f"{name}_{side}"]
            points = _by_depth(cells, values, frame["depth"], "no prompt has it")
            frame[f"{stem}_{side}_{unit}"] = all_within(points, *LENS.ends(name))
    for side in SIDES:
        rank = cells[f"answer_rank_{side}"]
        first = (rank <= 1 + TINY).astype(float).where(rank.notna())
        frame[f"answer_rank1_{side}_share"] = _by_depth(
            cells, first, frame["depth"], "no prompt has an answer", "share"
        )
    return frame


def moved_table(record: Record) -> pd.DataFrame:
    """The prompts whose answer's probability changes most at the last layer."""
    cells = record.table("diff_cells")
    last = cells[cells["depth"] == cells["depth"].max()].set_index("prompt_id")
    prompts = record.table("diff_prompts").set_index("prompt_id")
    frame = pd.DataFrame(
        {
            "prompt": prompts["prompt"],
            "answer": prompts["answer"],
            "a_prob": last["answer_prob_a"].reindex(prompts.index),
            "b_prob": last["answer_prob_b"].reindex(prompts.index),
            "lens_kl_bits": last["lens_kl_bits"].reindex(prompts.index),
        }
    )
    size = (frame["b_prob"] - frame["a_prob"]).abs()
    order = size.sort_values(ascending=False, kind="stable").index
    return frame.loc[order].dropna(subset=["a_prob", "b_prob"]).head(SHOWN_MOVED)


def differences_table(record: Record) -> pd.DataFrame:
    """Facts about model and prompts in which the two runs differ."""
    a, b = (record.manifest["model"][side] for side in SIDES)
    a, b = known_of(b, a), known_of(a, b)
    rows = [
        {"fact": key, "a": _fact(a.get(key)), "b": _fact(b.get(key))}
        for key in _FACTS
        if a.get(key) != b.get(key)
    ]
    return pd.DataFrame(rows, columns=["fact", "a", "b"])


def _fact(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # of a hash, enough to tell it
