"""The CSV of responses: made from the record, extended row by row while a run goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.errors import RecordsError
from lensbench.escape import csv_cell
from lensbench.files import write_text
from lensbench.quantized.generation.questions import Asked

_COLUMNS = ("id", "prompt", "response", "finish_reason", "n_prompt_tokens", "n_generated_tokens")
_RETRIEVAL = (
    "retrieved_ids",
    "retrieved_scores",
    "context_start",
    "context_end",
    "context_tokens_cut",
)
RESERVED = tuple(column for column in (*_COLUMNS, *_RETRIEVAL) if column not in ("id", "prompt"))


class ResponsesCsv:
    """`id, prompt, response, ...`, then what was retrieved, then the input's further columns.

    The input's further columns come as they stand there; every other text is an
    `escape.csv_cell`. Lists are JSON.
    """

    def __init__(self, path: Path, questions: Sequence[Asked], retrieval: bool) -> None:
        self.path = path
        self._asked = {asked.id: asked for asked in questions}
        self._others = list(dict.fromkeys(c for asked in questions for c in asked.others))
        self._retrieval = _RETRIEVAL if retrieval else ()

    def write(self, responses: pa.Table) -> None:
        """Write the whole file anew, its rows in the order of the input."""
        rows = {row["prompt_id"]: row for row in self._rows(responses)}
        header = [*_COLUMNS, *self._retrieval, *self._others]
        ordered = [self._cells(rows[item]) for item in self._asked if item in rows]
        write_text(self.path, _csv([header, *ordered]))

    def append(self, responses: pa.Table) -> None:
        """Add rows at the end, on the disk when this returns."""
        with self.path.open("a", encoding="utf-8", newline="") as handle:
            handle.write(_csv(self._cells(row) for row in self._rows(responses)))
            handle.flush()
            os.fsync(handle.fileno())

    def _rows(self, responses: pa.Table) -> list[dict[str, Any]]:
        wanted = ["prompt_id", *_COLUMNS[2:], *self._retrieval]
        return list(responses.select(wanted).to_pylist())

    def _cells(self, row: dict[str, Any]) -> list[object]:
        asked = self._asked[row["prompt_id"]]
        values = [asked.id, asked.prompt, *(row[column] for column in _COLUMNS[2:])]
        values += [row[column] for column in self._retrieval]
        return [*map(_cell, values), *(asked.others.get(column, "") for column in self._others)]


def require_own(path: Path, record: Path) -> None:
    """Raise RecordsError when a file stands at `path` that no run of this record made."""
    if path.exists():
        raise RecordsError(
            f"{path} exists and was not made by this run (there is no record of it in {record}). "
            "Give another name with --out, or move that file away."
        )


def _csv(rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)  # ends lines as RFC 4180 does; else "\r" went unquoted
    return buffer.getvalue()


def _cell(value: Any) -> object:
    if isinstance(value, list):
        return json.dumps([round(v, 6) if isinstance(v, float) else v for v in value])
    return csv_cell(value) if isinstance(value, str) else value
