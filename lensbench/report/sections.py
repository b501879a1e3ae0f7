"""Reports of the second path: every record in a report of its kind, and one index over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pandas as pd

from lensbench.escape import markdown
from lensbench.report.correlation import section as correlation
from lensbench.report.diff import section as diff
from lensbench.report.diff import side_by_side as diffs
from lensbench.report.evaluation import section as evaluation
from lensbench.report.inference import conditions, trace
from lensbench.report.inference import section as inference
from lensbench.report.kit.markdown import environment, flat
from lensbench.report.kit.tables import Table, to_csv
from lensbench.report.lens.limitations import unpinned_code
from lensbench.report.load import SecondRecord
from lensbench.report.placement import section as placement
from lensbench.report.training import section as training

Tables = dict[str, Table]
Files = Iterator[tuple[str, bytes]]


class Chapter(Protocol):
    """How one kind of record is reported: a module with these, and a template of the kind's name.

    To add a kind: such a module, its template and one line in `CHAPTERS`.
    """

    def tables(self, record: SecondRecord) -> Tables:
        """Every number of the report."""

    def files(self, record: SecondRecord, made: Tables) -> Files:
        """Figures and whatever else goes beside `report.md` and `tables/`."""

    def headline(self, record: SecondRecord, made: Tables) -> str:
        """One sentence for the index, in Markdown."""

    def limitations(self, record: SecondRecord, made: Tables) -> list[str]:
        """What these data cannot show, one Markdown line each."""


CHAPTERS: dict[str, Chapter] = {
    "training": training,
    "evaluation": evaluation,
    "inference": inference,
    "trace": trace,
    "correlation": correlation,
    "diff": diff,
    "placement": placement,
}  # in the order of the index
_HIDDEN = ("gate", "adapter.modules", "adapter.blocks")  # of a manifest: empty, or in a table


def second_files(records: Sequence[SecondRecord], others: Sequence[tuple[str, str]]) -> Files:
    """Name and content of every file of these records' reports, one at a time.

    `others`: names and folders of lens records in the same run, for the index.
    """
    every = [(record, CHAPTERS[record.kind].tables(record)) for record in records]
    for record, made in every:
        before = f"{record.name}/" if record.name else ""
        for name, data in _record_files(record, made):
            yield f"{before}{name}", data
    if any(record.name for record in records):
        yield from _index_files(every, others)


def _record_files(record: SecondRecord, made: Tables) -> Files:
    chapter = CHAPTERS[record.kind]
    text = _render(
        f"{record.kind}.md.j2",
        record=record,
        chapter=chapter,
        tables=made,
        model=record.manifest["model"],
        settings=record.manifest["settings"],
        limitations=limitations(record, made),
        made_lines=how_made(record.manifest),
        provenance=_provenance(record.manifest),
    )
    yield "report.md", text.encode()
    for table in made.values():
        yield f"tables/{table.name}.csv", to_csv(table)
    yield from chapter.files(record, made)


def _index_files(
    every: Sequence[tuple[SecondRecord, Tables]], others: Sequence[tuple[str, str]]
) -> Files:
    """`report.md` over all records, and what is to be seen side by side."""
    order = list(CHAPTERS)
    every = sorted(every, key=lambda pair: (order.index(pair[0].kind), pair[0].name))
    lines = [
        (record, CHAPTERS[record.kind].headline(record, made), conditions.condition(record))
        for record, made in every
    ]
    verdicts = {
        record.name: evaluation.verdicts(made["eval_results"])
        for record, made in every
        if record.kind == "evaluation"
    }
    side_by_side = [table for table in _side_by_side(every) if len(table.frame)]
    text = _render(
        "index.md.j2", lines=lines, others=others, side_by_side=side_by_side, verdicts=verdicts
    )
    yield "report.md", text.encode()
    for table in side_by_side:
        yield f"tables/{table.name}.csv", to_csv(table)


def _side_by_side(every: Sequence[tuple[SecondRecord, Tables]]) -> list[Table]:
    """Tables over several records of a kind."""
    asked = [record for record, _ in every if "responses" in record.tables]
    compared = [(record, made) for record, made in every if record.kind == "diff"]
    return [conditions.conditions_table(asked), diffs.diffs_table(compared)]


def limitations(record: SecondRecord, made: Tables) -> list[str]:
    """What this record cannot show: of its kind, of its number format, of its code."""
    model = record.manifest["model"]
    lines = CHAPTERS[record.kind].limitations(record, made)
    if model.get("bits") in (4, 8):
        lines.append(f"The weights were held in {model['bits']} bits, which changes what they say.")
    if model.get("int8_threshold"):
        lines.append(
            "LLM.int8 picks its outlier columns over a whole batch (threshold "
            f"{model['int8_threshold']:g}), so a row's numbers depend a little on its neighbours; "
            "with threshold 0, as a lens has it unless told otherwise, they do not: another model."
        )
    if len(record.problems):
        lines.append(f"Items left out or cut: {len(record.problems)} (listed under Problems).")
    return lines + unpinned_code(record.manifest)


def how_made(manifest: dict[str, Any]) -> list[str]:
    """Code, machine and day of a record, one Markdown line each."""
    git = manifest.get("git") or {}
    commit = f", commit {git['commit'][:12]}" if git else ""
    changed = " with uncommitted changes" if git.get("dirty") else ""
    packages = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    machine = manifest["machine"]
    gib = machine["memory_bytes"] / 2**30
    lines = [
        f"lensbench {manifest['lensbench_version']}{commit}{changed}; {packages}.",
        f"{machine['cpu']}, {machine['cores']} cores, {gib:.0f} GiB, {machine['os']}; "
        f"{manifest['created']}, {manifest['wall_s']:.0f} s.",
    ]
    return [markdown(line) for line in lines]


def _provenance(manifest: dict[str, Any]) -> pd.DataFrame:
    rows = [(key, value) for key, value in flat(manifest) if key not in _HIDDEN]
    return pd.DataFrame(rows, columns=["key", "value"])


def _render(template: str, **values: object) -> str:
    return environment().get_template(template).render(**values)
