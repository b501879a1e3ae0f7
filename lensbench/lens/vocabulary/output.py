"""The model's own distribution at each cell, as a divergence from it needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.models.readout import Readout

Logits = Callable[[slice, slice], Float[Tensor, "cell token"]]  # of which cells and tokens


@dataclass(frozen=True)
class Output:
    """The model's distributions p at the cells of a batch, made once for all lenses.

    With z = x W_U + b, KL(p || softmax(z)) = log Z - H(p) - (x . W_U p + b . p): no lens needs a
    pass over p. That is so with a logit scale; where a soft cap bends the logits, p is made again,
    tile by tile.
    """

    readout: Readout
    logits: Logits  # the model's own, float32, a new tensor
    near: Float[Tensor, " cell"]  # the log-partition, as float32 rounds it
    entropy: Float[Tensor, " cell"]  # nats, float64
    mean_row: Float[Tensor, "cell d_model"] | None  # W_U p, float64; None with a soft cap
    mean_bias: Float[Tensor, " cell"]  # b . p, float64
    total: Float[Tensor, " cell"]  # what `probs` sum to, float64

    @classmethod
    def of(cls, readout: Readout, n_cells: int, logits: Logits) -> Output:
        """Two passes over the vocabulary, for so many rows as there are cells."""
        every = slice(0, n_cells)
        parts = [wide(logits(every, tile).logsumexp(-1)) for tile in readout.tiles()]
        near = torch.stack(parts).logsumexp(0).float()
        total, surprise, mean_bias = wide(torch.zeros(3, n_cells, device=near.device))
        mean_row = None
        if readout.soft_cap is None:
            mean_row = wide(torch.zeros(n_cells, readout.W_U.shape[0], device=near.device))
        for tile in readout.tiles():
            log_p = logits(every, tile).sub_(near.unsqueeze(-1))
            p = log_p.exp()
            total += p.sum(-1)
            surprise -= torch.linalg.vecdot(p, log_p)
            if mean_row is not None:
                rows, bias = readout.weighted(p, tile)
                mean_row += rows
                mean_bias += bias
        # What `near` is off by, which is much where logits are large, is all of what `total` is.
        entropy = surprise / total + total.log()
        if mean_row is not None:
            mean_row /= total.unsqueeze(-1)
        return cls(readout, logits, near, entropy, mean_row, mean_bias / total, total)

    def probs(self, cells: slice, tokens: slice) -> Float[Tensor, "cell token"]:
        """Probabilities of a range of the vocabulary, times `total`."""
        return self.logits(cells, tokens).sub_(self.near[cells, None]).exp_()

    def mean_logit(
        self, normed: Float[Tensor, "cell site d_model"], cells: slice
    ) -> Float[Tensor, "cell site"] | None:
        """The mean under p of the logits that each normed vector gets, float64.

        None where a soft cap bends them.
        """
        if self.mean_row is None:
            return None
        own = torch.einsum("csd,cd->cs", wide(normed), self.mean_row[cells])
        return self.readout.logit_scale * (own + self.mean_bias[cells, None])
