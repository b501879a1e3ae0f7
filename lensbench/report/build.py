"""A whole report: every file that follows from the records, written or replaced as one."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lensbench.errors import RecordsError
from lensbench.files import write_bytes
from lensbench.records.failures import read_failures
from lensbench.records.open import find_records, open_record
from lensbench.records.read import MANIFEST
from lensbench.records.record import Record
from lensbench.records.store import folder_name
from lensbench.report import manifest
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.page import Facts, page_html
from lensbench.report.kit.table import to_csv
from lensbench.report.section import Reported, Section
from lensbench.report.sections import ONE_PAGE, SECTIONS, TOGETHER

Files = Iterator[tuple[str, bytes]]
Named = tuple[Record, str, str]  # a record, the name of its model, its place in the report
_NONE: Mapping[str, str] = {}
_OWN_NAMES = ("report.md", "report.html", "tables", "figures")  # beside the models' folders


def build_report(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Build every report of the records at or beneath `paths`; returns the files written.

    The first is the report to begin with. `out` defaults to the first run folder. Files of the same
    name there are replaced, once all are made. One record is in memory at a time, and of those
    before it what reports over several need (`Section.kept`).

    Raises RecordsError when records are missing, incomplete or of a newer schema.
    """
    run = _run_folder(paths[0])
    out = out or run
    failed = _failures([out, *map(_run_folder, paths)])
    records = named(paths, alone=not failed)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report.", suffix=".part", dir=out) as place:
        names = _made(records, run.resolve().name, Path(place), failed)
        for name in names:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(place) / name).replace(out / name)
    return [out / name for name in names]


def _failures(runs: Sequence[Path]) -> dict[str, str]:
    """What the last runs into these folders could not measure, and why."""
    return {name: why for run in dict.fromkeys(runs) for name, why in read_failures(run).items()}


def _made(
    records: Sequence[Named], title: str, folder: Path, failed: Mapping[str, str]
) -> list[str]:
    """Write every file into `folder`, record by record; their names, the index first."""
    reports: list[Reported] = []
    names: list[str] = []
    for record, name, place in records:
        kept, files = _one(record.anew(), name, place, folder)
        reports.append(kept)
        names += files
    together = {
        kinds: made
        for kinds in TOGETHER
        if (own := _of(reports, kinds)) and reports[0].place and (made := TOGETHER[kinds](own))
    }
    index: list[str] = []
    if reports[0].place:  # a record alone has none
        index = _written(folder, "", _index(title, reports, list(together.values()), failed))
    for kinds, made in together.items():
        names += _written(folder, "", _beside(made, _facts(_of(reports, kinds), made, failed)))
    return index + names


def _one(record: Record, name: str, place: str, folder: Path) -> tuple[Reported, list[str]]:
    """Write one record's report, and let go of all but what others say of it."""
    one = Reported(record, name, place, SECTIONS[record.kind](record, name))
    names = _written(folder, place, record_files(one))
    return one.kept(), names


def _of(reports: Sequence[Reported], kinds: Sequence[str]) -> list[Reported]:
    return [one for one in reports if one.record.kind in kinds]


def _written(folder: Path, place: str, files: Files) -> list[str]:
    """Write files at a place of the report; their names from the report's folder."""
    names = []
    for name, data in files:
        names.append(f"{place}/{name}" if place else name)
        write_bytes(folder / names[-1], data)
    return names


def named(paths: Sequence[Path], alone: bool = True) -> list[Named]:
    """The records to report on, the names of their models, and their places in the report.

    `alone`: one record has the report's folder to itself.
    """
    records = [
        record for record in map(open_record, find_records(paths)) if record.kind in SECTIONS
    ]
    if not records:
        raise RecordsError(
            f"{paths[0]} holds residual caches only, which have no report. Make a record of one: "
            "lensbench lens MODEL --cache DIR."
        )
    order = list(SECTIONS)
    records.sort(key=lambda record: order.index(record.kind))
    names = _names(records)
    places = _places(records, names, paths, alone and len(records) == 1)
    return list(zip(records, names, places, strict=True))


def _names(records: Sequence[Record]) -> list[str]:
    """What the models are called: of lens records no two alike, for they are compared by name."""
    own = [str(record.manifest["model"]["name"]) for record in records]
    lens = Counter(name for name, record in zip(own, records, strict=True) if _is_lens(record))
    names = [
        f"{name} ({record.folder.resolve().parent.name})"
        if _is_lens(record) and lens[name] > 1
        else name
        for name, record in zip(own, records, strict=True)
    ]
    named = Counter(
        name for name, record in zip(names, records, strict=True) if record.kind == "lens"
    )
    twice = [name for name, n in named.items() if n > 1]
    if twice:
        raise RecordsError(
            f"two records are both called {twice[0]!r}, so a report could not tell them apart. "
            "Give their run folders different names, or report on them separately."
        )
    return names


