"""What a lens is worth on text it has not seen: how far it is from the model, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ModelError
from lensbench.fitting.windows import Window
from lensbench.lens.base import Lens
from lensbench.lens.logit import model_output, with_last
from lensbench.lens.metrics import LN_2
from lensbench.lens.vocabulary.beside import Beside
from lensbench.lens.vocabulary.output import Output
from lensbench.lens.vocabulary.stream import Stream, Vectors
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import plan_batches
from lensbench.residuals.capture import Residuals, capture_positions

_BINS = 10  # of confidence
PARTS = 6  # of the documents, left out in turn: of each a distribution a lens and layer is kept
FIRST = 1  # position: of the first token a model makes a state of its own, which no map is for


@dataclass(frozen=True)
class Measured:
    """Sums over tokens, by lens, layer and document; of the model and the lenses' means.

    `bins`: of the top token as a guess of the text's next one, by ten bins of its confidence, how
    many tokens, how many hits and the sum of confidences; see `calibration_error`.
    `marginal_kl_bits` is KL(model || lens) of the distributions averaged over all tokens: what the
    lens is biased by; `marginal_left_out` the same with a part of the documents left out.
    """

    n_tokens: Int[np.ndarray, " document"]
    kl_bits: Float[np.ndarray, "lens layer document"]
    top1_agreement: Float[np.ndarray, "lens layer document"]
    bins: Float[np.ndarray, "lens layer document 3 bin"]
    marginal_kl_bits: Float[np.ndarray, "lens layer"]
    marginal_left_out: Float[np.ndarray, "part lens layer"]

    @property
    def mean_kl_bits(self) -> Float[np.ndarray, "lens layer"]:
        """KL(model || lens), mean over tokens."""
        return self.kl_bits.sum(-1) / self.n_tokens.sum()


class _Sums:
    """Running sums of one call of `measure`."""

    def __init__(self, n_lenses: int, n_layers: int, n_documents: int, d_vocab: int) -> None:
        parts = min(PARTS, n_documents)
        self.part = torch.arange(n_documents) % parts
        self.n_tokens = torch.zeros(n_documents)
        self.kl_bits = torch.zeros(n_lenses, n_layers, n_documents, dtype=torch.float64)
        self.agree = torch.zeros_like(self.kl_bits)
        self.lens_mean = torch.zeros(parts, n_lenses, n_layers, d_vocab)
        self.model_mean = torch.zeros(parts, d_vocab)
        shape = (n_lenses, n_layers, n_documents, 3, _BINS)
        self.bins = torch.zeros(shape, dtype=torch.float64)

    def measured(self) -> Measured:
        parts = len(self.model_mean)
        left_out = [[i for i in range(parts) if i != part] for part in range(parts)]
        return Measured(
            self.n_tokens.long().numpy(),
            self.kl_bits.numpy(),
            self.agree.numpy(),
            self.bins.numpy(),
            self._marginal(list(range(parts))),
            np.stack([self._marginal(kept) for kept in left_out if kept] or [self._marginal([0])]),
        )

    def _marginal(self, kept: list[int]) -> Float[np.ndarray, "lens layer"]:
        """KL of the distributions averaged over the tokens of some parts, lens by lens."""
        tiny = torch.finfo(torch.float64).tiny
        p = torch.stack([self.model_mean[part].double() for part in kept]).sum(0)
        p /= p.sum()
        log_p = p.clamp(min=tiny).log()
        found = np.empty(self.kl_bits.shape[:2])
        for i, j in np.ndindex(*found.shape):
            q = self.lens_mean[kept, i, j].double().sum(0)
            log_q = (q / q.sum()).clamp(min=tiny).log()
            found[i, j] = float((p * (log_p - log_q)).sum()) / LN_2
        return found


def states_of(
    model: LensModel, windows: Sequence[Window], sites: Sequence[Site], head: bool = True
) -> Residuals:
    """Of every token but each window's first, window after window, in one forward pass.

    Without the `head` no logits are made, which are a large part of a small model's pass.

    Raises ModelError where they hold NaN or Inf: one such state spoils a whole map.
    """
    ids = [window.token_ids for window in windows]
    cells = [range(FIRST, len(one)) for one in ids]
    residuals = capture_positions(model, ids, cells, sites, head=head)
    if broken := residuals.broken_rows():
        sources = ", ".join(windows[row].document.source for row in sorted(broken))
        raise ModelError(
            f"{model.name} gives NaN or Inf for a text of the corpus ({sources}). Give --dtype "
            "float32, since float16 overflows above 65,504, or leave that text out."
        )
    return residuals


def measure(
    model: LensModel,
    lenses: Sequence[Lens],
    sites: Sequence[Site],
    windows: Sequence[Window],
    batch_tokens: int = 512,
    source: LensModel | None = None,
) -> Measured:
    """Read every token but the first of each window through every lens, at every site.

    One forward pass for all lenses; with a `source` one more, of the model whose states they read.
    """
    sums = _Sums(len(lenses), len(sites), len(windows), model.d_vocab)
    for items, residuals, states in _passes(model, sites, windows, batch_tokens, source):
        following = [(*windows[item].token_ids[FIRST + 1 :], -1) for item in items]
        documents = torch.tensor([items[row] for row, _ in residuals.cells])
        nexts = torch.tensor([token for one in following for token in one])
        with torch.inference_mode():
            _read(model, lenses, sites, residuals, states, documents, nexts, sums)
    return sums.measured()


@torch.inference_mode()
def mean_kl_bits(
    model: LensModel,
    lenses: Sequence[Lens],
    sites: Sequence[Site],
    windows: Sequence[Window],
    batch_tokens: int = 512,
    source: LensModel | None = None,
) -> Float[np.ndarray, "lens layer"]:
    """KL(model || lens) alone, mean over tokens: what `measure` finds too, with more work."""
    sums, n_tokens = torch.zeros(len(lenses), len(sites), dtype=torch.float64), 0
    for _, residuals, states in _passes(model, sites, windows, batch_tokens, source):
        n_cells = len(residuals.cells)
        logits = partial(model_output, model, residuals)
        stream = Stream(Output.of(model.readout, n_cells, logits), {}, top_k=1)
        for (i, lens), (j, site) in product(enumerate(lenses), enumerate(sites)):
            for cells in _groups(n_cells, stream.rows_at_once):
                normed = lens.normed(states.at(site)[cells], site).unsqueeze(1)
                sums[i, j] += stream.within(Vectors(normed, cells)).kl_bits.sum().cpu()
        n_tokens += n_cells
    return (sums / n_tokens).numpy()


def _passes(
    model: LensModel,
    sites: Sequence[Site],
    windows: Sequence[Window],
    batch_tokens: int,
    source: LensModel | None,
) -> Iterator[tuple[Sequence[int], Residuals, Residuals]]:
    """Which windows are read together, the model's states and output, and what lenses read."""
    lengths = [len(window.token_ids) for window in windows]
    for items in plan_batches(lengths, batch_tokens, model.rope_switch):
        own = [windows[item] for item in items]
        residuals = states_of(model, own, with_last(model, sites))
        states = residuals if source is None else states_of(source, own, sites, head=False)
        yield items, residuals, states


