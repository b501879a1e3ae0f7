"""Synthetic traces of a model of 12 blocks, in which chosen layers change and others do not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lensbench.records.schema import KINDS, SCHEMA_VERSION, TABLES
from lensbench.records.schema.generation import SPANS
from tests.harness.files import write_manifest

N_LAYERS, N_PROMPTS, WIDTH = 12, 20, 16
PLANTED = (5, 6, 7)

Values = NDArray[np.float64]


def base(seed: int = 0, n_prompts: int = N_PROMPTS, n_layers: int = N_LAYERS) -> Values:
    """Vectors [layer, prompt, d] of one condition: a common part and one of each prompt."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n_layers + 1, 1, WIDTH))
    return common + rng.normal(size=(n_layers + 1, n_prompts, WIDTH))


def noisy(values: Values, seed: int, sigma: float = 0.3) -> Values:
    """The same vectors with a little noise: a condition that changes nothing in particular."""
    return values + sigma * np.random.default_rng(seed).normal(size=values.shape)


def planted(
    values: Values, seed: int, layers: Collection[int] = PLANTED, size: float = 1.0
) -> Values:
    """Noise everywhere, and at `layers` a change of each prompt's vector."""
    changed = noisy(values, seed)
    rng = np.random.default_rng(seed + 1000)
    for layer in layers:
        changed[layer] += size * rng.normal(size=changed[layer].shape)
    return changed


def write_trace(
    folder: Path,
    values: Values,
    ids: Sequence[str] | None = None,
    generated: Values | None = None,
    **model: Any,
) -> Path:
    """A trace record of these vectors; `generated` defaults to the same as in the prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"p{i:02d}" for i in range(values.shape[1])] if ids is None else ids
    spans = dict(zip(SPANS, (values, values if generated is None else generated), strict=True))
    rows = [
        _cell(item, span, layer, own[layer, row], len(values) - 1)
        for span, own in spans.items()
        for row, item in enumerate(ids)
        for layer in range(len(values))
    ]
    for name in KINDS["trace"].names:
        own_rows = rows if name == "activations" else []
        pq.write_table(
            pa.Table.from_pylist(own_rows, TABLES[name].schema), folder / f"{name}.parquet"
        )
    write_manifest(folder, manifest(len(values) - 1, **model))
    return folder


def _cell(item: str, span: str, layer: int, mean: Values, n_layers: int) -> dict[str, Any]:
    silent = np.isnan(mean).all()  # no token in this span
    return {
        "model": "tiny",
        "prompt_id": item,
        "span": span,
        "site": "embed" if layer == 0 else "resid_post",
        "layer": layer,
        "depth": layer / n_layers,
        "n_tokens": 0 if silent else 5,
        "mean": None if silent else mean.tolist(),
        "mean_norm": None if silent else float(np.linalg.norm(mean)),
    }


def manifest(n_layers: int, **model: Any) -> dict[str, Any]:
    """What a trace's manifest says."""
    facts = {"name": "tiny", "bits": 32, "adapter": None, "n_layers": n_layers, "d_model": WIDTH}
    facts |= {"weights_sha256": "a" * 64, "tokenizer_sha256": "b" * 64, "int8_threshold": None}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "trace",
        "status": "complete",
        "lensbench_version": "0",
        "versions": {},
        "git": None,
        "created": "2026-01-01",
        "machine": {"cpu": "c", "cores": 2, "memory_bytes": 2**34, "os": "Linux"},
        "model": facts | model,
        "settings": {"prompts": "p.csv", "prompts_sha256": "d" * 64, "batch_size": 4},
        "gate": [],
        "problems": 0,
        "wall_s": 1.0,
        "peak_memory_bytes": 1,
    }
