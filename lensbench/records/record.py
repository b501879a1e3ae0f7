"""A finished record: its manifest, and its tables when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.errors import Problem, RecordsError
from lensbench.records.read import (
    Filters,
    read_problems,
    read_table,
    require_table,
    table_path,
)
from lensbench.records.residuals import ResidualFiles, shards_in
from lensbench.records.schema import KINDS
from lensbench.spec import nearest


@dataclass(frozen=True, eq=False, repr=False)
class Record:
    """What one run left behind, under today's names whatever version wrote it.

    >>> record = lensbench.open_record("reports/001_when_does_it_know/smollm2-135m")
    >>> record  # kind, model, tables with their rows
    >>> record.table("lens", columns=["layer", "kl_bits"], filters=[("is_last", "=", True)])

    The data dictionary (reports/data-dictionary.md) says what each column is.
    """

    folder: Path
    manifest: dict[str, Any]
    _read: dict[str, pd.DataFrame] = field(default_factory=dict)  # whole tables, once asked for

    @property
    def kind(self) -> str:
        """What kind of run it was: a key of `KINDS`."""
        return str(self.manifest["kind"])

    @property
    def model(self) -> dict[str, Any]:
        """Facts of the model."""
        return dict(self.manifest["model"])

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["model"]["name"])

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for."""
        return dict(self.manifest["settings"])

    @property
    def n_layers(self) -> int:
        """Blocks of the model: layer `n_layers` is the last one, layer 0 the embedding."""
        return int(self.manifest["model"]["n_layers"])

    @property
    def tables(self) -> list[str]:
        """The tables that are there: those of the kind, and those that were asked for."""
        kind = KINDS[self.kind]
        asked = [t.name for t in kind.optional if table_path(self.folder, t.name).exists()]
        return [*kind.names, *asked]

    def table(
        self, name: str, columns: list[str] | None = None, filters: Filters = None
    ) -> pd.DataFrame:
        """A table as pandas has it; see `arrow`. A whole one is kept: change a copy of it."""
        if columns is not None or filters is not None:
            return self.arrow(name, columns, filters).to_pandas()
        if name not in self._read:
            self._read[name] = self.arrow(name).to_pandas()
        return self._read[name]

    def arrow(
        self, name: str, columns: list[str] | None = None, filters: Filters = None
    ) -> pa.Table:
        """A table as Arrow has it, read from disk.

        Args:
            columns: only these.
            filters: only rows for which all of (column, operator, value) hold.

        Raises RecordsError for a table that no such record has, or that is missing, damaged or
        without one of the columns.
        """
        if name not in self.tables:
            what = f"{self.folder}: the record (kind {self.kind}) has no table {name!r}."
            raise RecordsError(f"{what} {nearest(name, self.tables)}")
        return read_table(self.folder, name, columns, filters)

    def require_tables(self) -> None:
        """Raise RecordsError as `arrow` does for the first table that it would; no row is read."""
        for name in self.tables:
            require_table(self.folder, name)

    def anew(self) -> Self:
        """The same record with nothing of it in memory, for who lets go of this one."""
        return replace(self, _read={})

    @property
    def problems(self) -> list[Problem]:
        """What could not be measured."""
        return read_problems(self.folder)

    @cached_property
    def residuals(self) -> ResidualFiles | None:
        """The residual vectors that the run kept; None when it kept none.

        Raises RecordsError when their index is missing; shards are checked when they are read.
        """
        if self.kind == "trace":  # its shards are of the model, not of the settings
            return ResidualFiles(self.folder)
        kept = self.kind == "cache" or self.manifest["settings"].get("keep_residuals")
        return ResidualFiles(self.folder, shards_in(self.folder)) if kept else None

    def __repr__(self) -> str:
        made = f"{self.manifest['created']} by lensbench {self.manifest['lensbench_version']}"
        version = f"schema {self.manifest['schema_version']}"
        lines = [f"{self.kind} record of {self.name}", f"made {made}, {version}, {self.folder}"]
        lines += [f"{name:<18} {self._size(name)}" for name in self.tables]
        return "\n  ".join(lines)

    def n_rows(self, name: str) -> int:
        """How many rows a table has; none is read."""
        return int(pq.read_metadata(table_path(self.folder, name)).num_rows)

    def _size(self, name: str) -> str:
        path = table_path(self.folder, name)
        try:
            about = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            return f"cannot be read ({error})"
        return f"{about.num_rows:>9,} rows x {about.num_columns} columns"
