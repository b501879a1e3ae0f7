"""The fourth step: every head's scores before its softmax, held to the weights that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.attention.gate import has_sinks, row_check, rows_identity
from lensbench.attention.patterns import Seen, Source, require_readable
from lensbench.lens.gate import SITE_IDENTITIES, Identity, worst
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch
from lensbench.report.walk.numbers import Attention
from lensbench.residuals.capture import watch

_SCORES = "attn.hook_attn_scores"  # TransformerLens' hook point: [batch, head, query, key]
_ROWS = SITE_IDENTITIES["pattern"]


def read_attention(model: LensModel, ids: Sequence[int]) -> tuple[Attention, list[Identity]]:
    """The scores of every head, with what they are held to.

    Raises ModelError for a model whose attention has no pattern everywhere.
    """
    require_readable(model)
    source, n = Source(model), len(ids)
    check = row_check(source, ids)
    scores: dict[int, Float[Tensor, "head query key"]] = {}
    sums: dict[int, Float[Tensor, "head query"]] = {}
    row_errors, softmax_errors = list[float](), list[float]()

    def see(site: Site, value: Float[Tensor, "1 head query key"]) -> None:
        block, own = site.layer - 1, value[0].float()
        if site.kind == _SCORES:
            allowed = torch.ones(n, n, dtype=torch.bool, device=own.device).tril()
            masked = own <= torch.finfo(value.dtype).min / 2  # as a mask is added
            scores[block] = own.masked_fill(~allowed | masked, -torch.inf)
            return
        row_errors.append(check(Seen(0, block, own, None)))
        sums[block] = own.sum(-1)
        again = scores[block].softmax(-1) * sums[block][..., None]
        softmax_errors.append(float((again - own).abs().max()))

    layers = range(1, model.n_layers + 1)
    sites = [Site(kind, layer) for layer in layers for kind in (_SCORES, "pattern")]
    watch(model, make_batch([0], [ids]), sites, see, columns=[])
    query, key = torch.tril_indices(n, n)
    blocks = range(model.n_layers)
    attention = Attention(
        scores=torch.stack([scores[block][:, query, key] for block in blocks]).cpu().numpy(),
        sums=torch.stack([sums[block] for block in blocks]).cpu().numpy(),
        scale=_told(model, "scaling"),
        d_head=int(model.bridge.cfg.d_head),
        windows=[None if w is None or w >= n else w for w in source.windows],
        cap=_told(model, "attn_logit_softcapping"),
        sinks=any(has_sinks(model, block) for block in blocks),
    )
    made = Identity.held(
        "the softmax of each head's scores = its weights",
        worst(softmax_errors),
        _ROWS.bounds[model.dtype],
        _ROWS.unit,
        _ROWS.reason,
    )
    return attention, [rows_identity(source, worst(row_errors)), made]


def _told(model: LensModel, name: str) -> float | None:
    """A number that Hugging Face's own attention has under a name; None where it has none."""
    attention: Any = getattr(model.bridge.blocks[0], "attn", None)
    value = getattr(getattr(attention, "original_component", None), name, None)
    return None if value is None else float(value)
