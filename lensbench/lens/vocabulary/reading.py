"""What a pass over the vocabulary leaves of some distributions, and the pass: a running reduction.

Each tile of logits is reduced while it lies in the processor's cache. What is kept of it per row
is small: its log-partition and entropy, which join by Shannon's grouping (1948, section 6), the
best blocks of 64 tokens, and counts of tokens that are better than one that is sought.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.lens.metrics import LN_2, not_negative
from lensbench.lens.vocabulary.bound import Errors, sampled
from lensbench.models.readout import BLOCK, Readout

MISSING = -1  # in token ids: this row has no such token
Rows = slice | Int[Tensor, " some"]
_LEAST = -87.0  # nats: exp of it is still an ordinary float32 number
_SMALLEST = 1.7e-38  # above that exp
_ULP = 2.0**-51  # two roundings of a float64 number


@dataclass(frozen=True)
class Seen:
    """A token of each row: its logit, how many are better, and how many others are exactly so good.

    Of a missing one the logit is NaN. The numbers are None where they were not to be counted.
    """

    token: Int[Tensor, " row"]
    logit: Float[Tensor, " row"]
    n_better: Int[Tensor, " row"] | None
    n_equal: Int[Tensor, " row"] | None

    def with_rows(self, rows: Rows, other: Seen) -> Seen:
        """With the rows of another in place of some."""
        both = {name: (old, getattr(other, name)) for name, old in vars(self).items()}
        put = {name: _put(*pair, rows) for name, pair in both.items() if pair[0] is not None}
        return replace(self, **put)


@dataclass(frozen=True)
class Reading:
    """Distributions over the vocabulary, one a row, as default statistics need them.

    `log_z` is the natural log-partition; `kl_bits` is KL(model || this). `top_logits` are of the
    `top_ids`, best first, at least two of them where there are two tokens. `seen` are the tokens
    that were sought, by their name. Their logits are float64 where `ExactRunning` read them.
    `outside`: rows whose bits may be further off than is stated (`bound.py`).
    """

    log_z: Float[Tensor, " row"]  # float64, as are the bits
    entropy_bits: Float[Tensor, " row"]
    kl_bits: Float[Tensor, " row"]
    top_logits: Float[Tensor, "row k"]
    top_ids: Int[Tensor, "row k"]
    seen: Mapping[str, Seen]
    outside: Bool[Tensor, " row"]

    def with_rows(self, rows: Rows, other: Reading) -> Reading:
        """With the rows of another reading in place of some."""
        names = [field.name for field in fields(self) if field.name != "seen"]
        new = {name: _put(getattr(self, name), getattr(other, name), rows) for name in names}
        seen = {name: mine.with_rows(rows, other.seen[name]) for name, mine in self.seen.items()}
        return Reading(**new, seen=seen)

    def log_probs(self, logits: Float[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
        """Natural log-probabilities of a logit of each row, or of k of them, -inf..0, float64."""
        log_z = self.log_z if logits.dim() == 1 else self.log_z.unsqueeze(-1)
        # The partition is a sum of rounded terms: the one term of a sure row may exceed it.
        return (wide(logits) - log_z).clamp(max=0.0)


class Running:
    """The reduction of some rows, to which tiles of their logits are added from the first on.

    Args:
        readout: of the tiles' logits; where it holds them, nothing is asked of the device on the
            way.
        rows: the normed vectors that they are of. Where they are float64, logits are, and what no
            float64 sum can tell apart ties.
        tokens: ids of what is sought, by name; MISSING where a row has none.
        counted: the names whose better and equal tokens are counted.
        there: those of them that some row has at all.
        logits: of these tokens, with which all others are compared. They have to be of the same
            rounding as the tiles' own, or nothing that is counted holds: see `as_sought`.
    """

    def __init__(
        self,
        readout: Readout,
        rows: Float[Tensor, "row d_model"],
        k: int,
        tokens: Mapping[str, Int[Tensor, " row"]],
        counted: Collection[str],
        there: Collection[str],
        logits: Mapping[str, Float[Tensor, " row"]],
    ) -> None:
        self._readout, self._rows = readout, rows
        self._k, self._names, self._counted = k, list(tokens), counted
        n_rows, device = len(rows), rows.device
        shape = (len(tokens), n_rows)
        self._tokens = torch.empty(shape, dtype=torch.long, device=device)
        for i, name in enumerate(tokens):
            self._tokens[i] = tokens[name]
        own = [logits[name] for name in tokens]
        number = rows.dtype
        self._logits = torch.stack(own) if own else rows.new_empty(shape)
        self._tied_within = self._ties()
        missing = self._tokens == MISSING
        self._logits.masked_fill_(missing, torch.nan)  # no other is better, or as good
        self._compared = [i for i, name in enumerate(tokens) if name in there]
        self._passed = torch.full(shape, torch.nan, device=device, dtype=number)
        self._better = wide(torch.zeros(shape, device=device))
        self._equal = torch.zeros_like(self._better)
        self._log_z: list[Tensor] = []
        self._entropy: list[Tensor] = []
        self._sample: list[Tensor] = []
        n_blocks = -(-readout.W_U.shape[1] // BLOCK)
        n_kept = min(k, n_blocks)  # the k best tokens lie in the k blocks with the highest maxima
        self._best = torch.full((n_rows, n_kept), -torch.inf, device=device, dtype=number)
        self._kept = self._best.unsqueeze(-1).repeat(1, 1, BLOCK)
        self._first = torch.zeros((n_rows, n_kept), dtype=torch.long, device=device)

    def _ties(self) -> Float[Tensor, "name row"]:
        """How far apart logits tie: in float32 not at all, in float64 by what a sum may be off."""
        if self._rows.dtype != torch.float64:
            return torch.zeros_like(self._logits)
        slope = torch.ones_like(self._logits)
        if self._readout.soft_cap is not None:  # draws logits together, and what they are off by
            slope -= (self._logits / self._readout.soft_cap) ** 2
        weights = self._readout.W_U.T[self._tokens.clamp(min=0)].double()
        terms = abs(self._readout.logit_scale) * weights.norm(dim=-1) * self._rows.norm(dim=-1)
        return _ULP * (self._rows.shape[1] * terms * slope + self._logits.abs())

    def add(
        self, logits: Float[Tensor, "row token"], start: int, scratch: Float[Tensor, "row token"]
    ) -> None:
        """The logits of the tokens from `start` on. Overwrites both tensors, which are alike."""
        self._sample.append(logits[:, sampled(self._readout.W_U.shape[1], start)].clone())
        self._count(logits, start, scratch)
        peak = self._keep_best(logits, start).unsqueeze(-1)
        self._shares(logits.sub_(peak), scratch)
        total = wide(scratch.sum(-1))
        self._log_z.append(wide(peak.squeeze(-1)) + total.log())
        self._entropy.append(total.log() - wide(self._dots(scratch, logits)) / total)

    def _shares(self, logits: Float[Tensor, "row token"], out: Float[Tensor, "row token"]) -> None:
        """Probabilities, a multiple of the best token's, from distances to it.

        Those that are no ordinary float32 numbers add nothing to a sum, and a CPU takes fifteen
        times as long over them: they are 0.
        """
        if self._readout.holds:
            torch.exp(logits, out=out)
            return
        torch.clamp(logits, min=_LEAST, out=out).exp_()
        torch.threshold_(out, _SMALLEST, 0.0)

    def _dots(
        self, shares: Float[Tensor, "row token"], logits: Float[Tensor, "row token"]
    ) -> Float[Tensor, " row"]:
        """Of each row with itself; an accelerator would make a small product of each."""
        if self._readout.holds:
            return logits.mul_(shares).sum(-1)
        return torch.linalg.vecdot(shares, logits)

    def _count(
        self, logits: Float[Tensor, "row token"], start: int, scratch: Float[Tensor, "row token"]
    ) -> None:
        """On a CPU comparing into floats and adding those is six times faster than counting.

        A count below 2**24 is exact in float32. On an accelerator booleans are a quarter of the
        bytes.
        """
        self._pass(logits, start)
        for i in self._compared:
            own, width = self._logits[i].unsqueeze(-1), self._tied_within[i].unsqueeze(-1)
            room = None if self._readout.holds else scratch
            better = torch.gt(logits, own + width, out=room).sum(-1)
            self._better[i] += better
            self._equal[i] += torch.ge(logits, own - width, out=room).sum(-1) - better

    def _pass(self, logits: Float[Tensor, "row token"], start: int) -> None:
        """Note the logits of sought tokens that are in this tile."""
        width = logits.shape[1]
        place = self._tokens - start  # [name, row]
        here = (place >= 0) & (place < width)
        own = logits.gather(1, place.clamp(0, width - 1).T).T
        self._passed = own.where(here, self._passed)

    def _keep_best(self, logits: Float[Tensor, "row token"], start: int) -> Float[Tensor, " row"]:
        """The blocks with the highest maxima so far, whole; returns the tile's maximum."""
        blocks = _in_blocks(logits)
        maxima = blocks.amax(-1)
        n_kept = self._best.shape[1]
        best, chosen = torch.cat([self._best, maxima], dim=1).topk(n_kept, dim=1)
        self._best = best
        rows = self._changed(chosen >= n_kept)
        chosen = chosen[rows]
        is_new, each = chosen >= n_kept, rows.unsqueeze(-1)
        old, new = chosen.clamp(max=n_kept - 1), (chosen - n_kept).clamp(min=0)
        kept, first = self._kept[each, old], self._first[each, old]
        self._kept[rows] = blocks[each, new].where(is_new.unsqueeze(-1), kept)
        self._first[rows] = (start + new * BLOCK).where(is_new, first)
        return maxima.amax(-1)

    def _changed(self, is_new: Bool[Tensor, "row k"]) -> Int[Tensor, " some"]:
        """Rows in which something is new: few, late in the vocabulary.

        On an accelerator all, for to learn which, the processor would have to wait for it.
        """
        if self._readout.holds:
            return torch.arange(len(is_new), device=is_new.device)
        return is_new.any(-1).nonzero().squeeze(-1)

    @property
    def as_sought(self) -> Tensor:
        """Which rows' sought tokens had, in their tiles, the very logits that were compared with.

        Two products of the same numbers may be rounded otherwise when their shapes differ.
        """
        same = (self._passed == self._logits) | (self._tokens == MISSING)
        same |= (self._passed - self._logits).abs() < self._tied_within
        return same.all(0)

    def log_z(self) -> Float[Tensor, " row"]:
        """The natural log-partition, float64."""
        return torch.stack(self._log_z).logsumexp(0)

    def errors(self, reading: Reading) -> Errors:
        """What the products of these rows are off by, where it is known."""
        best = self._best_errors(reading)
        every = slice(0, None, sampled(self._readout.W_U.shape[1]).step)
        exact = self._readout.logits(wide(self._rows), every)
        worst = torch.cat([exact - torch.cat(self._sample, dim=1), best], dim=1).abs().amax(-1)
        return Errors(best, reading.log_probs(self._near(reading)).exp(), worst)

    def _best_errors(self, reading: Reading) -> Float[Tensor, "row k"]:
        """Float64 logits of the best tokens, less those of the products."""
        each = zip(reading.top_ids.T, reading.top_logits.T, strict=True)
        return torch.stack([self._readout.exact(self._rows, ids) - z for ids, z in each], dim=1)

    def _near(self, reading: Reading) -> Float[Tensor, "row k"]:
        """Logits of the best tokens, as the products have them."""
        return reading.top_logits

    def entropy(self) -> Float[Tensor, " row"]:
        """In nats, float64: the tiles' own, and that of which tile."""
        log_z = self.log_z()
        of_tile = torch.stack(self._log_z)
        share = (of_tile - log_z).exp()
        surprise = torch.where(share > 0, log_z - of_tile, 0.0)  # where a share underflows: 0 x inf
        return (share * (torch.stack(self._entropy) + surprise)).sum(0)

    def reading(self) -> Reading:
        """What there is to say after the last tile; of the divergence nothing yet (NaN)."""
        logits, inner = self._kept.flatten(1).topk(self._k, dim=1)
        ids = self._first.gather(1, inner // BLOCK) + inner % BLOCK
        better, equal = self._better.long(), self._equal.long() - 1
        seen = {
            name: Seen(self._tokens[i], self._logits[i], better[i], equal[i])
            if name in self._counted
            else Seen(self._tokens[i], self._logits[i], None, None)
            for i, name in enumerate(self._names)
        }
        entropy_bits = not_negative(self.entropy() / LN_2)
        unknown = torch.full_like(entropy_bits, torch.nan)
        inside = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        return Reading(self.log_z(), entropy_bits, unknown, logits, ids, seen, inside)


def _put(old: Tensor, new: Tensor, rows: Rows) -> Tensor:
    put = old.to(torch.promote_types(old.dtype, new.dtype), copy=True)
    put[rows] = new.to(put.dtype)
    return put


def _in_blocks(logits: Float[Tensor, "row token"]) -> Float[Tensor, "row block token"]:
    """The tile in blocks, the last one filled up."""
    odd = -logits.shape[1] % BLOCK
    whole = torch.nn.functional.pad(logits, (0, odd), value=-torch.inf) if odd else logits
    return whole.unflatten(-1, (-1, BLOCK))
