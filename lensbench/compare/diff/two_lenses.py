"""Two records' kept residual vectors side by side: how far they moved, and what both lenses say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from lensbench.records.facts import known_of
from lensbench.records.lens.record import LensRecord

_ROWS = 64  # prompts whose logits are held at once
# What a residual read again may differ by: rounding of the head's product, in the head's dtype, on
# another machine perhaps. Another model's readout is off by bits.
_ENTROPY_BITS = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 2e-1}

# What the readout depends on, and how an error says that it is another.
_WEIGHTS = {"weights_sha256": "other weights", "config_sha256": "another config"}
_MOVED = ("resid_cosine", "resid_change", "lens_kl_bits")


@dataclass(frozen=True, eq=False)
class Kept:
    """What both records kept of these prompts, as far as it can be compared.

    `residuals_reason` says why the vectors are not compared, `lenses_reason` why the lenses are
    not; None where they are.
    """

    records: tuple[LensRecord, LensRecord]
    ids: pd.Index
    residuals_reason: str | None
    lenses_reason: str | None
    readouts: tuple[Readout, Readout] | None = None

    def compare(self, layer: int) -> tuple[dict[str, Any], dict[str, float]]:
        """What needs both vectors at one layer, and how far each record is from its residuals.

        Columns over prompts, None where there are none: cosine and relative change of the vectors,
        and KL(lens a || lens b). Errors are those of the entropies that the vectors give again.

        Raises RecordsError for shards that are missing or altered.
        """
        columns: dict[str, Any] = dict.fromkeys(_MOVED)
        if self.residuals_reason is not None:
            return columns, {}
        a, b = self.records
        site = Site.state(layer)
        vectors = _vectors(a, self.ids, site), _vectors(b, self.ids, site)
        columns["resid_cosine"] = maths.cosine(*vectors)
        columns["resid_change"] = maths.relative_change(*vectors)
        if self.readouts is None:
            return columns, {}
        columns["lens_kl_bits"], *entropies = _between(self.readouts, vectors)
        errors = {}
        for side, record, entropy in zip("ab", self.records, entropies, strict=True):
            recorded = by_layer(record, "entropy_bits", self.ids)[layer].to_numpy(dtype=np.float64)
            errors[side] = worst(np.abs(entropy - recorded).tolist())
        return columns, errors

    def identities(self, errors: Sequence[Mapping[str, float]]) -> list[Identity]:
        """What the kept residuals give is what the records say was read from them, at all layers.

        `errors`: of each layer, as `compare` gives them.
        """
        return [
            _same_reading(record, worst(found))
            for side, record in zip("ab", self.records, strict=True)
            if (found := [each[side] for each in errors if side in each])
        ]


def kept_by_both(a: LensRecord, b: LensRecord, ids: pd.Index, device: str | None) -> Kept:
    """The residual vectors of both, with the readouts that they were read with."""
    reason = _no_residuals(a, b)
    if reason is not None:
        return Kept((a, b), ids, reason, reason)
    readouts, lenses_reason = _readouts(a, b, device)
    return Kept((a, b), ids, None, lenses_reason, readouts)


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
    facts = known_of(model, ref.facts())
    if other := [fact for fact in _WEIGHTS if facts.get(fact) != model.get(fact)]:
        what = " and ".join(_WEIGHTS[fact] for fact in other)
        raise LensbenchError(f"{name} has {what} now than when {record.folder} was made")
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


def _same_reading(record: LensRecord, error: float) -> Identity:
    bound = _ENTROPY_BITS[record.model["dtype"]]
    name = f"kept residuals of {record.name}, read again = its record (entropy)"
    reason = f"{record.model['dtype']}: the head's product, rounded in another order at worst"
    return Identity.held(name, error, bound, "bits", reason)
