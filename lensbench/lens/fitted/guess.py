"""Reading or guessing? What the controls of a fitted lens say of an answer without the prompt.

A map that was fitted can compute (Hewitt & Liang 2019, arXiv 1909.03368): that an answer comes out
of a state does not show that the state holds it. A lens' controls are given the last token's
embedding alone, so whatever they say does not come from the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.lens.base import Lens
from lensbench.models.sites import Site
from lensbench.residuals.capture import Residuals
from lensbench.residuals.store import CachedResiduals


def guess_ranks(
    lens: Lens,
    residuals: Residuals | CachedResiduals,
    sites: Sequence[Site],
    answers: Int[Tensor, " cell"],
) -> Float[Tensor, "site cell"]:
    """The place of each cell's answer, all that tie before it, by the control that has it best.

    1..d_vocab, the same at every site: a control knows of no layer. NaN where there is no answer
    (a negative id), no control, or the embedding was not read.
    """
    best = torch.full(answers.shape, torch.nan, device=answers.device)
    asked = (answers >= 0).nonzero().flatten()
    embed = next((site for site in sites if site.kind == "embed"), None)
    if embed is not None and len(asked):
        with torch.inference_mode():
            for cells in asked.split(lens.readout.rows_at_once):
                best[cells] = _best(lens, residuals.at(embed)[cells], embed, answers[cells])
    return best.expand(len(sites), -1)


def _best(
    lens: Lens, embedding: Float[Tensor, "cell d_model"], embed: Site, answer: Int[Tensor, " cell"]
) -> Float[Tensor, " cell"]:
    places = [torch.full(answer.shape, torch.nan, device=answer.device)]
    for state in lens.guesses(embedding.float()):
        logits = lens.readout.logits(lens.norm(state, embed))
        own = logits.gather(-1, answer.unsqueeze(-1))
        place = (logits >= own).sum(-1).float()
        log_prob = own.squeeze(-1) - logits.logsumexp(-1)
        places.append(place.where(log_prob.isfinite(), torch.nan))
    return torch.stack(places).nan_to_num(torch.inf).amin(0).nan_to_num(posinf=torch.nan)
