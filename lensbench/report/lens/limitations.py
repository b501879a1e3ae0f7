"""What these data cannot show, each point with the number that it follows from."""

from __future__ import annotations

from typing import Any

from lensbench.escape import markdown
from lensbench.report.kit import numbers
from lensbench.report.kit.tables import Table
from lensbench.report.lens.groups import base_prompts
from lensbench.report.load import Record
from lensbench.stats.bootstrap import MIN_PROMPTS, Estimate

FEW_PROMPTS = 100
FEW_RELATIONS = 6
LOW_COVERAGE = 0.5
WIDE = 0.2  # of depth
LEAKING = 0.1  # share of controls
MOST_NAMED = 10


def limitations(record: Record, tables: dict[str, Table]) -> list[str]:
    """One Markdown line each, for this record; never empty text that fits any record."""
    return [
        *_prompts(tables),
        *_depths(tables),
        *_answers(record),
        *_checks(tables),
        *_measurement(record),
    ]


def _prompts(tables: dict[str, Table]) -> list[str]:
    base = tables["coverage"].row(prompts="base")
    lines = []
    if base["count"] < FEW_PROMPTS:
        lines.append(f"Few prompts: {base['count']} base prompts (table Coverage).")
    if base["relations"] < FEW_RELATIONS:
        lines.append(
            f"Few relations: {base['relations']} (table Coverage). Intervals over so few clusters "
            "are too narrow."
        )
    share: Estimate = base["answered_share"]
    if share.value is not None and share.value < LOW_COVERAGE:
        lines.append(
            f"Low coverage: the model answers {numbers.estimate(share, 'share')} of the base "
            "prompts (table Coverage). The depths are about these and say nothing about the rest."
        )
    lines += [
        f"No {kind} prompts: that comparison is missing (table Coverage)."
        for kind in ("paraphrase", "reverse")
        if tables["coverage"].row(prompts=kind)["count"] == 0
    ]
    return lines


def _depths(tables: dict[str, Table]) -> list[str]:
    lines = []
    for row in tables["late_binding"].frame.to_dict("records"):
        depth: Estimate = row["median_depth"]
        if depth.n < MIN_PROMPTS:
            lines.append(f"{row['emergence']}: {depth.n} answered prompts (table Late binding).")
        elif depth.low is None or depth.high is None:
            lines.append(f"{row['emergence']}: {depth.reason} (table Late binding).")
        elif depth.high - depth.low > WIDE:
            lines.append(
                f"{row['emergence']}: the interval is wide, {numbers.estimate(depth, 'depth')} "
                "(table Late binding)."
            )
    return lines


def _answers(record: Record) -> list[str]:
    base = base_prompts(record)
    lines = []
    several = int((base["answer_n_tokens"] > 1).sum())
    if several:
        lines.append(
            "Base answers longer than one token, scored on the first one only: "
            f"{several} of {len(base)}."
        )
    shared = base[base["answer_shared_with"].notna()]
    if len(shared):
        named = [
            f"{markdown(row['answer'])} = {markdown(row['answer_shared_with'])}"
            for row in shared.head(MOST_NAMED).to_dict("records")
        ]
        more = f" and {len(shared) - MOST_NAMED} more" if len(shared) > MOST_NAMED else ""
        lines.append(
            "Base answers that cannot be told from another, having the same first token: "
            f"{len(shared)} of {len(base)} ({', '.join(named)}{more})."
        )
    without = int(base["answer_id"].isna().sum())
    if without:
        lines.append(
            f"Base prompts without an answer, which count in no answer statistic: {without}."
        )
    return lines


def _checks(tables: dict[str, Table]) -> list[str]:
    lines = []
    leak: Estimate = tables["controls"].row(answer="at rank 1 in the output")["control_share"]
    if leak.value is None:
        lines.append("No controls: how much the template alone gives away is not known.")
    elif leak.value > LEAKING:
        lines.append(
            f"The template alone gives answers away: {numbers.estimate(leak, 'share')} of the "
            "controls still put the base prompt's answer at rank 1 (table Controls)."
        )
    sensitivity = tables["sensitivity"].frame
    if len(sensitivity) < 2:
        lines.append("One lens only: how much the headlines depend on it was not measured.")
    changed = sensitivity[sensitivity["changes"].str.startswith("yes")]
    lines += [
        f"With the lens {row['lens']} a conclusion changes ({row['changes'][5:]}; "
        "table Sensitivity to the lens)."
        for row in changed.to_dict("records")
    ]
    return lines


def _measurement(record: Record) -> list[str]:
    manifest, lines = record.manifest, []
    dtype = manifest["model"].get("dtype")
    if dtype != "float32":
        lines.append(
            f"The model ran in {markdown(str(dtype))}, not float32: expect rounding in all values."
        )
    for check in manifest["gate"]:
        if not check.get("passed"):
            outcome = "not measured" if check.get("passed") is None else "failed"
            lines.append(
                f"Gate: {markdown(check['identity'])} {outcome} "
                f"({markdown(check.get('reason') or 'no reason recorded')})."
            )
    if len(record.problems):
        lines.append(
            f"Items that could not be measured: {len(record.problems)} (listed under Problems)."
        )
    return lines + unpinned_code(manifest)


def unpinned_code(manifest: dict[str, Any]) -> list[str]:
    """What holds for every kind of record that was measured by code no commit pins."""
    git = manifest.get("git")
    if git and not git.get("dirty"):
        return []
    state = "had uncommitted changes" if git else "is not from a git checkout"
    return [f"The code that measured this {state}, so the version may not pin it."]
