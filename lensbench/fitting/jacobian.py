"""The Jacobian lens: what a small change of a layer's state does to the last layer's states.

Gurnee et al. 2026 (Verbalizable Representations Form a Global Workspace in Language Models). For a
text and the set V of its tokens from the 17th to the last but one,

    J_l = 1/|V| sum over t in V of sum over t' >= t in V of d h_last,t' / d h_l,t,

and a lens reads x J_l, the mean over texts. `transformer_lens.tools.analysis.JacobianLens` is the
same estimator; it takes texts, not the tokens that the other methods are fitted to, and has no map
for the embedding, which every other lens reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.models.forward import forward
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch

SKIPPED = 16  # tokens at the beginning, whose states are unlike all others
SHORTEST = SKIPPED + 2  # of these and the last one, one is left


def jacobian(
    model: LensModel, token_ids: Sequence[int], sites: Sequence[Site], batch_tokens: int
) -> Float[Tensor, "site d_model d_model"]:
    """Of one text at each of some sites, the rows by the state's dimension: x J.

    One backward pass gives a column of all sites: about 2 N T d_model operations in all, with N
    parameters and T tokens. The text stands several times in a batch of at most `batch_tokens`, for
    a column each.

    Args:
        token_ids: at least `SHORTEST` of them.
        sites: states below the last one.
    """
    width = model.d_model
    at_once = min(max(batch_tokens // len(token_ids), 1), width)
    states = _states(model, token_ids, sites, at_once)
    target, rows = states[-1], torch.arange(at_once, device=states[-1].device)
    places = torch.arange(SKIPPED, len(token_ids) - 1, device=target.device)
    found = torch.empty(len(sites), width, width)
    for columns in torch.arange(width, device=target.device).split(at_once):
        own = rows[: len(columns)]
        cotangent = torch.zeros_like(target)
        cotangent[own[:, None], places, columns[:, None]] = 1
        more = int(columns[-1]) < width - 1
        gradients = torch.autograd.grad(target, states[:-1], cotangent, retain_graph=more)
        for place, gradient in enumerate(gradients):
            means = gradient[own][:, places].float().mean(1)  # [column, d_model]
            found[place][:, columns.cpu()] = means.T.cpu()
    return found


def _states(
    model: LensModel, token_ids: Sequence[int], sites: Sequence[Site], copies: int
) -> list[Float[Tensor, "copy pos d_model"]]:
    """Of copies of a text at some sites and the last one, each with its way to the last one."""
    kept: dict[Site, Tensor] = {}

    def keep(site: Site, value: Tensor) -> Tensor | None:
        if not value.requires_grad:  # the first one: all that follows depends on it
            value.requires_grad_()
        kept[site] = value
        return value.detach() if site == model.final_site else None  # the head is none of it

    hooks = [
        (site.hook, lambda value, hook, site=site: keep(site, value))
        for site in (*sites, model.final_site)
    ]
    batch = make_batch(range(copies), [token_ids] * copies)
    with torch.enable_grad(), _frozen(model):
        forward(model.bridge, batch, model.device, hooks)
    return [kept[site] for site in (*sites, model.final_site)]


@contextmanager
def _frozen(model: LensModel) -> Iterator[None]:
    """No gradients by weights: nothing is kept for them in the forward pass."""
    weights = [weight for weight in model.bridge.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