def _is_lens(record: Record) -> bool:
    return record.kind == "lens"


def _places(
    records: Sequence[Record], names: Sequence[str], paths: Sequence[Path], alone: bool
) -> list[str]:
    """Where each record's report goes: a lens record's is named after its model."""
    slugs = iter(unique_slugs([n for n, r in zip(names, records, strict=True) if _is_lens(r)]))
    places = [
        next(slugs) if _is_lens(record) else _place(record.folder, paths, alone)
        for record in records
    ]
    taken = [place for place, n in Counter(places).items() if n > 1]
    if taken:
        raise RecordsError(
            f"two reports would both go to {taken[0]}/: a lens record's model and another record's "
            "folder have that name. Report on them separately."
        )
    return places


def _place(folder: Path, paths: Sequence[Path], alone: bool) -> str:
    """Where a record lies beneath the paths, as its report does beneath the report's folder."""
    path = next(path for path in paths if folder.is_relative_to(path))
    inside = folder.relative_to(path).as_posix()
    if inside == ".":
        return "" if alone else folder.resolve().name
    return inside if len(paths) == 1 else f"{path.resolve().name}/{inside}"


def unique_slugs(names: Sequence[str]) -> list[str]:
    """Folder names of models, in order; equal ones, and those of a report's own, get a number."""
    slugs: list[str] = []
    for name in names:
        unique = slug = folder_name(name)
        number = 2
        while unique.lower() in {*_OWN_NAMES, *(other.lower() for other in slugs)}:
            unique, number = f"{slug}-{number}", number + 1
        slugs.append(unique)
    return slugs


def _run_folder(path: Path) -> Path:
    """Where the reports of `path` go: a lens record's beside it, any other's into it."""
    alone = (path / MANIFEST).exists() and _is_lens(open_record(path))
    return path.parent if alone else path


def _index(
    title: str,
    reports: Sequence[Reported],
    together: Sequence[Section],
    failed: Mapping[str, str],
) -> Files:
    """The report over all records, and what has none."""
    page = "report.html" if any(made.page for made in together) else ""
    there = _models(reports)
    missing = {name: why for name, why in failed.items() if name not in there}
    before = {name: why for name, why in failed.items() if name in there}
    values = {"reports": reports, "together": together, "missing": missing, "before": before}
    yield "report.md", rendered("index.md.j2", title=title, page=page, **values).encode()


def _models(reports: Sequence[Reported]) -> set[str]:
    """The models of which numbers are reported, as a run names them."""
    return {str(one.record.manifest["model"]["name"]) for one in reports}


def record_files(one: Reported) -> Files:
    """Name and content of every file of one record's report, one at a time."""
    above = "../" * len(Path(one.place).parts)
    shared = f"{above}report.html" if one.record.kind in ONE_PAGE else ""
    page = "report.html" if one.section.page else shared
    section, record = one.section, one.record
    text = rendered(
        "report.md.j2",
        section=section,
        page=page,
        limitations=[*section.limitations, *manifest.limitations(record)],
        problems=record.table("problems"),
        how_made=manifest.how_made(record.manifest),
        provenance=manifest.provenance(record.manifest),
    )
    yield "report.md", text.encode()
    yield from _beside(section, _facts([one], section))


def _beside(section: Section, facts: Facts) -> Files:
    """Everything of a section but its text."""
    for table in section.tables.values():
        yield f"tables/{table.name}.csv", to_csv(table)
    for name, text in section.files.items():
        yield name, text.encode()
    if section.page:
        yield "report.html", page_html(section.page(), facts)
    for name, draw in section.figures.items():
        yield f"figures/{name}.svg", draw()


def _facts(
    reports: Sequence[Reported], section: Section, failed: Mapping[str, str] = _NONE
) -> Facts:
    """What a page says of where its numbers are from, and of what has none."""
    manifests = [one.record.manifest for one in reports]
    tables = list(section.tables.values())
    tables += [
        replace(table, folder=one.place, title=f"{one.name}: {table.title}")
        for one in reports
        if one.section is not section
        for table in one.section.tables.values()
    ]
    return Facts(
        summary=manifest.summaries(manifests) + manifest.said_of_failed(failed, _models(reports)),
        rows=[row for one in manifests for row in manifest.facts(one)],
        gate=[
            row | {"identity": f"{one.name}: {row['identity']}"} if len(reports) > 1 else row
            for one in reports
            for row in manifest.gate_rows(one.record.manifest)
        ],
        gate_said=manifest.gates_said({one.name: one.record.manifest for one in reports}),
        report="report.md",
        tables=tables,
    )
