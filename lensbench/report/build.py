"""A whole report: every file that follows from the records, written or replaced as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lensbench.errors import RecordsError
from lensbench.files import write_bytes
from lensbench.records.read import MANIFEST, read_complete
from lensbench.records.store import folder_name
from lensbench.report.kit import figures
from lensbench.report.kit.html import interactive_page
from lensbench.report.kit.markdown import cross_model_report, model_report
from lensbench.report.kit.tables import Table, comparison_tables, record_tables, to_csv
from lensbench.report.lens import heatmaps
from lensbench.report.load import Record, load_records, load_second
from lensbench.report.sections import second_files

_FIGURES: dict[str, tuple[Callable[..., Any], str]] = {
    "depth_curves": (figures.depth_curves, "depth_curves"),
    "emergence": (figures.emergence, "emergence"),
    "relations": (figures.relations, "relations"),
    "category": (figures.category, "category_curve"),
    "copying": (figures.copying, "copying"),
}  # figure -> how it is drawn, from which table


def build_report(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Build every report of the records at or beneath `paths`; returns the files written.

    `out` defaults to the first run folder. Files of the same name there are replaced.
    Raises RecordsError when records are missing, incomplete or of a newer schema.
    """
    records, others = load_records(paths), load_second(paths)
    if not records and not others:
        raise RecordsError(
            f"{paths[0]} holds residual caches only, which have no report. Make a record of one: "
            "lensbench lens MODEL --cache DIR."
        )
    out = out or _run_folder(paths[0])
    tables = {record.model: record_tables(record) for record in records}
    folders = unique_slugs([record.model for record in records])
    _require_room(folders, [record.name for record in others])
    lens_reports = [(r.model, folder) for r, folder in zip(records, folders, strict=True)]
    written = []
    for name, data in (
        *_files(records, tables, folders),
        *second_files(others, lens_reports),
    ):
        write_bytes(out / name, data)
        written.append(out / name)
    return written


def _run_folder(path: Path) -> Path:
    """Where the reports of `path` go: a lens record's beside it, any other's into it."""
    alone = (path / MANIFEST).exists()
    beside = alone and read_complete(path / MANIFEST)["kind"] == "lens"
    return path.parent if beside else path


def _require_room(lens: Sequence[str], second: Sequence[str]) -> None:
    """No report may take another's place."""
    taken = sorted({*lens} & {*second})
    if taken:
        raise RecordsError(
            f"two reports would both go to {taken[0]}/: a lens record's model and another record's "
            "folder have that name. Report on them separately."
        )


def _files(
    records: Sequence[Record], tables: dict[str, dict[str, Table]], folders: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file, one at a time."""
    for record, folder in zip(records, folders, strict=True):
        for name, data in _model_files(record, tables[record.model]):
            yield f"{folder}/{name}", data
    if len(records) > 1:
        yield from _cross_model_files(records, tables, folders)
    if records:
        yield "report.html", interactive_page(records, tables).encode()


def _model_files(record: Record, tables: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    heat_maps = heatmaps.heat_map_prompts(record)
    yield "report.md", model_report(record, tables, heat_maps).encode()
    for table in tables.values():
        yield f"tables/{table.name}.csv", to_csv(table)
    for name, (draw, table_name) in _FIGURES.items():
        if len(tables[table_name].frame):
            yield f"figures/{name}.svg", figures.to_svg(draw, tables[table_name].frame)
    for i, prompt_id in enumerate(heat_maps, start=1):
        data = figures.to_svg(heatmaps.heat_map, record, prompt_id)
        yield f"figures/heat_map_{i:02d}.svg", data


def _cross_model_files(
    records: Sequence[Record], tables: dict[str, dict[str, Table]], folders: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    shared = comparison_tables(records, tables)
    yield "cross-model.md", cross_model_report(records, shared, folders).encode()
    for table in shared.values():
        yield f"tables/{table.name}.csv", to_csv(table)
    yield "figures/models.svg", figures.to_svg(figures.models_forest, shared["models"].frame)
    yield "figures/curves.svg", figures.to_svg(figures.models_curves, shared["curves"].frame)


def unique_slugs(names: Sequence[str]) -> list[str]:
    """Folder names of models, in order; equal ones get a number."""
    slugs: list[str] = []
    for name in names:
        unique = slug = folder_name(name)
        number = 2
        while unique.lower() in {other.lower() for other in slugs}:
            unique, number = f"{slug}-{number}", number + 1
        slugs.append(unique)
    return slugs
