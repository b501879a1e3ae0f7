"""The report of a diff: what changed between two lens records, layer by layer, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.escape import markdown
from lensbench.records.schema.lens import MILESTONES
from lensbench.report.diff.figures import changes_figure, curves_figure, milestones_figure
from lensbench.report.diff.page import diff_page
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import to_svg
from lensbench.report.kit.markdown import gate_row
from lensbench.report.kit.tables import Table
from lensbench.report.lens.headlines import EMERGENCE
from lensbench.report.lens.limitations import FEW_PROMPTS, FEW_RELATIONS
from lensbench.report.load import SecondRecord, load_second
from lensbench.stats.bootstrap import (
    LEVEL,
    TINY,
    Estimate,
    Verdict,
    clustered_bootstrap,
    late_binding_verdict,
    paired_difference,
)

SIDES = ("a", "b")
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


def names(record: SecondRecord) -> tuple[str, str]:
    """What the two sides are called."""
    a, b = (str(record.manifest["model"][side]["name"]) for side in SIDES)
    return (a, b) if a != b else (f"{a} (a)", f"{b} (b)")


def tables(record: SecondRecord) -> dict[str, Table]:
    """The tables of one diff, by name, in the order of the report."""
    made = [
        Table(
            "conclusion",
            "Conclusion",
            conclusion_table(record),
            "The claim: answers emerge at 75-85 % of depth. Each side's median is over the base "
            "prompts that it answers; the shift is the median over prompts that both answer and "
            "that reach it in both, b minus a.",
        ),
        Table(
            "answered",
            "Answered",
            answered_table(record),
            "Base prompts whose answer's first token is the model's own next token.",
        ),
        Table(
            "milestones",
            "Milestones",
            milestones_table(record),
            "Over prompts that both answer. Medians and shift: of those that reach the milestone "
            "in both (count); b minus a, positive is later.",
        ),
        Table(
            "changes",
            "Changes by layer",
            changes_table(record),
            "Means over the base prompts of both, paired: b minus a. Rank: log2(rank b / rank a), "
            "+1 is twice as far down. Residual: cosine of the two vectors, and the norm of the "
            "change over the norm of a's. KL between lenses: KL(lens a || lens b) in bits. "
            "Probabilities p are of sign flips of whole relations, adjusted over the layers.",
        ),
        Table(
            "curves",
            "Both by layer",
            curves_table(record),
            "Means over the base prompts of both.",
        ),
        Table(
            "most_moved",
            "Most moved prompts",
            moved_table(record),
            "At the last layer: the largest change of the answer's probability first.",
        ),
        Table("differences", "What differs", differences_table(record), "Of the two runs."),
    ]
    return {table.name: table for table in made}


def conclusion_table(record: SecondRecord) -> pd.DataFrame:
    """Late binding by either side, and how far the emergence moves from one to the other."""
    prompts = record.tables["diff_prompts"]
    rows = []
    for name, words in EMERGENCE.items():
        row: dict[str, object] = {"emergence": f"answer {words}"}
        for side in SIDES:
            verdict, depth = own_verdict(prompts, name, side)
            row |= {f"{side}_median_depth": depth, f"{side}_verdict": verdict.answer}
            row[f"{side}_reason"] = verdict.reason
        rows.append(row | {"shift_points": shift(prompts, name)})
    return pd.DataFrame(rows)


def own_verdict(prompts: pd.DataFrame, name: str, side: str) -> tuple[Verdict, Estimate]:
    """One side's late-binding verdict, and the median depth that it follows from."""
    answered = prompts[_top1_correct(prompts, side)]
    nothing = "no answered prompts" if answered.empty else "no answered prompt reaches it"
    depth = clustered_bootstrap(
        answered[f"{name}_depth_{side}"], answered["relation"], "median", nothing
    )
    return late_binding_verdict(depth), depth


def shift(prompts: pd.DataFrame, name: str) -> Estimate:
    """Median of b's depth minus a's over prompts that both answer, in shares of the depth."""
    both = _both_answer(prompts)
    a, b = (both[f"{name}_depth_{side}"] for side in SIDES)
    return paired_difference(b, a, both["relation"], "median")


