"""Two records' kept residual vectors side by side: how far they moved, and what both lenses say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.ref import ModelRef
from lensbench.compare.diff import changes as maths
from lensbench.compare.diff.pairs import by_layer
from lensbench.errors import LensbenchError
from lensbench.lens.gate import Identity, worst
from lensbench.lens.metrics import Distribution, entropy_bits, kl_bits
from lensbench.models.load import load_model
from lensbench.models.readout import Readout
from lensbench.models.sites import Site
from lensbench.progress import Progress, Watch
from lensbench.records.lens_record import LensRecord

_ROWS = 64  # prompts whose logits are held at once
# What a residual read again may differ by: rounding of the head's product, in the head's dtype, on
# another machine perhaps. Another model's readout is off by bits.
_ENTROPY_BITS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 2e-1}


@dataclass(frozen=True)
class Moved:
    """What needs both residual vectors: columns of [prompt, layer], None where there are none.

    `residuals_reason` says why the vectors are not compared, `lenses_reason` why the lenses are
    not; None where they are.
    """

    columns: dict[str, Float[np.ndarray, "prompt layer"] | None]
    residuals_reason: str | None
    lenses_reason: str | None
    identities: list[Identity] = field(default_factory=list)


def compare_residuals(
    a: LensRecord, b: LensRecord, ids: pd.Index, device: str | None, progress: Watch
) -> Moved:
    """Cosine and relative change of the residual vectors, and KL(lens a || lens b), at each layer.

    Raises RecordsError for shards that are missing or altered.
    """
    reason = _no_residuals(a, b)
    if reason is not None:
        return Moved(
            dict.fromkeys(("resid_cosine", "resid_change", "lens_kl_bits")), reason, reason
        )
    readouts, lenses_reason = _readouts(a, b, device)
    sites = [Site("embed", 0)] + [Site("resid_post", i + 1) for i in range(a.n_layers)]
    columns: dict[str, Any] = {"resid_cosine": [], "resid_change": [], "lens_kl_bits": []}
    entropies: dict[str, list[Float[np.ndarray, " prompt"]]] = {"a": [], "b": []}
    for site in sites:
        progress(Progress("residual vectors", site.layer, len(sites), "layers"))
        vectors = _vectors(a, ids, site), _vectors(b, ids, site)
        columns["resid_cosine"].append(maths.cosine(*vectors))
        columns["resid_change"].append(maths.relative_change(*vectors))
        if readouts is not None:
            kl, *both = _between(readouts, vectors)
            columns["lens_kl_bits"].append(kl)
            for side, entropy in zip("ab", both, strict=True):
                entropies[side].append(entropy)
    progress(Progress("residual vectors", len(sites), len(sites), "layers"))
    stacked = {name: np.stack(v, axis=1) if v else None for name, v in columns.items()}
    identities = [
        _same_reading(record, ids, np.stack(entropies[side], axis=1))
        for side, record in (("a", a), ("b", b))
        if entropies[side]
    ]
    return Moved(stacked, None, lenses_reason, identities)


def _readouts(
    a: LensRecord, b: LensRecord, device: str | None
) -> tuple[tuple[Readout, Readout] | None, str | None]:
    """Both readouts; or None, and why one of them cannot be had."""
    try:
        return (_readout(a, device), _readout(b, device)), None
    except LensbenchError as error:
        return None, str(error)


def _no_residuals(a: LensRecord, b: LensRecord) -> str | None:
    """Why residual vectors cannot be compared, or None when they can."""
    if a.n_layers != b.n_layers:
        return f"the models have {a.n_layers} and {b.n_layers} layers"
    if a.model["d_model"] != b.model["d_model"]:
        return f"the residual streams are {a.model['d_model']} and {b.model['d_model']} wide"
    without = [record.name for record in (a, b) if record.residuals is None]
    if without:
        return f"{' and '.join(without)} was run without --keep-residuals"
    return None


def _vectors(record: LensRecord, ids: pd.Index, site: Site) -> Float[np.ndarray, "prompt d_model"]:
    """The residual vectors of some prompts at one site, in the order of `ids`."""
    assert record.residuals is not None
    row_of = {item: row for row, item in enumerate(record.residuals.cells["prompt_id"])}
    rows = np.array([row_of[item] for item in ids], dtype=np.int64)
    return record.residuals.at(site.name, site.layer, rows)


def _readout(record: LensRecord, device: str | None) -> Readout:
    """The readout that the record was made with: its base's, in its number format.

    Quantisation passes over norm and head, and so does an adapter in the blocks; that residuals
    read again give the record's own entropies is checked after.

    Raises a LensbenchError that says why it cannot be had.
    """
    model = record.model
    name = str(model.get("base", model["name"]))
    if model.get("adapter") is not None and model["adapter_update_norms"] is None:
        raise LensbenchError(f"the adapter of {record.name}: {model['adapter_norms_reason']}")
    ref = ModelRef.of(name)
    if ref.facts()["weights_sha256"] != model["weights_sha256"]:
        raise LensbenchError(f"{name} has other weights now than when {record.folder} was made")
    return load_model(ref, dtype=model["dtype"], device=device).readout


def _between(
    readouts: tuple[Readout, Readout],
    vectors: tuple[Float[np.ndarray, "prompt d_model"], Float[np.ndarray, "prompt d_model"]],
) -> list[Float[np.ndarray, " prompt"]]:
    """KL(lens a || lens b) in bits, and the entropy of each lens."""
    found = [
        torch.stack([kl_bits(p, q), entropy_bits(p), entropy_bits(q)])
        for p, q in _distributions(readouts, vectors)
    ]
    return [np.asarray(row, dtype=np.float64) for row in torch.cat(found, dim=1).cpu().numpy()]


def _distributions(
    readouts: tuple[Readout, Readout],
    vectors: tuple[Float[np.ndarray, "prompt d_model"], Float[np.ndarray, "prompt d_model"]],
) -> Iterator[tuple[Distribution, Distribution]]:
    def read(readout: Readout, rows: np.ndarray) -> Distribution:
        resid: Tensor = torch.from_numpy(rows).to(readout.W_U.device)
        return Distribution.from_logits(readout(resid))

    with torch.inference_mode():
        for start in range(0, len(vectors[0]), _ROWS):
            parts = [side[start : start + _ROWS] for side in vectors]
            p, q = (read(readout, part) for readout, part in zip(readouts, parts, strict=True))
            yield p, q


def _same_reading(
    record: LensRecord, ids: pd.Index, entropies: Float[np.ndarray, "prompt layer"]
) -> Identity:
    """What the kept residuals give is what the record says was read from them."""
    recorded = by_layer(record, "entropy_bits", ids).to_numpy(dtype=np.float64)
    error = worst(np.abs(entropies - recorded).reshape(-1).tolist())
    bound = _ENTROPY_BITS[record.model["dtype"]]
    name = f"kept residuals of {record.name}, read again = its record (entropy)"
    reason = f"{record.model['dtype']}: the head's product, rounded in another order at worst"
    return Identity(name, error, bound, "bits", bool(error <= bound), reason)
