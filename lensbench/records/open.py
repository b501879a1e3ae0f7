"""Finding and opening records, of any kind and version of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lensbench.errors import RecordsError
from lensbench.json_text import read_json
from lensbench.records.lens.record import LensRecord
from lensbench.records.read import MANIFEST, read_complete
from lensbench.records.record import Record

_VIEWS: dict[str, type[Record]] = {"lens": LensRecord}  # kinds with more to ask for


def open_record(folder: str | Path) -> Record:
    """The finished record in a folder, or the only one beneath it; tables are read when asked for.

    Raises RecordsError, with what to do, when there is none or more than one, and for a record that
    is not complete, is damaged, or is of a kind or a newer version not known here.
    """
    found = _record_folder(Path(folder))
    manifest = read_complete(found / MANIFEST)
    return _VIEWS.get(manifest["kind"], Record)(found, manifest)


def open_lens_record(folder: str | Path) -> LensRecord:
    """A finished lens record, as `open_record` opens it; RecordsError for one of another kind."""
    record = open_record(folder)
    if not isinstance(record, LensRecord):
        what = f"a record of kind {record.kind}"
        raise RecordsError(f"{record.folder}: {what}. Name a record of `lensbench lens`.")
    return record


def find_records(paths: Sequence[Path]) -> list[Path]:
    """All record folders at or beneath `paths`, each once, sorted within a path.

    Hidden folders are passed over. Raises RecordsError when there is none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise RecordsError(
                f"{path}: no such folder. Name a run folder made by `lensbench run`."
            )
        for folder in _beneath(path):
            found.setdefault(folder.resolve(), folder)
    if not found:
        names = ", ".join(str(path) for path in paths)
        raise RecordsError(
            f"{names}: no records here (no {MANIFEST} in it or beneath it). "
            "Name a run folder made by `lensbench run` or `lensbench lens --prompts`."
        )
    return list(found.values())


def _record_folder(path: Path) -> Path:
    if (path / MANIFEST).is_file():
        return path
    found = find_records([path])
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise RecordsError(f"{path}: there are {len(found)} records here. Name one: {names}.")
    return found[0]


def _beneath(path: Path) -> list[Path]:
    """Folders with a manifest of a record, but for those in `.runs`: others were made of them."""
    return [
        manifest.parent
        for manifest in sorted(path.rglob(MANIFEST))
        if not any(part.startswith(".") for part in manifest.relative_to(path).parts)
        and not _is_foreign(manifest)
    ]


def _is_foreign(manifest: Path) -> bool:
    """Whether a manifest says that it is of something else, such as an index for retrieval."""
    try:
        return "format" in read_json(manifest)
    except (ValueError, TypeError):  # damaged: whoever opens it says so
        return False
