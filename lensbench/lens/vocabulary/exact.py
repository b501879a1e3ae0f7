"""Decisions that no rounding of products makes: ranks, ties and top tokens as float64 has them.

What is nearer to a threshold than the products may be wrong is computed again in float64: tokens
near one that is sought, while their tile is there, and in the end those near the k-th best.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.devices import working_bytes
from lensbench.errors import ModelError
from lensbench.lens.vocabulary.reading import Reading, Running
from lensbench.models.readout import Readout

_SPARE = 11  # tokens kept beyond the k best by products, to find the k best of float64 among
# Once so many tokens are known to be better than one, its rank is no decision of a lens any more,
# and tokens stand so dense that the whole bound of a sum holds thousands of them. What is nearer
# than 16 roundings is still recomputed: errors are a random walk (Higham & Mary 2019, SIAM J. Sci.
# Comput. 41(5)), of at most 3.6 on a CPU and 3.3 on an H100. A head can be made whose errors all go
# one way; so tokens wherever they stand are compared too, and an error of 16 stops a run.
_FEW = 100
_USUAL = 16
_COMPARED = 8192  # one of so many tokens, at least one of each tile
_APART = 797  # prime: tokens between those that are compared in one row and in the next
_NUMBERS = 1 << 21  # float64 ones at once, in recomputing on a CPU
_ROWS = 8  # whole ones
_DOUBLE = 2.0**-29  # of float32's bound, what float64 sums may be off by themselves: that is a tie
_ULP = 2.0**-50  # of a float64 logit, what a bias, a scale and a soft cap may leave it off by


@dataclass
class Recomputed:
    """How much was computed again, of how much, and what it showed of the products' errors.

    `worst`: the largest error, in roundings of the sum of absolute terms (`Readout.rounding`).
    """

    n: int = 0
    n_logits: int = 0
    worst: float = 0.0

    def add(self, other: Recomputed) -> None:
        """Count what another reduction did."""
        self.n += other.n
        self.n_logits += other.n_logits
        self.worst = max(self.worst, other.worst)


class ExactRunning(Running):
    """A reduction whose counts and top tokens are those of float64 products of the same numbers.

    The logits of sought and top tokens that it gives are float64. The readout's `rounding` says how
    far the tiles' own may be off.
    """

    def __init__(
        self,
        readout: Readout,
        rows: Float[Tensor, "row d_model"],
        k: int,
        tokens: Mapping[str, Int[Tensor, " row"]],
        counted: Collection[str],
        there: Collection[str],
    ) -> None:
        self._readout, self._rows = readout, rows  # `_exact` needs them
        d_vocab, every = readout.W_U.shape[1], torch.arange(len(rows), device=rows.device)
        logits = {name: self._exact(every, ids.clamp(min=0)) for name, ids in tokens.items()}
        kept = min(k + _SPARE, d_vocab)
        super().__init__(readout, rows, kept, tokens, counted, there, logits)
        self._equal += 1  # the token itself, which is not compared with itself
        self._n_top = k
        rounding = readout.rounding(rows)
        self._rounding = rounding.where(rounding.isfinite(), 0.0)  # else no distribution anyway
        self._bound = self._rounding * readout.n_roundings
        # A soft cap draws logits together, and what they are off by with them.
        slope = 1 if readout.soft_cap is None else 1 - (self._logits / readout.soft_cap) ** 2
        self._tied_within = self._bound * _DOUBLE * slope + _ULP * self._logits.abs()
        self._near_top = rows.new_empty(0)  # logits of the top tokens, by products
        self.recomputed = Recomputed(n_logits=len(rows) * d_vocab)
        self._worst = torch.zeros((), dtype=torch.float64, device=rows.device)

    def _count(
        self, logits: Float[Tensor, "row token"], start: int, scratch: Float[Tensor, "row token"]
    ) -> None:
        if not self._readout.holds:  # else all are decided on at once
            self.decide(logits, start)

    def decide(self, logits: Float[Tensor, "row token"], start: int) -> None:
        """Count those of the tokens from `start` on that are better than, or tie with, each sought.

        By products; then those that are near the sought one are counted as float64 orders them.
        """
        self._pass(logits, start)
        self._compare_some(logits, start)
        usual = torch.minimum(self._bound, _USUAL * self._rounding)
        for i in self._compared:
            own = self._logits[i]
            better = logits > own.float().unsqueeze(-1)
            n_better = self._better[i] + better.sum(-1)
            margin = torch.where(n_better < _FEW, self._bound, usual)
            low, high = (edge.float().unsqueeze(-1) for edge in (own - margin, own + margin))
            near = (logits >= low).logical_and_(logits <= high)
            rows, inner = near.nonzero(as_tuple=True)
            self.recomputed.n += len(rows)
            exact, other = self._exact(rows, inner + start), inner + start != self._tokens[i, rows]
            tied = (exact - own[rows]).abs() <= self._tied_within[i, rows]
            found = (exact > own[rows]) & ~tied & other
            change = found.double() - better[rows, inner].double()
            self._better[i] = n_better.index_add(0, rows, change)
            self._equal[i].index_add_(0, rows, (tied & other).double())
            self._compare(exact, logits[rows, inner], rows)

    def _compare_some(self, logits: Float[Tensor, "row token"], start: int) -> None:
        """As `_compare`, of tokens that are near nothing: other ones in each row."""
        n_rows, width = logits.shape
        rows = torch.arange(n_rows, device=logits.device).unsqueeze(1)
        inner = (torch.arange(0, width, _COMPARED, device=logits.device) + _APART * rows) % width
        pairs = rows.expand_as(inner).flatten(), (start + inner).flatten()
        self._compare(self._exact(*pairs), logits.gather(1, inner).flatten(), pairs[0])

    def _compare(
        self,
        exact: Float[Tensor, " pair"],
        near: Float[Tensor, " pair"],
        rows: Int[Tensor, " pair"],
    ) -> None:
        """Note how far products are off, of logits that are known in float64 too."""
        off = ((exact - near).abs() / self._rounding[rows]).nan_to_num(0.0, 0.0)
        if len(off):
            self._worst = torch.maximum(self._worst, off.max())

    @property
    def as_sought(self) -> Tensor:
        """Every row: what is sought is compared with in float64."""
        return torch.ones_like(self._rounding, dtype=torch.bool)

    def reading(self) -> Reading:
        """As of products, with the top tokens of float64.

        Raises ModelError where a product is off by more than these decisions allow for.
        """
        found = super().reading()
        rows = torch.arange(len(self._rows), device=self._rows.device).unsqueeze(1)
        every = rows.expand_as(found.top_ids).flatten()
        exact = self._exact(every, found.top_ids.flatten())
        self.recomputed.n += len(every)
        self._compare(exact, found.top_logits.flatten(), every)
        sought = rows.T.expand_as(self._passed).flatten()
        self._compare(self._logits.flatten(), self._passed.flatten(), sought)
        best, order = exact.view_as(found.top_ids).topk(self._n_top, dim=1)
        ids = found.top_ids.gather(1, order)
        self._near_top = found.top_logits.gather(1, order)
        least = found.top_logits[:, self._n_top - 1] - 2 * self._bound
        if found.top_ids.shape[1] < self._readout.W_U.shape[1]:
            unsettled = (found.top_logits[:, -1] >= least) & (self._bound > 0)
            for some in unsettled.nonzero().flatten().split(_ROWS):
                best[some], ids[some] = self._best_of_all(some)
                self._near_top[some] = best[some].float()
        self._require_usual()
        return replace(found, top_logits=best, top_ids=ids)

    def _best_of_all(self, rows: Int[Tensor, " some"]) -> tuple[Tensor, Tensor]:
        """Of rows in which more tokens are near the k-th best than were kept."""
        logits = self._readout.in_float64(self._rows[rows])
        self.recomputed.n += logits.numel()
        best, ids = logits.topk(self._n_top, dim=1)
        return best, ids

    def _require_usual(self) -> None:
        self.recomputed.worst = float(self._worst)
        allowed = _USUAL - 1  # the edges of what is near are rounded too
        if self.recomputed.worst > allowed:
            raise ModelError(
                f"a product of bfloat16 parts is off by {self.recomputed.worst:.3g} roundings of "
                f"its sum, and {allowed} are allowed for: this device does not sum as it should, "
                "or the errors of this head's sums all go one way. "
                "Read with products in float32 (--products float32)."
            )

    def _best_errors(self, reading: Reading) -> Float[Tensor, "row k"]:
        """Known here: top logits are float64 already."""
        return reading.top_logits - self._near_top.double()

    def _near(self, reading: Reading) -> Float[Tensor, "row k"]:
        return self._near_top

    def _exact(
        self, rows: Int[Tensor, " pair"], tokens: Int[Tensor, " pair"]
    ) -> Float[Tensor, " pair"]:
        """The logit of a token of a row, for pairs of them: products and sums in float64."""
        there = working_bytes(self._rows.device) // 32 if self._readout.holds else _NUMBERS
        size = max(there // self._rows.shape[1], 1)
        pairs = zip(rows.split(size), tokens.split(size), strict=True)
        return torch.cat([self._readout.exact(self._rows[r], t) for r, t in pairs])
