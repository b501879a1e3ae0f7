"""A few rows of a lens table, for tests of where they are written."""

from __future__ import annotations

import pyarrow as pa

from lensbench.records.schema.lens import LENS

MODEL = {"name": "tiny", "n_layers": 3, "weights_sha256": "0" * 64}
READING = {
    "model": "tiny", "prompt_id": "p", "lens": "final", "site": "resid_post", "depth": 0.5,
    "position": 0, "is_last": True, "token_id": 1, "token": "a", "top_ids": [1],
    "top_probs": [1.0], "top_tokens": ["a"],
}  # fmt: skip


def lens_table(*layers: int) -> pa.Table:
    """A reading at each layer."""
    rows = [READING | {"layer": layer} for layer in layers]
    return pa.Table.from_pylist(rows, schema=LENS.schema)
