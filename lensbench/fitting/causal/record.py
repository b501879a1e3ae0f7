"""Causal fidelity of a fit's lenses as a table: at a few layers, by a few directions."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import torch

from lensbench.fitting.causal.fidelity import Correlation, Directions, Fidelity, fidelity
from lensbench.fitting.method import Fitter, Maps
from lensbench.lens.base import Final, Lens
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.models.model import LensModel
from lensbench.records.schema.fit import FIT_FIDELITY

DEPTHS = (0.25, 0.5, 0.75)
TEXTS, TOKENS = 4, 32  # each direction costs a forward pass of so many held-out tokens
_CONTROLS = ("calibration", "shuffled")


def fidelity_table(fitter: Fitter, maps: Mapping[str, Maps]) -> pa.Table:
    """One row per lens and layer. The directions are those of the part `choose`."""
    model, spec = fitter.model, fitter.spec
    lenses: dict[str, Lens] = {
        name: Affine(model, own, name) for name, own in maps.items() if name not in _CONTROLS
    }
    lenses["final"] = Final(model)
    layers = layers_of(model.n_layers)
    lenses["random"] = Affine(model, dict.fromkeys(layers, _turn(model.d_model)), "random")
    sites = [fitter.sites[layer] for layer in layers]
    chosen = torch.cat(list(fitter.states(fitter.windows["choose"], sites)), dim=1)
    texts = [window.token_ids[:TOKENS] for window in fitter.windows["test"][:TEXTS]]
    rows = []
    for site, states in zip(sites, chosen, strict=True):
        directions = Directions.drawn(states, spec.directions, seed=site.layer)
        rows += fidelity(model, lenses, site, texts, directions, spec.batch_tokens)
    return FIT_FIDELITY.of_rows([_row(model, one) for one in rows])


def layers_of(n_layers: int) -> list[int]:
    """The layers whose states have directions removed."""
    return sorted({round(depth * n_layers) for depth in DEPTHS} - {n_layers})


def _turn(width: int) -> AffineMap:
    """A rotation by chance: what a lens that reads nothing owes to the size of what is removed."""
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    return AffineMap(torch.linalg.qr(drawn)[0], torch.zeros(width))


def _row(model: LensModel, one: Fidelity) -> dict[str, object]:
    return {
        "model": model.name,
        "reading": one.reading,
        "layer": one.layer,
        "depth": one.layer / model.n_layers,
        **_columns("spearman", one.spearman),
        **_columns("partial_spearman", one.partial),
        "n_directions": one.n_directions,
        "n_tokens": one.n_tokens,
    }


def _columns(name: str, found: Correlation) -> dict[str, float | None]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
