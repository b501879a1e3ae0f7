"""Residual vectors that a lens run kept beside its record, and reading them again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lensbench.records.residuals import ResidualFiles, shards_in

RESIDUAL_TABLES = ("residual_index", "residual_cells")


def has_residuals(folder: Path) -> bool:
    """Whether the tables that say where the vectors are, are there."""
    return all((folder / f"{name}.parquet").is_file() for name in RESIDUAL_TABLES)


def read_kept(folder: Path, manifest: Mapping[str, Any]) -> ResidualFiles | None:
    """The residual vectors of a complete lens record; None for a run that kept none.

    Raises RecordsError when the index is missing; shards are checked when they are read.
    """
    if not manifest["settings"].get("keep_residuals"):
        return None
    return ResidualFiles(folder, shards_in(folder))
