"""The data dictionary: every table, column and entry of the schema, written from its declaration.

python -m lensbench.records.dictionary reports/data-dictionary.md

Beside it goes the JSON schema of the manifest that `lensbench import` reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lensbench.files import write_text
from lensbench.records.schema import KINDS, SCHEMA_VERSION, TABLES
from lensbench.records.schema.declare import Entry, Table
from lensbench.records.schema.every import MANIFEST_ENTRIES
from lensbench.records.schema.lens import LENS, PROMPTS
from lensbench.records.validation.told import schema_json

SCHEMA_FILE = "import-manifest.schema.json"

_INTRODUCTION = f"""# Data dictionary

What stands in a record of lensbench: schema version {SCHEMA_VERSION}. A record is a folder with
`manifest.json` and one Parquet file per table. Written from the schema by
`python -m lensbench.records.dictionary`; do not edit.

A cell is null only for the reason named here; a dash means that it never is. Layers count states:
0 is the embedding, i what leaves block i - 1, n_layers the last one. Blocks count from 0. Bits are
logarithms to base 2. In Python: `lensbench.open_record(folder)`.

A lens record that another tool measured is written in the same columns and read by
`lensbench import`, which lists all that is wrong with it. *Import* says what it needs: a needed
column must be there and is never null, an optional one may be left out (null: not measured), and
some are filled in. Milestones and problems are made by the import. Its `manifest.json` has `model`,
`lenses` and `measured`: [{SCHEMA_FILE}]({SCHEMA_FILE}).
"""


def dictionary() -> str:
    """The whole document, in Markdown."""
    parts = [_INTRODUCTION, "## Kinds of record\n", *_kinds(), "## Manifest\n", *_manifest()]
    for table in TABLES.values():
        parts += _table(table)
    return "\n".join(parts)


def _kinds() -> Iterator[str]:
    rows = [
        (
            kind.name,
            kind.made_by,
            ", ".join(f"[{name}](#{name})" for name in kind.names),
            ", ".join(f"[{table.name}](#{table.name})" for table in kind.optional) or "-",
        )
        for kind in KINDS.values()
    ]
    yield _markdown(("kind", "made by", "tables", "on request"), rows)


def _manifest() -> Iterator[str]:
    yield "Every record's:\n"
    yield _entries(MANIFEST_ENTRIES)
    for kind in KINDS.values():
        if kind.entries:
            yield f"Also of kind `{kind.name}`:\n"
            yield _entries(kind.entries)


def _entries(entries: tuple[Entry, ...]) -> str:
    rows = [(f"`{e.name}`", e.meaning, e.null or "-", e.absent or "-") for e in entries]
    return _markdown(("entry", "meaning", "null", "absent"), rows)


def _table(table: Table) -> list[str]:
    imported = table in (PROMPTS, LENS)
    rows = [
        (f"`{c.name}`", _type(str(c.type)), c.unit or "-", c.meaning, c.null or "-")
        + ((c.need,) if imported else ())
        for c in table.columns
    ]
    header = ("column", "type", "unit", "meaning", "null") + (("import",) if imported else ())
    return [f"## {table.name}\n", f"{_sentence(table.rows)}.\n", _markdown(header, rows)]


def _type(name: str) -> str:
    """Arrow's name of a type; list<element: float> as list of float."""
    return name.replace("list<element: ", "list of ").replace("list<item: ", "list of ").rstrip(">")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), dictionary())
    write_text(Path(sys.argv[1]).with_name(SCHEMA_FILE), schema_json())
