"""What a lens is worth on text it has not seen: how far it is from the model, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.fitting.windows import Window
from lensbench.lens.base import Lens
from lensbench.lens.logit import model_output
from lensbench.lens.metrics import LN_2
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import plan_batches
from lensbench.residuals.capture import Residuals, capture_positions

_BINS = 10  # of confidence
FIRST = 1  # position: of the first token a model makes a state of its own, which no map is for


@dataclass(frozen=True)
class Measured:
    """Sums over tokens, by lens, layer and document; of the model and the lenses' means.

    `calibration_error` is the expected calibration error (Naeini et al. 2015) of the top token as a
    guess of the text's next one, 0..1, in ten bins of confidence. `marginal_kl_bits` is KL(model ||
    lens) of the distributions averaged over all tokens: what the lens is biased by.
    """

    n_tokens: Int[np.ndarray, " document"]
    kl_bits: Float[np.ndarray, "lens layer document"]
    top1_agreement: Float[np.ndarray, "lens layer document"]
    marginal_kl_bits: Float[np.ndarray, "lens layer"]
    calibration_error: Float[np.ndarray, "lens layer"]

    @property
    def mean_kl_bits(self) -> Float[np.ndarray, "lens layer"]:
        """KL(model || lens), mean over tokens."""
        return self.kl_bits.sum(-1) / self.n_tokens.sum()


class _Sums:
    """Running sums of one call of `measure`."""

    def __init__(self, n_lenses: int, n_layers: int, n_documents: int, d_vocab: int) -> None:
        self.n_tokens = torch.zeros(n_documents)
        self.kl_bits = torch.zeros(n_lenses, n_layers, n_documents, dtype=torch.float64)
        self.agree = torch.zeros_like(self.kl_bits)
        self.lens_mean = torch.zeros(n_lenses, n_layers, d_vocab)
        self.model_mean = torch.zeros(d_vocab)
        self.bins = torch.zeros(3, n_lenses, n_layers, _BINS, dtype=torch.float64)

    def measured(self) -> Measured:
        n, hits, confidence = self.bins
        error = (hits - confidence).abs().sum(-1) / n.sum(-1)
        p, q = (mean.double() / self.n_tokens.sum() for mean in (self.model_mean, self.lens_mean))
        tiny = torch.finfo(torch.float64).tiny
        marginal = (p * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum(-1) / LN_2
        return Measured(
            self.n_tokens.long().numpy(),
            self.kl_bits.numpy(),
            self.agree.numpy(),
            marginal.numpy(),
            error.numpy(),
        )


def measure(
    model: LensModel,
    lenses: Sequence[Lens],
    sites: Sequence[Site],
    windows: Sequence[Window],
    batch_tokens: int = 512,
) -> Measured:
    """Read every token but the first of each window through every lens, at every site.

    One forward pass for all lenses.
    """
    sums = _Sums(len(lenses), len(sites), len(windows), model.d_vocab)
    lengths = [len(window.token_ids) for window in windows]
    for items in plan_batches(lengths, batch_tokens, model.rope_switch):
        ids = [windows[item].token_ids for item in items]
        wanted = [range(FIRST, len(one)) for one in ids]
        captured = [*sites, model.final_site] if model.final_site not in sites else list(sites)
        residuals = capture_positions(model, ids, wanted, captured)
        following = [(*one[FIRST + 1 :], -1) for one in ids]
        documents = torch.tensor([i for i, p in zip(items, wanted, strict=True) for _ in p])
        nexts = torch.tensor([token for own in following for token in own])
        with torch.inference_mode():
            _read(model, lenses, sites, residuals, documents, nexts, sums)
    return sums.measured()


def _read(
    model: LensModel,
    lenses: Sequence[Lens],
    sites: Sequence[Site],
    residuals: Residuals,
    documents: Int[Tensor, " cell"],
    nexts: Int[Tensor, " cell"],
    sums: _Sums,
) -> None:
    for cells in _groups(len(documents), model.readout.rows_at_once):
        p = torch.log_softmax(model_output(model, residuals, cells), dim=-1)
        probs, best = p.exp(), p.argmax(-1).cpu()
        own, following = documents[cells], nexts[cells]
        sums.n_tokens.index_add_(0, own, torch.ones(len(own)))
        sums.model_mean += probs.sum(0).cpu()
        for (i, lens), (j, site) in product(enumerate(lenses), enumerate(sites)):
            q = torch.log_softmax(lens.logits(residuals.at(site)[cells], site), dim=-1)
            kl = ((p - q).mul_(probs).sum(-1) / LN_2).double().cpu()
            sums.kl_bits[i, j].index_add_(0, own, kl)
            confidence, top = (each.cpu() for each in q.exp_().max(-1))
            sums.agree[i, j].index_add_(0, own, (top == best).double())
            sums.lens_mean[i, j] += q.sum(0).cpu()
            known = following >= 0
            bins = (confidence * _BINS).long().clamp(max=_BINS - 1)[known]
            hits = (top == following)[known].double()
            for row, values in enumerate((torch.ones_like(hits), hits, confidence[known].double())):
                sums.bins[row, i, j].index_add_(0, bins, values)


def _groups(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
