"""The blocks that a correlation study suggests for an adapter: a file for each condition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.compare.layer_choice import Choice, choice_file
from lensbench.json_text import read_json
from lensbench.records.read import require_unaltered
from lensbench.records.store import folder_name

WORDS = {"cosine": "mean cosine distance", "pearson": "1 - Pearson of the mean vectors"}
SIGNIFICANT = 0.05
Chosen = dict[tuple[str, str], Choice]  # by span and condition, of one measure and variant


def suggested(folder: Path) -> dict[tuple[str, str], Path]:
    """The files of chosen blocks in a study's record, by span and condition."""
    found = {}
    for path in sorted(folder.glob("layers-*.json")):
        of = chosen_in(path)["provenance"]
        found[of["span"], of["condition"]] = path
    return found


def chosen_in(path: Path) -> dict[str, Any]:
    """What such a file says. Raises RecordsError where it is not as the study wrote it."""
    require_unaltered(path)
    found: dict[str, Any] = read_json(path)
    return found


def choice_files(
    chosen: Chosen, ranking: pa.Table, main: tuple[str, str], facts: dict[str, Any]
) -> dict[str, bytes]:
    """What `lensbench train` takes as blocks, by the name of the file.

    `ranking`: the record's; `main`: the measure and variant that chose; `facts`: of the study.
    """
    measure, variant = main
    rows = [row for row in ranking.to_pylist() if (row["measure"], row["variant"]) == main]
    files = {}
    for (span, condition), choice in chosen.items():
        own = [row for row in rows if (row["span"], row["condition"]) == (span, condition)]
        of = {"span": span, "condition": condition, "reference": facts["reference"]}
        of |= {"controls": facts["controls"], "measure": measure, "variant": variant}
        of |= {"settings": facts["settings"]}
        data = choice_file(choice, why(choice, own, WORDS[measure]), of)
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        files[f"layers-{folder_name(condition)}-{span}.json"] = text.encode()
    return files


def _proven(row: dict[str, Any]) -> bool:
    """A layer changed, and by more than chance."""
    p = row["p_adjusted"]
    return p is not None and p < SIGNIFICANT and row["change"] > 0


def why(choice: Choice, ranking: Sequence[dict[str, Any]], changed: str) -> str:
    """Why these blocks, in one sentence of numbers.

    `ranking`: the condition's rows; `changed`: what the change is, in words.
    """
    unproven = {row["layer"] for row in ranking if not _proven(row)}  # by one control at least
    firm = sum(block + 1 not in unproven for block in choice.blocks)
    controls = [row["control"] for row in ranking if row["control"] is not None]
    against = " above the strictest control" if controls else " (no control)"
    blocks = (
        f"blocks {choice.blocks[0]}-{choice.blocks[-1]} (layers {choice.blocks[0] + 1}-"
        f"{choice.blocks[-1] + 1} of a record)"
    )
    found = f"{blocks} changed most"
    if choice.mean_change <= 0:
        n = len(choice.blocks)
        found = f"no {n} contiguous blocks changed more than under every control, nearest {blocks}"
    text = (
        f"{found}: {changed} {choice.mean_change:.4g}{against}; {firm} of {len(choice.blocks)} "
        f"layers changed by more than chance (adjusted p below {SIGNIFICANT:g})"
    )
    if choice.again_share is not None:
        text += (
            f"; the bootstrap picks the same blocks in {100 * choice.again_share:.0f} % of draws "
            f"and shares {100 * (choice.overlap_share or 0):.0f} % of them on average"
        )
    return text
