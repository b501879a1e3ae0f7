"""Distributions beside the model's own, from one pass over the vocabulary in tiles.

All that is wanted of a tile's logits is made while they lie in the processor's cache: only where
means over tokens are wanted, its probabilities are held.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.lens.metrics import LN_2, not_negative
from lensbench.models.readout import Readout

_HELD_BYTES = 96 << 20  # of each of the tables [row, d_vocab] that a `Beside` holds on a CPU


@dataclass(frozen=True)
class Compared:
    """Some distributions: KL(model || this), the top token and its probability.

    `means`: their probabilities, weighted and summed as was asked for.
    """

    kl_bits: Float[Tensor, " row"]  # float64, as is the confidence
    top: Int[Tensor, " row"]
    confidence: Float[Tensor, " row"]
    means: Float[Tensor, "mean d_vocab"]


class Beside:
    """The model's distributions at some rows, beside which others of these rows are put.

    Args:
        logits: the model's.
        weights: of each row in each mean of the distributions; those of the model's own are
            `means`.
    """

    def __init__(
        self,
        readout: Readout,
        logits: Float[Tensor, "row d_vocab"],
        weights: Float[Tensor, "mean row"] | None = None,
    ) -> None:
        self._readout, self._logits = readout, logits
        self._weights = logits.new_empty(0, len(logits)) if weights is None else weights
        widest = next(readout.tiles()).stop
        self._memory = logits.new_empty(2, len(logits) * widest)
        self._probs = torch.empty_like(logits)
        own = _Softmax(len(logits), logits.device)
        for tile in readout.tiles():
            room, scratch = self._room(tile)
            own.add(room.copy_(logits[:, tile]), tile.start, scratch)
            self._probs[:, tile] = scratch
        self._log_z, self.top = own.log_z, own.top
        self.means = self._mean(own, self._probs)
        for tile, share in zip(readout.tiles(), own.shares.float(), strict=True):
            self._probs[:, tile] *= share.unsqueeze(-1)
        sums = [wide(self._probs[:, tile].sum(-1)) for tile in readout.tiles()]
        self._total = torch.stack(sums).sum(0)
        self._held = torch.empty_like(logits if len(self._weights) else logits[:, :0])

    @staticmethod
    def rows_at_once(readout: Readout) -> int:
        """How many rows to give at once, at least 1."""
        if readout.holds:
            return readout.rows_at_once
        return max(_HELD_BYTES // (4 * readout.W_U.shape[1]), 1)

    def compare(self, normed: Float[Tensor, "row d_model"]) -> Compared:
        """What the head makes of normed vectors, one of each row."""
        own, off = _Softmax(len(normed), normed.device), torch.zeros_like(self._log_z)
        for tile in self._readout.tiles():
            logits, scratch = self._room(tile)
            self._readout.logits(normed, tile, out=logits)
            torch.sub(self._logits[:, tile], logits, out=scratch)
            off += scratch.mul_(self._probs[:, tile]).sum(-1)
            own.add(logits, tile.start, scratch)
            if len(self._weights):
                self._held[:, tile] = scratch
        # The divergence's two parts are of differences: equal logits give exactly 0.
        kl_bits = not_negative((off / self._total + own.log_z - self._log_z) / LN_2)
        return Compared(kl_bits, own.top, own.confidence, self._mean(own, self._held))

    def _room(self, tile: slice) -> tuple[Tensor, Tensor]:
        """For the numbers of a tile, twice."""
        shape = (len(self._logits), tile.stop - tile.start)
        first, second = (half[: shape[0] * shape[1]].view(shape) for half in self._memory)
        return first, second

    def _mean(
        self, own: _Softmax, in_tiles: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "mean d_vocab"]:
        """Of probabilities within each tile."""
        if not len(self._weights):
            return self._logits[:0]
        weights = (self._weights * own.shares.unsqueeze(1)).float()  # [tile, mean, row]
        tiles = zip(self._readout.tiles(), weights, strict=True)
        return torch.cat([each @ in_tiles[:, tile] for tile, each in tiles], dim=1)


class _Softmax:
    """The softmax of some rows, to which tiles of their logits are added."""

    def __init__(self, n_rows: int, device: torch.device) -> None:
        self._log_z: list[Tensor] = []  # of each tile, natural, float64
        self._peak = torch.full((n_rows,), -torch.inf, device=device)
        self.top = torch.zeros(n_rows, dtype=torch.long, device=device)

    def add(
        self,
        logits: Float[Tensor, "row token"],
        start: int,
        within: Float[Tensor, "row token"],
    ) -> None:
        """The logits of the tokens from `start` on; `within`: where their own softmax is put."""
        torch.softmax(logits, -1, out=within)
        peak, best = logits.amax(-1), within.amax(-1)
        self._log_z.append(wide(peak) - wide(best).log())  # the best has exp(0) of all
        rows = (peak > self._peak).nonzero().flatten()
        self.top[rows] = logits[rows].argmax(-1) + start
        self._peak = torch.maximum(peak, self._peak)

    @property
    def log_z(self) -> Float[Tensor, " row"]:
        """The natural log-partition, float64."""
        return torch.stack(self._log_z).logsumexp(0)

    @property
    def shares(self) -> Float[Tensor, "tile row"]:
        """The probability of each tile, float64."""
        return (torch.stack(self._log_z) - self.log_z).exp()

    @property
    def confidence(self) -> Float[Tensor, " row"]:
        """The probability of the top token, float64."""
        return (wide(self._peak) - self.log_z).exp()
