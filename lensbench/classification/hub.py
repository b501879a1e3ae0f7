"""Labelled texts of a data set of the Hugging Face hub, such as SST-2, that was fetched before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.corpora.hub import PREFIX, DataSet, pinned_file
from lensbench.errors import InputProblems, Problem, first_line

_TEXT = ("text", "sentence")  # columns, the first that is there
_LABEL = "label"
_REMEDY = "Give a data set in .parquet with a column of texts and one called label."


def hub_rows(given: str) -> tuple[str, str, list[tuple[int, dict[str, str]]]]:
    """Name, hash and rows (id, text, label) of hub:OWNER/NAME[/SPLIT][:COLUMN].

    The text is COLUMN, or else `text` or `sentence`; numbers of labels become the names that the
    data set gives them.

    Raises InputProblems for one that was not fetched, is no Parquet file or has no such columns.
    """
    one = DataSet.of(given, "data")
    path, pinned = pinned_file(one, "data")
    name = one.place.removeprefix(PREFIX)
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else None
    except (OSError, pa.ArrowException) as error:
        what = f"{pinned['file']} cannot be read ({first_line(error)})"
        raise InputProblems([Problem(name, what, _REMEDY)]) from error
    columns = table.column_names if table is not None else []
    text = one.column or next((column for column in _TEXT if column in columns), "")
    if table is None or text not in columns or _LABEL not in columns:
        what = f"{pinned['file']} has {', '.join(columns) or 'no columns that can be read'}"
        raise InputProblems([Problem(name, what, _REMEDY)])
    return name, pinned["sha256"], list(_rows(table, text, _label_names(table)))


def _rows(table: pa.Table, text: str, names: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows that have a label: parts of a data set that is a competition's have none (-1)."""
    both = zip(table[text].to_pylist(), table[_LABEL].to_pylist(), strict=True)
    for number, (own, label) in enumerate(both, start=1):
        if label is None or label == -1:
            continue
        said = names[label] if names and isinstance(label, int) else str(label)
        yield number, {"id": f"row{number}", "text": str(own or ""), "label": said}


def _label_names(table: pa.Table) -> list[str]:
    """As the data set's features have them, in the file's own metadata; none where they do not."""
    about = (table.schema.metadata or {}).get(b"huggingface")
    info: dict[str, Any] = json.loads(about).get("info", {}) if about else {}
    names = info.get("features", {}).get(_LABEL, {}).get("names", [])
    return [str(name) for name in names]


def is_hub(given: str) -> bool:
    """Whether this is how a data set of the hub is called."""
    return given.startswith(PREFIX) and not Path(given).exists()