def _read(
    model: LensModel,
    lenses: Sequence[Lens],
    sites: Sequence[Site],
    residuals: Residuals,
    states: Residuals,
    documents: Int[Tensor, " cell"],
    nexts: Int[Tensor, " cell"],
    sums: _Sums,
) -> None:
    for cells in _groups(len(documents), Beside.rows_at_once(model.readout)):
        own, following = documents[cells], nexts[cells]
        in_part = torch.nn.functional.one_hot(sums.part[own], len(sums.model_mean)).T
        logits = model_output(model, residuals, cells)
        output = Beside(model.readout, logits, in_part.to(logits.device))
        best = output.top.cpu()
        sums.n_tokens.index_add_(0, own, torch.ones(len(own)))
        sums.model_mean += output.means.cpu()
        for (i, lens), (j, site) in product(enumerate(lenses), enumerate(sites)):
            found = output.compare(lens.normed(states.at(site)[cells], site))
            confidence, top = found.confidence.cpu(), found.top.cpu()
            sums.kl_bits[i, j].index_add_(0, own, found.kl_bits.cpu().double())
            sums.agree[i, j].index_add_(0, own, (top == best).double())
            sums.lens_mean[:, i, j] += found.means.cpu()
            known = following >= 0
            bins = (confidence * _BINS).long().clamp(max=_BINS - 1)[known]
            hits = (top == following)[known].double()
            for row, values in enumerate((torch.ones_like(hits), hits, confidence[known].double())):
                sums.bins[i, j, :, row].index_put_((own[known], bins), values, accumulate=True)


def calibration_error(bins: Float[np.ndarray, "*item 3 bin"]) -> Float[np.ndarray, "*item"]:
    """The expected calibration error (Naeini et al. 2015), 0..1, from sums of `Measured.bins`."""
    n, hits, confidence = np.moveaxis(bins, -2, 0)
    return np.abs(hits - confidence).sum(-1) / n.sum(-1)


def _groups(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