def _top1_correct(prompts: pd.DataFrame, side: str) -> pd.Series:
    return prompts[f"top1_correct_{side}"].fillna(False).astype(bool)


def _both_answer(prompts: pd.DataFrame) -> pd.DataFrame:
    return prompts[_top1_correct(prompts, "a") & _top1_correct(prompts, "b")]


def answered_table(record: SecondRecord) -> pd.DataFrame:
    """How many prompts each side answers, and the paired difference."""
    prompts = record.tables["diff_prompts"]
    relation = prompts["relation"]
    a, b = (prompts[f"top1_correct_{side}"].astype(float) for side in SIDES)
    row = {
        "count": len(prompts),
        "relations": relation.nunique(),
        "a_share": clustered_bootstrap(a, relation),
        "b_share": clustered_bootstrap(b, relation),
        "change_points": paired_difference(b, a, relation, "mean"),
        "both": int((a * b).sum()),
        "only_a": int((a * (1 - b)).sum()),
        "only_b": int((b * (1 - a)).sum()),
    }
    return pd.DataFrame([row])


def milestones_table(record: SecondRecord) -> pd.DataFrame:
    """Every milestone: where each side reaches it, and how far it moves prompt by prompt."""
    both = _both_answer(record.tables["diff_prompts"])
    rows = []
    for name, meaning in MILESTONES.items():
        a, b = (both[f"{name}_depth_{side}"] for side in SIDES)
        reached = a.notna() & b.notna()
        relation = both.loc[reached, "relation"]
        medians = {
            f"{side}_median_depth": clustered_bootstrap(
                depth[reached], relation, "median", "no prompt reaches it in both"
            )
            for side, depth in (("a", a), ("b", b))
        }
        rows.append(
            {
                "milestone": name,
                "meaning": meaning,
                "count": int(reached.sum()),
                **medians,
                "shift_points": shift(both, name),
                "same_depth_share": clustered_bootstrap(
                    (a[reached] == b[reached]).astype(float), relation, nothing="no prompts"
                ),
                "only_a": int((a.notna() & b.isna()).sum()),
                "only_b": int((b.notna() & a.isna()).sum()),
            }
        )
    return pd.DataFrame(rows)


def changes_table(record: SecondRecord) -> pd.DataFrame:
    """One row per layer: every change with its interval and, where tested, its adjusted p."""
    cells = record.tables["diff_cells"]
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
        frame[name] = _by_depth(cells, values, frame["depth"], nothing[name])
        if name in TESTED:
            frame[f"{name}_p"] = _adjusted_p(record, TESTED[name], frame["depth"])
    for side in SIDES:
        norms = record.manifest["model"][side].get("adapter_update_norms")
        if norms is not None and len(norms) == len(frame) - 1:
            frame[f"{side}_update_norm"] = [None, *norms]  # block i gives layer i + 1
    return frame


def residuals_reason(record: SecondRecord) -> str:
    """Why residual vectors are not compared; empty where they are."""
    return str(record.manifest["residuals_reason"] or "")


def _places(cells: pd.DataFrame) -> pd.DataFrame:
    """The layers, or depths, in order."""
    places = cells[["layer", "depth"]].drop_duplicates().sort_values("depth", ignore_index=True)
    return places.astype({"layer": "Int64"})


def _by_depth(cells: pd.DataFrame, values: pd.Series, depths: pd.Series, nothing: str) -> pd.Series:
    """The mean over prompts at each depth, whole relations drawn: an Estimate each."""
    groups = dict(list(cells.assign(value=values.astype(float)).groupby("depth")))
    means = [
        clustered_bootstrap(groups[depth]["value"], groups[depth]["relation"], nothing=nothing)
        for depth in depths
    ]
    return pd.Series(means, index=depths.index, dtype=object)


def _adjusted_p(record: SecondRecord, measure: str, depths: pd.Series) -> list[float]:
    layers = record.tables["diff_layers"]
    own = layers[layers["measure"] == measure].set_index("depth")["p_adjusted"]
    return [float(own[depth]) for depth in depths]


