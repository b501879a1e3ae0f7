"""A fit as record tables (records/schema/fit.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from lensbench.fitting.quality import Measured, calibration_error
from lensbench.fitting.windows import Part, Window
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.records.schema.fit import FIT_DOCUMENTS, FIT_QUALITY
from lensbench.stats.estimates import summed_estimate
from lensbench.stats.resampling import jackknife_half_width

_SHARE = "calibration_share"
_FEWEST_PARTS = 5  # of the documents: of fewer the jackknife has no interval worth its name


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
    return FIT_DOCUMENTS.of_rows(rows)


def quality_table(
    model: LensModel,
    readings: Sequence[str],
    sites: Sequence[Site],
    measured: Measured,
    strengths: Mapping[str, Mapping[int, float]],
) -> pa.Table:
    """One row per reading x layer; `strengths` by reading and layer, of those that have
    one."""
    shares = _calibration_shares(readings, sites, measured)
    rows = [
        {
            "model": model.name,
            "reading": reading,
            "layer": site.layer,
            "depth": site.depth(model.n_layers),
            "strength": strengths.get(reading, {}).get(site.layer),
            **_mean("kl_bits", measured.kl_bits[i, j], measured.n_tokens),
            **_mean("top1_agreement", measured.top1_agreement[i, j], measured.n_tokens),
            **_left_out(
                "marginal_kl_bits",
                measured.marginal_kl_bits[i, j],
                measured.marginal_left_out[:, i, j],
            ),
            **_calibration(measured.bins[i, j]),
            **(shares[site.layer] if reading == "fitted" else _no_share()),
            "n_tokens": int(measured.n_tokens.sum()),
            "n_documents": len(measured.n_tokens),
        }
        for i, reading in enumerate(readings)
        for j, site in enumerate(sites)
    ]
    return FIT_QUALITY.of_rows(rows)


def _mean(name: str, sums: np.ndarray, n_tokens: np.ndarray) -> dict[str, Any]:
    """A mean over tokens with its interval over documents."""
    terms = np.stack([sums, n_tokens.astype(float)], axis=1)
    return summed_estimate(terms, _ratio, several=True).columns(name)


def _calibration(bins: Float[np.ndarray, "document 3 bin"]) -> dict[str, Any]:
    """The expected calibration error with its interval over documents."""
    shape = bins.shape[1:]
    estimate = summed_estimate(
        bins.reshape(len(bins), -1),
        lambda total: calibration_error(total.reshape(*total.shape[:-1], *shape)),
        several=True,
    )
    return estimate.columns("calibration_error")


def _left_out(name: str, value: float, left_out: Float[np.ndarray, " part"]) -> dict[str, Any]:
    """A number of all documents, with the jackknife's interval; it is not below 0."""
    if len(left_out) < _FEWEST_PARTS:
        return {name: float(value), f"{name}_low": None, f"{name}_high": None}
    half = jackknife_half_width(left_out)
    return {
        name: float(value),
        f"{name}_low": max(float(value) - half, 0.0),
        f"{name}_high": float(value) + half,
    }


def _calibration_shares(
    readings: Sequence[str], sites: Sequence[Site], measured: Measured
) -> dict[int, dict[str, Any]]:
    """By layer, how much of the lens' gain over the logit lens is scale and bias alone.

    (KL of final - KL of calibration) / (KL of final - KL of fitted), means over tokens. None where
    the interval of the gain itself holds 0: there is nothing to share.
    """
    if not {"final", "calibration", "fitted"} <= set(readings):
        return {site.layer: _no_share() for site in sites}
    final, own, plain = (
        measured.kl_bits[readings.index(name)] for name in ("final", "fitted", "calibration")
    )
    shares = {}
    for j, site in enumerate(sites):
        terms = np.stack([final[j] - plain[j], final[j] - own[j]], axis=1)
        gain = summed_estimate(terms[:, 1:], lambda total: total[..., 0], several=True)
        shares[site.layer] = _no_share()
        if gain.low is not None and gain.low > 0:
            share = summed_estimate(terms, _ratio, several=True)
            shares[site.layer] = share.columns(_SHARE)
    return shares


def _ratio(total: Float[np.ndarray, "*draw 2"]) -> Float[np.ndarray, "*draw"]:
    return total[..., 0] / total[..., 1]


def _no_share() -> dict[str, Any]:
    return dict.fromkeys((_SHARE, f"{_SHARE}_low", f"{_SHARE}_high"))
