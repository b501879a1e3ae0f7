"""Synthetic records of a comparison of two models, with chosen changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lensbench.records.open import open_record
from lensbench.records.record import Record
from lensbench.records.schema.lens import MILESTONES
from lensbench.report.diff.tables import TESTED
from tests.harness.lens_records import NASTY
from tests.harness.second_records import write

A, B = "tiny|a", "tiny|a@8"


def side(name: str, n_layers: int, **changes: Any) -> dict[str, Any]:
    facts = {"name": name, "source": "made by a test", "n_layers": n_layers, "d_model": 4}
    facts |= {"dtype": "float32", "weights_sha256": "a" * 64, "prompts": "facts", "limit": None}
    return facts | changes


def cell(item: str, relation: str, layer: int, n_layers: int, **values: Any) -> dict[str, Any]:
    readings = ("entropy_bits", "kl_bits", "answer_rank", "answer_prob")
    both = {f"{name}_{s}": 1.0 for name in readings for s in "ab"}
    row = {"prompt_id": item, "relation": relation, "layer": layer, "depth": layer / n_layers}
    row |= both | {"answer_rank_log2_change": 0.0, "top1_same": True}
    return row | {"resid_cosine": 1.0, "resid_change": 0.0, "lens_kl_bits": 0.0} | values


def prompt(item: str, relation: str, a: float | None, b: float | None, **more: Any) -> Any:
    """A prompt whose answer reaches rank 1 at these depths; None: it is not answered."""
    row = {"prompt_id": item, "relation": relation, "prompt": f"{item}?", "answer": "yes"}
    for s, depth in (("a", a), ("b", b)):
        row |= {f"top1_correct_{s}": depth is not None}
        for name in MILESTONES:
            row |= {f"{name}_layer_{s}": None, f"{name}_depth_{s}": depth}
    return row | more


def layers_of(cells: list[dict[str, Any]], p: float = 0.01) -> list[dict[str, Any]]:
    places = sorted({(c["layer"], c["depth"]) for c in cells})
    return [
        {"measure": measure, "layer": layer, "depth": depth, "mean_change": 0.0, "p_adjusted": p}
        | {"n_prompts": 4, "n_relations": 2}
        for measure in TESTED.values()
        for layer, depth in places
    ]


def make(
    folder: Path, cells: list[Any], prompts: list[Any], n_layers: int, **manifest: Any
) -> Record:
    rows = {"diff_cells": cells, "diff_prompts": prompts, "diff_layers": layers_of(cells)}
    rows["problems"] = [
        {"model": "m", "where": "x", "what": NASTY[1], "remedy": "mend | it", "prompt_id": None}
    ]
    facts = {
        "model": {"name": f"{A} to {B}", "a": side(A, n_layers), "b": side(B, n_layers)},
        "settings": {
            "relative_depth": False,
            "context": False,
            "diverge_bits": 0.1,
            "lens": "final",
        },
        "residuals_reason": None,
        "lenses_reason": None,
    }
    facts["model"] |= manifest.pop("model", {})
    facts["settings"] |= manifest.pop("settings", {})
    write(folder, "diff", rows, **(facts | manifest))
    return open_record(folder)


def many(shift: float, b_answers: float = 1.0) -> list[Any]:
    """40 prompts in 8 relations, emerging at 80 % of depth in a; every prompt of b moved."""
    rng = np.random.default_rng(0)
    return [
        prompt(f"p{i}", f"r{i % 8}", 0.8, 0.8 + shift if rng.random() < b_answers else None)
        for i in range(40)
    ]


def cells_of(prompts: list[Any], n_layers: int) -> list[Any]:
    return [
        cell(p["prompt_id"], p["relation"], layer, n_layers)
        for p in prompts
        for layer in range(n_layers + 1)
    ]
