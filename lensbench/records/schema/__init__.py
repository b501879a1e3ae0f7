"""The contract between whoever measures and whoever reports: kinds, tables, columns, units.

To add a column: one line in its table. To add a table or a kind: declare it in the file of its
group. Any change that a reader of old records would notice raises `SCHEMA_VERSION`, and what was
called otherwise before is written down in records/read.py.
"""

from __future__ import annotations

from lensbench.records.schema import (
    adapters,
    attention,
    correlation,
    diff,
    encoders,
    fit,
    generation,
    lens,
    pico,
)
from lensbench.records.schema.declare import Kind, Table
from lensbench.records.schema.text import classification, embeddings, sampling, tokens

SCHEMA_VERSION = 3

_COMPARED, _HEADS = (correlation, diff), (attention, encoders)
_TEXT = (tokens, embeddings, sampling, classification)
KINDS: dict[str, Kind] = {
    kind.name: kind
    for group in (lens, fit, generation, adapters, *_COMPARED, *_HEADS, pico, *_TEXT)
    for kind in group.KINDS
}
TABLES: dict[str, Table] = {
    table.name: table for kind in KINDS.values() for table in (*kind.tables, *kind.optional)
}
