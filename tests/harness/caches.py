"""Prompts for residual caches of a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.studies.specs.cache import CacheSpec

ROWS = [
    ("germany", "The capital of Germany is", "Berlin"),
    ("one", "Rome", "capital"),
    ("gold", "The chemical symbol of gold is Au and the opposite of hot is", "cold"),
    ("rhine", "The river Rhine flows through Germany, France and", "the Netherlands"),
    ("brazil", "People in Brazil speak", "Portuguese"),
    ("italy", "The capital of Italy is", None),
]
BATCH_TOKENS = 40


def write_prompts(path: Path, rows: Sequence[tuple[str, str, str | None]]) -> Path:
    frame = pd.DataFrame(rows, columns=["id", "prompt", "answer"])
    frame.insert(1, "relation", "capital")
    frame.to_csv(path, index=False)
    return path


def spec_of(folder: Path, prompts: Path, **changes: Any) -> CacheSpec:
    return CacheSpec(str(folder), str(prompts), **{"batch_tokens": BATCH_TOKENS} | changes)


OF_THE_MODEL = {"kl_bits", "js_bits"}  # they involve the model's own logits


def require_equal(cached: pd.DataFrame, live: pd.DataFrame, exactly: bool) -> None:
    keys = ["prompt_id", "lens", "position", "site", "layer"]
    cached, live = (f.sort_values(keys).reset_index(drop=True) for f in (cached, live))
    assert cached.columns.tolist() == live.columns.tolist()
    for name in live.columns:
        a, b = cached[name].tolist(), live[name].tolist()
        if exactly and name not in OF_THE_MODEL:
            np.testing.assert_equal(a, b, err_msg=name)
        elif name.endswith("_bits"):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
