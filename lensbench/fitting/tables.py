"""A fit as record tables (records/schema/fit.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lensbench.fitting.quality import Measured
from lensbench.fitting.windows import Part, Window
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.records.schema.fit import FIT_DOCUMENTS, FIT_QUALITY
from lensbench.stats.estimates import summed_estimate


def documents_table(model: str, parts: Mapping[Part, Sequence[Window]]) -> pa.Table:
    """One row per document that was read."""
    rows = [
        {
            "model": model,
            "document": window.document.sha256,
            "source": window.document.source,
            "part": part,
            "n_tokens": len(window.token_ids),
        }
        for part, windows in parts.items()
        for window in windows
    ]
    return pa.Table.from_pylist(rows, schema=FIT_DOCUMENTS.schema)


def quality_table(
    model: LensModel,
    readings: Sequence[str],
    sites: Sequence[Site],
    measured: Measured,
    strengths: Mapping[str, Mapping[int, float]],
) -> pa.Table:
    """One row per reading x layer; `strengths` by reading and layer, of those that have
    one."""
    rows = [
        {
            "model": model.name,
            "reading": reading,
            "layer": site.layer,
            "depth": site.depth(model.n_layers),
            "strength": strengths.get(reading, {}).get(site.layer),
            **_mean("kl_bits", measured.kl_bits[i, j], measured.n_tokens),
            **_mean("top1_agreement", measured.top1_agreement[i, j], measured.n_tokens),
            "marginal_kl_bits": float(measured.marginal_kl_bits[i, j]),
            "calibration_error": float(measured.calibration_error[i, j]),
            "n_tokens": int(measured.n_tokens.sum()),
            "n_documents": len(measured.n_tokens),
        }
        for i, reading in enumerate(readings)
        for j, site in enumerate(sites)
    ]
    return pa.Table.from_pylist(rows, schema=FIT_QUALITY.schema)


def _mean(name: str, sums: np.ndarray, n_tokens: np.ndarray) -> dict[str, Any]:
    """A mean over tokens with its interval over documents."""
    terms = np.stack([sums, n_tokens.astype(float)], axis=1)
    estimate = summed_estimate(terms, lambda total: total[..., 0] / total[..., 1])
    assert estimate.value is not None
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