def curves_table(record: SecondRecord) -> pd.DataFrame:
    """One row per layer: both sides' means, and the share with the answer at rank 1."""
    cells = record.tables["diff_cells"]
    frame = _places(cells)
    for name in _CURVES:
        stem, unit = name.rsplit("_", 1)
        for side in SIDES:
            values = cells[f"{name}_{side}"]
            frame[f"{stem}_{side}_{unit}"] = _by_depth(
                cells, values, frame["depth"], "no prompt has it"
            )
    for side in SIDES:
        rank = cells[f"answer_rank_{side}"]
        first = (rank <= 1 + TINY).astype(float).where(rank.notna())
        frame[f"answer_rank1_{side}_share"] = _by_depth(
            cells, first, frame["depth"], "no prompt has an answer"
        )
    return frame


def moved_table(record: SecondRecord) -> pd.DataFrame:
    """The prompts whose answer's probability changes most at the last layer."""
    cells = record.tables["diff_cells"]
    last = cells[cells["depth"] == cells["depth"].max()].set_index("prompt_id")
    prompts = record.tables["diff_prompts"].set_index("prompt_id")
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


def differences_table(record: SecondRecord) -> pd.DataFrame:
    """Facts about model and prompts in which the two runs differ."""
    a, b = (record.manifest["model"][side] for side in SIDES)
    rows = [
        {"fact": key, "a": _fact(a.get(key)), "b": _fact(b.get(key))}
        for key in _FACTS
        if a.get(key) != b.get(key)
    ]
    return pd.DataFrame(rows, columns=["fact", "a", "b"])


