"""The model's own distribution at each cell, as a divergence from it needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.lens.vocabulary.bound import Errors, sampled
from lensbench.models.readout import Readout

Cells = slice | Int[Tensor, " some"]
Logits = Callable[[Cells, slice], Float[Tensor, "cell token"]]  # of which cells and tokens

ROWS = 512  # of a tile at once: the head is fetched once for so many, and no more need be held
_LOST = 2.0**-94  # numbers count as no less: what is lost of products below float32's normal ones
# Relative, of a float32 sum over some hundred tokens, where its errors go one way.
_ROUNDED = 4 * 2.0**-24


@dataclass(frozen=True)
class Output:
    """The model's distributions p at the cells of a batch, made once for all lenses.

    With z = x W_U + b, KL(p || softmax(z)) = log Z - H(p) - (x . W_U p + b . p): no lens needs a
    pass over p. That is so with a logit scale. Where a soft cap bends the logits, or those of the
    model are at hand and W_U would have to be lifted into float32 for it, p is made again, tile by
    tile.
    """

    readout: Readout
    logits: Logits  # the model's own, float32, a new tensor
    near: Float[Tensor, " cell"]  # the log-partition, as float32 rounds it
    entropy: Float[Tensor, " cell"]  # nats, float64
    mean_row: Float[Tensor, "cell d_model"] | None  # W_U p, float64; None where p is made again
    mean_bias: Float[Tensor, " cell"] | None  # b . p, float64, beside it
    size: Float[Tensor, " d_model"]  # squared, of the rows that `mean_row` is summed of, float64
    normed: Float[Tensor, "cell d_model"] | None = None  # of which the logits at hand were made

    @classmethod
    def of(
        cls,
        readout: Readout,
        n_cells: int,
        logits: Logits,
        normed: Float[Tensor, "cell d_model"] | None = None,
    ) -> Output:
        """Two passes over the vocabulary for so many rows as there are cells, some rows at a time.

        Args:
            normed: given where the logits are at hand: what the head made them of.
        """
        by_row = readout.soft_cap is None and normed is None
        size = max(n_cells if readout.holds else ROWS, 1)
        parts = (slice(i, min(i + size, n_cells)) for i in range(0, max(n_cells, 1), size))
        sums = [_sums(readout, logits, cells, by_row) for cells in parts]
        near, entropy, *mean = (torch.cat(own) for own in zip(*sums, strict=True))
        mean_row, mean_bias = mean or (None, None)
        rows = wide(readout.W_U.T[sampled(readout.W_U.shape[1])]).square().mean(0) + _LOST**2
        return cls(readout, logits, near, entropy, mean_row, mean_bias, rows, normed)

    def is_of(self, normed: Float[Tensor, "cell d_model"], cells: Cells) -> bool:
        """Whether the logits at hand of some cells are what the head makes of these vectors.

        Never of float64 ones: theirs are to be of float64 products.
        """
        if self.normed is None or self.readout.split is not None:
            return False
        return normed.dtype == self.normed.dtype and torch.equal(normed, self.normed[cells])

    def probs(self, cells: Cells, tokens: slice) -> Float[Tensor, "cell token"]:
        """Probabilities of a range of the vocabulary, but for what `near` is off by."""
        return self.logits(cells, tokens).sub_(self.near[cells, None]).exp_()

    def mean_logit(
        self, normed: Float[Tensor, "cell site d_model"], cells: Cells
    ) -> Float[Tensor, "cell site"] | None:
        """The mean under p of the logits that each normed vector gets, float64.

        None where p is made again.
        """
        if self.mean_row is None or self.mean_bias is None:
            return None
        own = torch.einsum("csd,cd->cs", wide(normed), self.mean_row[cells])
        return self.readout.logit_scale * (own + self.mean_bias[cells, None])


def _sums(readout: Readout, logits: Logits, cells: slice, by_row: bool) -> tuple[Tensor, ...]:
    """Of some cells the log-partition, the entropy and, by row, the mean row and the mean bias."""
    n_cells = cells.stop - cells.start
    parts = [wide(logits(cells, tile).logsumexp(-1)) for tile in readout.tiles()]
    near = torch.stack(parts).logsumexp(0).float()
    total, surprise, mean_bias = wide(torch.zeros(3, n_cells, device=near.device))
    width = readout.W_U.shape[0] if by_row else 0
    mean_row = wide(torch.zeros(n_cells, width, device=near.device))
    for tile in readout.tiles():
        log_p = logits(cells, tile).sub_(near.unsqueeze(-1))
        p = log_p.exp()
        total += p.sum(-1)
        surprise -= torch.linalg.vecdot(p, log_p)
        if by_row:
            rows, bias = readout.weighted(p, tile)
            mean_row += rows
            mean_bias += bias
    # What `near` is off by, which is much where logits are large, is all of what `total` is.
    entropy = surprise / total + total.log()
    mean = (mean_row / total.unsqueeze(-1), mean_bias / total) if by_row else ()
    return near, entropy, *mean


class MeanLogits:
    """Mean logits of some vectors under the model's distribution at their cells.

    By the mean row where that is close enough, and else summed tile by tile: where there is none,
    and of float64 vectors, whose mean row has but float32's sums. Summed are distances from a
    centre: what all tokens have in common must not count.
    """

    def __init__(
        self, output: Output, normed: Float[Tensor, "cell site d_model"], cells: Cells
    ) -> None:
        self._output, self._normed, self._cells = output, normed, cells
        self._by_row = output.mean_logit(normed, cells)
        self._summed = self._by_row is None or normed.dtype == torch.float64
        self._centre = self._by_row  # else the first tile's mean
        self._off = wide(torch.zeros(normed.shape[:2], device=normed.device))  # from the centre
        self._size = torch.zeros_like(self._off)  # the same of absolute distances
        self._total = torch.zeros_like(self._off[:, :1])

    def add(
        self, logits: Float[Tensor, "row token"], tile: slice, scratch: Float[Tensor, "row token"]
    ) -> None:
        """The logits of a tile; overwrites the scratch."""
        if not self._summed:
            return
        shape = self._off.shape
        own, room = logits.unflatten(0, shape), scratch.unflatten(0, shape)
        if self._centre is None:
            self._centre = own.mean(-1)
        far = torch.sub(own, self._centre.unsqueeze(-1), out=room)
        p = self._output.probs(self._cells, tile).unsqueeze(1)
        self._total += p.sum(-1, dtype=self._total.dtype)
        terms = torch.mul(far, p, out=room)
        self._off += terms.sum(-1)
        self._size += terms.abs_().sum(-1)

    def below(self, log_z: Float[Tensor, " row"], errors: Errors) -> Float[Tensor, " row"]:
        """How far they are below log-partitions: the cross entropy, nats.

        The best tokens' errors would not cancel against a mean that is not made of these products.
        """
        if not self._summed:
            assert self._by_row is not None
            return log_z + errors.of_log_z - self._by_row.flatten()
        assert self._centre is not None
        return log_z - (self._off / self._total + self._centre).flatten()

    def kl_error(self, errors: Errors, kl_bits: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """What a divergence by these means may be off by, nats."""
        head = self._output.readout
        if not self._summed:
            assert self._output.mean_row is not None
            size = self._output.mean_row[self._cells].square() + self._output.size
            terms = torch.einsum("csd,cd->cs", wide(self._normed) ** 2, size).sqrt()
            return errors.of_rest + (_ROUNDED * abs(head.logit_scale) * terms).flatten()
        rounded = _ROUNDED if self._normed.dtype == torch.float32 else 0.0
        return errors.of_differences(kl_bits) + rounded * (self._size / self._total).flatten()
