"""Examples side by side: what each condition answered, evenly taken from the data, not chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensbench.report.kit.markdown import environment
from lensbench.report.load import SecondRecord

N_EXAMPLES = 20


def examples(record: SecondRecord, count: int) -> list[dict[str, Any]]:
    """Up to `count` examples at even distances in prompt_id order: prompt, reference, answers."""
    rows = record.tables["evaluation"]
    ids = sorted(rows["prompt_id"].unique())
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
    return [_example(rows[rows["prompt_id"] == ids[i]]) for i in chosen]


def _example(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    answers = [("reference", first["reference"])]
    answers += list(zip(rows["condition"], rows["response"], strict=True))
    return {"id": first["prompt_id"], "prompt": first["prompt"], "answers": answers}


def examples_page(record: SecondRecord) -> str:
    """`examples.md`."""
    total = record.tables["evaluation"]["prompt_id"].nunique()
    shown = examples(record, N_EXAMPLES)
    page = environment().get_template("examples.md.j2")
    return page.render(record=record, examples=shown, total=total)
