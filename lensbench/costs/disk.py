"""Bytes on the disk, from rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from lensbench.costs.cost import Cost
from lensbench.costs.range import Range
from lensbench.records.schema import TABLES
from lensbench.records.store import parquet_bytes

# Bytes of a row on the disk, compressed, in the records of this repository's reports
# (tests/costs/test_disk.py holds them to it); under `table.column` those of an item of a list.
ROW_BYTES = {
    "lens": 44.0,
    "lens.top_ids": 6.5,
    "milestones": 13.5,
    "heads": 42.0,
    "ablation": 17.5,
    "answers": 20.0,
    "patterns": 60.0,
    "patterns.weights": 3.0,
    "word_losses": 600.0,
    "prompts": 100.0,
    "transfer": 9.5,
    "encoder_heads": 30.0,
    "first_tokens": 39.0,
    "sampled_prompts": 60.0,
    "sampled_sets": 43.0,
    "sampled_texts": 45.0,
    "sampling_settings": 47.0,
    "shots": 9.0,
    "responses": 900.0,
    "responses.prompt_ids": 3.0,
    "activations": 12.0,
    "activations.mean": 3.7,
    "evaluation": 107.0,
    "placement": 11.5,
    "training": 40.0,
    "class_predictions": 9.0,
    "class_costs": 97.0,
    "class_accuracy": 215.0,
    "diff_cells": 70.0,
    "diff_layers": 25.0,
    "diff_prompts": 79.0,
    "senses": 28.0,
    "sense_cones": 22.0,
}
_UNKNOWN_ROW = 60.0  # of a table that is not named above: the middle of those that are
_FACTOR = (0.6, 1.5)  # what other texts and models make of it
_MANIFEST = 6_000  # of the short ones half


def record_bytes(cost: Cost, tables: Iterable[str]) -> Range:
    """What a finished record of so many rows takes, its fixed parts included."""
    rows = sum(n * ROW_BYTES.get(name, _UNKNOWN_ROW) for name, n in cost.rows.items())
    fixed = _MANIFEST + sum(map(_empty_bytes, tables)) + cost.file_bytes
    return Range(
        fixed - _MANIFEST / 2 + _FACTOR[0] * rows,
        fixed + _FACTOR[1] * (rows + fixed - cost.file_bytes),
    )


def running_bytes(cost: Cost, tables: Iterable[str]) -> Range:
    """What stands there at once at most, while a record is made: parts, and tables made of them."""
    record = record_bytes(cost, tables)
    return Range(*(2 * end - cost.file_bytes + cost.scratch_bytes for end in record))


def free_bytes(folder: Path) -> int:
    """What the disk of a folder, there already or not, still holds."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _empty_bytes(name: str) -> int:
    return len(parquet_bytes(TABLES[name].schema.empty_table()))
