"""Records as the report sees them, and their sections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lensbench.records.lens.record import LensRecord
from lensbench.records.open import find_records, open_record
from lensbench.records.record import Record
from lensbench.report import manifest
from lensbench.report.build import named
from lensbench.report.section import Section
from lensbench.report.sections import SECTIONS


def record_in(folder: Path) -> Record:
    """The one record in a folder."""
    (found,) = find_records([folder])
    return open_record(found)


def section_of(record: Record) -> Section:
    """What a report says of a record."""
    return SECTIONS[record.kind](record, str(record.manifest["model"]["name"]))


def lens_records_in(paths: Sequence[Path]) -> dict[str, LensRecord]:
    """The lens records beneath the paths, by the names that a report gives their models."""
    every = named(paths)
    return {name: record for record, name, _ in every if isinstance(record, LensRecord)}


def said(record: Record) -> str:
    """The limitations that a record's own section states."""
    return "\n".join(section_of(record).limitations)


def all_said(folder: Path) -> str:
    """Every limitation of the record in a folder, those of its manifest too."""
    record = record_in(folder)
    return "\n".join([said(record), *manifest.limitations(record)]).strip()
