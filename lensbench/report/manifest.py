"""What a manifest says in a report: model, gate, code, machine and day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.kit.markdown import flat, gate_row

_HIDDEN = ("gate", "adapter.modules", "adapter.blocks")  # empty, or in a table
_OF_MODEL = (
    "source",
    "dtype",
    "bits",
    "int8_threshold",
    "adapter",
    "device",
    "n_layers",
    "n_params",
)
_OF_SETTINGS = ("prompts", "n_prompts", "template", "lenses", "style", "data", "limit")
SIDES = ("a", "b")  # of a diff


def models(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models that a record is about, by name: one, or the two sides of a diff."""
    model = manifest["model"]
    each = [model[side] for side in SIDES] if "a" in model else [model]
    return {str(one["name"]): one for one in each}


def facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model, prompts and day in a few lines."""
    rows = [
        (name, ", ".join(f"{key} {model[key]}" for key in _OF_MODEL if model.get(key) is not None))
        for name, model in models(manifest).items()
    ]
    told = [(key, manifest["settings"].get(key)) for key in _OF_SETTINGS]
    said = [f"{key} {', '.join(map(str, v)) if isinstance(v, list) else v}" for key, v in told if v]
    rows += [("settings", ", ".join(said))] if said else []
    return rows + list(zip(("code", "made"), how_made(manifest), strict=True))


def summary(manifest: Mapping[str, Any]) -> str:
    """Whose numbers, from which day, and whether the gate held, in one line."""
    checks = [check.get("passed") for check in manifest["gate"]]
    held = f", gate: {checks.count(True)} of {len(checks)} checks passed" if checks else ""
    return f"{', '.join(models(manifest))}: {manifest['created']}{held}"


def gate_rows(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    """The exactness checks and how they went."""
    return [gate_row(check) for check in manifest["gate"]]


def gate(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """The same as a table."""
    return pd.DataFrame(gate_rows(manifest))


def how_made(manifest: Mapping[str, Any]) -> list[str]:
    """Code, machine and day of a record, a line each."""
    git = manifest.get("git") or {}
    commit = f", commit {git['commit'][:12]}" if git else ""
    changed = " with uncommitted changes" if git.get("dirty") else ""
    packages = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    machine = manifest["machine"]
    gib = machine["memory_bytes"] / 2**30
    return [
        f"lensbench {manifest['lensbench_version']}{commit}{changed}; {packages}.",
        f"{machine['cpu']}, {machine['cores']} cores, {gib:.0f} GiB, {machine['os']}; "
        f"{manifest['created']}, {manifest['wall_s']:.0f} s.",
    ]


def provenance(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Every entry under its dotted name, but for what stands in a table of its own."""
    rows = [(key, value) for key, value in flat(dict(manifest)) if key not in _HIDDEN]
    return pd.DataFrame(rows, columns=["key", "value"])


def limitations(record: Record) -> list[str]:
    """What holds for records of every kind: gate, bits, batches, problems, unpinned code."""
    manifest, lines = record.manifest, []
    for check in manifest["gate"]:
        if not check.get("passed"):
            outcome = "not measured" if check.get("passed") is None else "failed"
            reason = markdown(check.get("reason") or "no reason recorded")
            lines.append(f"Gate: {markdown(check['identity'])} {outcome} ({reason}).")
    model = manifest["model"]
    if model.get("bits") in (4, 8):
        lines.append(f"The weights were held in {model['bits']} bits, which changes what they say.")
    if model.get("int8_threshold"):
        lines.append(
            "LLM.int8 picks its outlier columns over a whole batch (threshold "
            f"{model['int8_threshold']:g}), so a row's numbers depend a little on its neighbours; "
            "with threshold 0, as a lens has it unless told otherwise, they do not: another model."
        )
    n_problems = len(record.table("problems"))
    if n_problems:
        lines.append(
            f"Items that were skipped, cut or not measured: {n_problems} (listed under Problems)."
        )
    git = manifest.get("git")
    if not git or git.get("dirty"):
        state = "had uncommitted changes" if git else "is not from a git checkout"
        lines.append(f"The code that measured this {state}, so the version may not pin it.")
    return lines
