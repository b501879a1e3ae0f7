"""What a manifest says in a report: model, gate, code, machine and day."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.report.kit.markdown import flat, gate_row

_HIDDEN = ("gate", "training", "kept", "adapter.modules", "adapter.blocks")  # empty, or in a table
_OF_MODEL = (
    "source",
    "dtype",
    "bits",
    "int8_threshold",
    "adapter",
    "device",
    "device_name",
    "n_layers",
    "n_params",
)
_OF_SETTINGS = ("prompts", "n_prompts", "template", "lenses", "style", "data", "limit")
_MOST_TOLD = 3  # records in a line
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
    measured = measured_by(manifest)
    rows += [("measured", measured)] if measured else []
    rows += [("planned", _planned(manifest))] if _was_planned(manifest) else []
    return rows + list(zip(("code", "made"), how_made(manifest)[-2:], strict=True))


def gate_brief(manifest: Mapping[str, Any]) -> str:
    """How the gate of a record went, in two words: whose checks, and how many held."""
    checks = [check.get("passed") for check in manifest["gate"]]
    if False in checks:
        return f"FAILED, {checks.count(False)} of {len(checks)} checks"
    if manifest.get("measured"):
        return "imported: not checked"
    if True not in checks:
        return "none: not checked"
    return f"passed, {checks.count(True)} of {len(checks)} checks"


def gate_said(manifest: Mapping[str, Any]) -> str:
    """What follows from the gate of a record, in a sentence."""
    checks = [check.get("passed") for check in manifest["gate"]]
    if manifest["kind"] != "lens":
        return (
            "It had to hold before anything was written."
            if False not in checks
            else ("It FAILED: the numbers are not the model's own.")
        )
    exact = "that the lens at the last layer is the model's own output"
    if False in checks:
        return "It FAILED: the lens does not reproduce the model, so the numbers are not its own."
    if manifest.get("measured"):
        return f"The record was measured elsewhere and imported: lensbench has not checked {exact}."
    if True not in checks:
        return f"This record has none: nobody has checked {exact}."
    return "Before anything was written, the lens had to reproduce the model."


def gates_said(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """The same of several records by the names of their models: each sentence once."""
    whose: dict[str, list[str]] = {}
    for name, manifest in manifests.items():
        if manifest["kind"] == "lens" or manifest["gate"]:
            whose.setdefault(gate_said(manifest), []).append(name)
    if len(whose) < 2:
        return "".join(whose)
    return " ".join(f"{', '.join(names)}: {said}" for said, names in whose.items())


def measured_by(manifest: Mapping[str, Any]) -> str | None:
    """Who measured an imported record; None of one that lensbench measured."""
    told = manifest.get("measured")
    if not told:
        return None
    tool = " ".join(str(told[key]) for key in ("tool", "version") if told.get(key))
    rest = [f"{key}: {told[key]}" for key in ("by", "day", "source") if told.get(key)]
    return "; ".join([f"measured with {tool or 'a tool that the record does not name'}", *rest])


def summary(manifest: Mapping[str, Any]) -> str:
    """Whose numbers, from which day, and whether the gate held, in one line."""
    held = (
        f", gate: {gate_brief(manifest)}" if manifest["kind"] == "lens" or manifest["gate"] else ""
    )
    return f"{', '.join(models(manifest))}: {manifest['created']}{held}"


def summaries(manifests: Sequence[Mapping[str, Any]]) -> str:
    """The same of several records; of many, how many there are."""
    if len(manifests) <= _MOST_TOLD:
        return "; ".join(map(summary, manifests))
    days = sorted({str(manifest["created"]) for manifest in manifests})
    gates = ", ".join(sorted({gate_brief(manifest) for manifest in manifests}))
    return f"{len(manifests)} records, {days[0]} to {days[-1]}; gates: {gates}"


def said_of_failed(failed: Mapping[str, str], there: Collection[str]) -> str:
    """Models that the last run could not measure, by name; nothing where there are none.

    `there`: models of which an earlier run's numbers are reported.
    """
    missing = ", ".join(name for name in failed if name not in there)
    before = ", ".join(name for name in failed if name in there)
    told = {"not measured": missing, "of an earlier run than the last": before}
    return "".join(f"; {what}: {names}" for what, names in told.items() if names)


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
    if git.get("code_sha256"):
        changed = f", code {git['code_sha256'][:12]}"
    packages = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    machine = manifest["machine"]
    gib = machine["memory_bytes"] / 2**30
    measured = measured_by(manifest)
    return [
        *([f"M{measured[1:]}. Imported by what follows."] if measured else []),
        *([_planned(manifest)] if _was_planned(manifest) else []),
        f"lensbench {manifest['lensbench_version']}{commit}{changed}; {packages}.",
        f"{machine['cpu']}, {machine['cores']} cores, {gib:.0f} GiB, {machine['os']}; "
        f"{manifest['created']}, {_took(manifest)}.",
    ]


def _took(manifest: Mapping[str, Any]) -> str:
    """Seconds of the run that finished the record, and how much of it was there before."""
    took = f"{manifest['wall_s']:.0f} s{_with_workers(manifest)}"
    before = manifest.get("resumed_batches")
    parts = "1 finished part" if before == 1 else f"{before} finished parts"
    return f"{took} of the last run, which went on from {parts}" if before else took


def _with_workers(told: Mapping[str, Any]) -> str:
    """Who did the jobs, or was planned to; nothing of a process that does all by itself."""
    n = told.get("workers")
    return f" with {n} worker{'s' * (n > 1)}" if n else ""


def _was_planned(manifest: Mapping[str, Any]) -> bool:
    """Whether a plan and what it took are there, of the same work.

    Of an unfinished record that was widened an older lensbench planned the rest, and counted all.
    """
    if "planned" not in manifest or "took" not in manifest:
        return False
    narrower = manifest.get("widened") or [{"status": "complete"}]
    return narrower[-1]["status"] == "complete" or "before" in manifest["planned"]


def _planned(manifest: Mapping[str, Any]) -> str:
    """What a record was planned to take, and what it took."""
    planned, took = manifest["planned"], manifest["took"]
    sessions = " over all sessions" if manifest.get("resumed_batches") else ""
    sessions = " since it was widened" if "before" in planned else sessions
    (least, most), time, unit = planned["disk_bytes"], "no time", " s"
    if planned["wall_s"] is not None:
        time, unit = "{:,.0f} to {:,.0f} s".format(*planned["wall_s"]), ""
    read = "" if took["n_tokens"] is None else f", read {took['n_tokens']:,}"
    memory, held = "no memory", took["memory_bytes"]
    if planned["memory_bytes"] is not None:
        memory = f"{planned['memory_bytes'] / 1e9:.1f} GB of memory"
    peak = "took no more than what ran in the process before"
    if held is not None:
        gb = "" if memory != "no memory" else " GB"
        peak = f"and the process held {held / 1e9:.1f}{gb} at its peak"
    fewest = planned.get("least", planned)["n_tokens"]
    ends = "" if fewest == planned["n_tokens"] else f"{fewest:,} to "
    return (
        f"Planned {time}{_with_workers(planned)}, took "
        f"{took['wall_s']:,.0f}{unit}{_with_workers(manifest)}{sessions}; "
        f"planned {ends}{planned['n_tokens']:,} tokens{read}; planned {least / 1e6:,.1f} to "
        f"{most / 1e6:,.1f} MB on the disk, took {took['disk_bytes'] / 1e6:,.1f}; planned "
        f"{memory}, {peak}."
    )


def provenance(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Every entry under its dotted name, but for what stands in a table of its own."""
    rows = [(key, value) for key, value in flat(dict(manifest)) if key not in _HIDDEN]
    return pd.DataFrame(rows, columns=["key", "value"])


def limitations(record: Record) -> list[str]:
    """What holds for records of every kind: gate, bits, batches, problems, unpinned code."""
    manifest, lines = record.manifest, []
    if manifest["kind"] == "lens" and not gate_brief(manifest).startswith("passed"):
        lines.append(f"Gate: {gate_brief(manifest)}. {gate_said(manifest)}")
    for check in manifest["gate"]:
        if not check.get("passed") and check.get("state") != "imported":
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
    state = "is not from a git checkout"
    if git:
        state = "had uncommitted changes" if git.get("dirty") else ""
    if state:
        did = "imported" if manifest.get("measured") else "measured"
        lines.append(f"The code that {did} this {state}, so the version may not pin it.")
    return lines
