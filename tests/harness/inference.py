"""Prompts for `infer` on a tiny model, and how to read what it wrote."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lensbench.escape import csv_text
from lensbench.quantized.generation.spec import Decoding
from tests.harness.files import table
from tests.harness.tiny import SENTENCES

N_NEW = 6
GREEDY = Decoding(max_new_tokens=N_NEW)
WARM = Decoding(max_new_tokens=N_NEW, temperature=1.3, top_p=0.95, seed=5)
WORDS = [sentence.split() for sentence in SENTENCES]
# Prompts of many lengths, in no order of length.
PROMPTS = {f"q{i:02d}": " ".join(WORDS[i % 6][: 2 + (5 * i) % 7]) for i in range(16)}


def rows_of(path: Path) -> list[dict[str, str]]:
    """The cells of a CSV with responses."""
    with path.open(encoding="utf-8", newline="") as handle:
        return [{k: csv_text(v) for k, v in row.items()} for row in csv.DictReader(handle)]


def responses(folder: Path) -> dict[str, dict[str, Any]]:
    """A record's responses by prompt id."""
    return {row["prompt_id"]: row for row in table(folder, "responses")}