def _fact(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text  # of a hash, enough to tell it


def gate(record: SecondRecord) -> pd.DataFrame:
    """The identities that held."""
    return pd.DataFrame([gate_row(check) for check in record.manifest["gate"]])


def parted(record: SecondRecord, changes: pd.DataFrame) -> dict[str, Any]:
    """Where the lenses part: the first layer from which on KL's interval lies above the threshold.

    `layer` and `depth` are None where they do not, with the `reason`.
    """
    bits = float(record.manifest["settings"]["diverge_bits"])
    points = changes["lens_kl_bits_mean"]
    nowhere: dict[str, Any] = {"layer": None, "depth": None, "bits": bits}
    if points.iloc[-1].low is None:
        return nowhere | {"reason": points.iloc[-1].reason}
    above = np.array([point.low is not None and point.low > bits for point in points])
    if not above[-1]:
        return nowhere | {"reason": "not above it at the last layer"}
    below = np.flatnonzero(~above)
    place = changes.iloc[int(below[-1]) + 1 if below.size else 0]
    return {"layer": place["layer"], "depth": place["depth"], "bits": bits, "reason": None}


def answer(made: Mapping[str, Table]) -> tuple[str, str]:
    """Does the change from a to b change the conclusion of a lens study? Yes, no, cannot tell; why.

    Yes: a late-binding verdict turns into another. No: both verdicts, of reaching rank 1 and of
    staying there, are the same on both sides. Cannot tell: one that differs, or all, cannot tell.
    """
    rows = made["conclusion"].frame.to_dict("records")
    pairs = [tuple(_verdict_key(row, side) for side in SIDES) for row in rows]
    told = [pair for pair in pairs if "cannot tell" not in pair]
    if any(a != b for a, b in told):
        return "yes", "a late-binding verdict turns into another"
    if not told or any(a != b for a, b in pairs):
        return "cannot tell", "a late-binding verdict cannot be told on one side or both"
    if len(told) < len(pairs):
        return "no", "the late-binding verdict that can be told is the same on both sides"
    return "no", "both late-binding verdicts are the same on both sides"


def _verdict_key(row: Mapping[Hashable, Any], side: str) -> str:
    """A verdict, and for `outside` on which side of the claim."""
    verdict = row[f"{side}_verdict"]
    return f"outside: {row[f'{side}_reason']}" if verdict == "outside" else str(verdict)


def headline(record: SecondRecord, made: dict[str, Table]) -> str:
    """The answer in one sentence, with its numbers."""
    verdict, why = answer(made)
    first = made["conclusion"].row(emergence="answer reaches rank 1")
    share = made["answered"].frame.iloc[0]
    a, b = map(markdown, names(record))
    return (
        f"Does the step from {a} to {b} change the conclusion of this lens study? "
        f"**{verdict.capitalize()}** ({why}): that answers emerge at 75-85 % of depth is "
        f"{_both_verdicts(first)}; rank 1 is reached {_moved(record, first)}; answered "
        f"share {numbers.estimate(share['change_points'], 'points')}"
    )


_VERDICTS = {"inside": "borne out", "outside": "not borne out", "cannot tell": "left open"}


def _both_verdicts(row: dict[str, Any]) -> str:
    a, b = (_VERDICTS[str(row[f"{side}_verdict"])] for side in SIDES)
    return f"{a} by both" if a == b else f"{a} by the first and {b} by the second"


def _moved(record: SecondRecord, row: dict[str, Any]) -> str:
    """How far the emergence moves, and over whom."""
    moved: Estimate = row["shift_points"]
    if moved.value is None:
        return f"at depths that cannot be compared ({moved.reason})"
    return (
        f"{numbers.estimate(moved, 'points')} of depth later over the {moved.n} prompts that both "
        f"answer ({against_a_layer(record, moved)})"
    )


def headline_of(folder: Path) -> str:
    """The headline of the diff in a folder as plain text, for a terminal."""
    (record,) = load_second([folder])
    return re.sub(r"\\(.)", r"\1", headline(record, tables(record)).replace("**", ""))


def against_a_layer(record: SecondRecord, moved: Estimate) -> str:
    """How a shift compares with the resolution of depth: one layer of the shallower model."""
    layers = min(int(record.manifest["model"][side]["n_layers"]) for side in SIDES)
    layer = f"one layer is {numbers.number(1 / layers, 'points').lstrip('+')}"
    if moved.low is None or moved.high is None:
        return f"{layer}; no interval"
    if max(abs(moved.low), abs(moved.high)) <= 1 / layers + TINY:
        return f"{layer}: the whole interval lies within it"
    return layer


def files(record: SecondRecord, made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """The interactive page and the figures."""
    cells, prompts = record.tables["diff_cells"], record.tables["diff_prompts"]
    yield "report.html", diff_page(names(record), made, cells, prompts)
    changes, curves = made["changes"].frame, made["curves"].frame
    yield "figures/changes.svg", to_svg(changes_figure, changes, TESTED, LEVEL)
    yield "figures/curves.svg", to_svg(curves_figure, curves, names(record))
    layers = min(int(record.manifest["model"][side]["n_layers"]) for side in SIDES)
    yield "figures/milestones.svg", to_svg(milestones_figure, made["milestones"].frame, layers)


def limitations(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """What this diff cannot show, from its own numbers."""
    a, b = (record.manifest["model"][side] for side in SIDES)
    share = made["answered"].frame.iloc[0]
    lines = []
    if share["count"] < FEW_PROMPTS:
        lines.append(f"Few prompts: {share['count']} in both (table Answered).")
    if share["relations"] < FEW_RELATIONS:
        least = 2.0 ** (1 - share["relations"])
        lines.append(
            f"Few relations: {share['relations']} (table Answered). Intervals over so few are too "
            f"narrow, and no p is below {least:.2g}."
        )
    if a["dtype"] != b["dtype"]:
        lines.append(
            f"The number format differs too ({a['dtype']} against {b['dtype']}): a part of every "
            "change is its rounding. A diff with the same model at 16 bits shows how much."
        )
    lines += [
        f"{markdown(side['name'])}: LLM.int8 without outlier columns (threshold 0), so that "
        "batches change nothing. With the usual threshold of 6, as inference has it unless told "
        "otherwise, it is another model, and nearer to the original."
        for side in (a, b)
        if side.get("int8_threshold") == 0
    ]
    if record.manifest["settings"]["relative_depth"]:
        lines.append(
            f"The models have {a['n_layers']} and {b['n_layers']} layers: they are compared at "
            "equal shares of their depth, linear between layers. No layer of one is a layer of "
            "the other."
        )
    if record.manifest["settings"]["context"]:
        lines.append("Prompts are paired by id: their texts may differ (context, template).")
    if residuals_reason(record):
        lines.append(f"Residual vectors are not compared: {markdown(residuals_reason(record))}.")
    elif record.manifest["lenses_reason"]:
        reason = markdown(record.manifest["lenses_reason"])
        lines.append(f"The lenses' distributions are not compared: {reason}")
    return lines
