"""Normed vectors through the head, the vocabulary in tiles: no row of logits ever exists whole.

The logits of a tile stay in the processor's cache until everything that is wanted of them is known,
so that reading costs less than writing bare products to memory would. Where a divergence needs
both normalised distributions (the last layer, where the gate is measured, and Jensen-Shannon),
logits are held, of a few rows at a time; on an accelerator (`Readout.holds`) always, and of many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.lens.metrics import LN_2, Distribution, kl_bits, not_negative
from lensbench.lens.vocabulary.bound import Errors
from lensbench.lens.vocabulary.exact import ExactRunning, Recomputed
from lensbench.lens.vocabulary.output import ROWS, Cells, MeanLogits, Output
from lensbench.lens.vocabulary.reading import MISSING, Reading, Running
from lensbench.models.readout import EVERY

_PAIR_NUMBERS = 1 << 18  # of two whole distributions compared at once
_OWN, _SCRATCH = 0, 1
_COLUMNS = 64  # a product of so many columns, or a multiple, is summed as that of a tile is

Sought = Mapping[str, Int[Tensor, " cell"]]  # token ids by name, MISSING where there is none
Divergence = Callable[[Distribution, Distribution], Float[Tensor, "*cell"]]  # of the model, of this


@dataclass(frozen=True)
class Vectors:
    """Normed vectors of some cells of a batch; `cells` are their places in the batch.

    They are read by float32 products, or where they are float64 by those.
    """

    normed: Float[Tensor, "cell site d_model"]
    cells: Cells

    @property
    def n_sites(self) -> int:
        """How many of each cell: a reading has a row for each cell and site, in that order."""
        return self.normed.shape[1]

    @property
    def rows(self) -> Float[Tensor, "row d_model"]:
        """One after the other."""
        return self.normed.flatten(0, 1)

    def of_rows(self, sought: Sought) -> dict[str, Int[Tensor, " row"]]:
        """What is sought in each row: what is in its cell."""
        return {
            name: ids[self.cells].repeat_interleave(self.n_sites) for name, ids in sought.items()
        }

    def some(self, part: slice) -> Vectors:
        """Some of the cells."""
        if isinstance(self.cells, slice):
            first = self.cells.start
            return Vectors(self.normed[part], slice(first + part.start, first + part.stop))
        return Vectors(self.normed[part], self.cells[part])

    def in_float64(self, rows: Int[Tensor, " some"]) -> Vectors:
        """Some of the rows, each as a cell of its own."""
        cells = torch.arange(len(self.normed), device=rows.device)[rows // self.n_sites]
        if isinstance(self.cells, slice):
            cells += self.cells.start
        else:
            cells = self.cells[cells]
        return Vectors(self.rows[rows].double().unsqueeze(1), cells)


class Stream:
    """Reads vectors of one batch through a readout; holds the working memory of two tiles.

    Args:
        output: of the model at the batch's cells.
        sought: tokens that are looked up in every distribution.
        top_k: how many top tokens to keep.
        uncounted: names of tokens whose rank and ties nobody asks for.
    """

    def __init__(
        self, output: Output, sought: Sought, top_k: int, uncounted: Collection[str] = ()
    ) -> None:
        self.output, self.top_k = output, top_k
        self._counted = [name for name in sought if name not in uncounted]
        self._there = _there(sought, self._counted)
        self._readout, self._sought = output.readout, sought
        self._memory = [torch.empty(0, device=self._readout.W_U.device)] * 2
        self.recomputed = Recomputed()

    @property
    def rows_at_once(self) -> int:
        """How many rows to give at once; of float64 ones give half as many."""
        return self._readout.rows_at_once if self._readout.holds else ROWS

    def within(self, vectors: Vectors) -> Reading:
        """`read`, and what is outside the stated bound read again by float64 products."""
        reading = self.read(vectors)
        outside = reading.outside.nonzero().flatten()
        if not len(outside):
            return reading
        return reading.with_rows(outside, self.read(vectors.in_float64(outside)))

    def read(self, vectors: Vectors) -> Reading:
        """What the head makes of them, in one pass."""
        rows, tokens = vectors.rows, vectors.of_rows(self._sought)
        held = self._readout.logits(rows) if self._readout.holds else None
        running = self._running(rows, tokens, held)
        mean = MeanLogits(self.output, vectors.normed, vectors.cells)
        for tile in self._readout.tiles():
            scratch = self._room(_SCRATCH, rows, tile)
            if held is None:
                own = self._room(_OWN, rows, tile)
                self._readout.logits(rows, tile, out=own)
            else:  # no one needs it again
                own = held[:, tile]
            mean.add(own, tile, scratch)
            running.add(own, tile.start, scratch)
        reading, errors = self._read(running)
        own = self.output.entropy[vectors.cells].repeat_interleave(vectors.n_sites)
        kl_bits = not_negative((mean.below(reading.log_z, errors) - own) / LN_2)
        outside = errors.outside(reading.entropy_bits, kl_bits, mean.kl_error(errors, kl_bits))
        reading = replace(reading, kl_bits=kl_bits, outside=outside)
        return reading if held is not None else self._corrected(reading, vectors, running.as_sought)

    def read_whole(
        self, vectors: Vectors, divergences: Mapping[str, Divergence]
    ) -> tuple[Reading, dict[str, Float[Tensor, " row"]]]:
        """The same, KL(model || this) term by term, and other divergences from the model.

        Holds the logits of all rows: give few.
        """
        rows, tokens = vectors.rows, vectors.of_rows(self._sought)
        if self.output.is_of(rows, vectors.cells):  # at the last layer
            logits = self.output.logits(vectors.cells, EVERY)
        else:
            logits = self._readout.logits(rows)
        running = self._running(rows, tokens, logits)
        for tile in self._readout.tiles():
            own, scratch = (self._room(half, rows, tile) for half in (_OWN, _SCRATCH))
            running.add(own.copy_(logits[:, tile]), tile.start, scratch)
        found = self._diverging(logits, vectors, {"kl_bits": kl_bits, **divergences})
        reading, errors = self._read(running)
        bits = wide(found.pop("kl_bits"))
        outside = errors.outside(reading.entropy_bits, bits, errors.of_differences(bits))
        return replace(reading, kl_bits=bits, outside=outside), found

    def _diverging(
        self, logits: Float[Tensor, "row d_vocab"], vectors: Vectors, of: Mapping[str, Divergence]
    ) -> dict[str, Float[Tensor, " row"]]:
        """Of pairs of whole distributions, a few cells at a time."""
        by_cell = logits.view(*vectors.normed.shape[:2], -1)
        size = len(by_cell) if self._readout.holds else _PAIR_NUMBERS // by_cell[0].numel()
        size = max(size, 1)
        found: dict[str, list[Tensor]] = {name: [] for name in of}
        for start in range(0, len(by_cell), size):
            part = by_cell[start : start + size]
            cells = vectors.some(slice(start, start + len(part))).cells
            own = self.output.logits(cells, EVERY).to(part.dtype)
            p, q = Distribution.from_logits(own.unsqueeze(1)), Distribution.from_logits(part)
            for name, divergence in of.items():
                found[name].append(divergence(p, q).flatten())
        return {name: torch.cat(values) for name, values in found.items()}

    def _corrected(self, reading: Reading, vectors: Vectors, good: Tensor) -> Reading:
        """With the cells read anew in which a token was sought by a logit that is not its own."""
        bad = ~good.view(vectors.normed.shape[:2]).all(1)
        for number in bad.nonzero().flatten().tolist():
            whole, _ = self.read_whole(vectors.some(slice(number, number + 1)), {})
            rows = slice(number * vectors.n_sites, (number + 1) * vectors.n_sites)
            reading = reading.with_rows(rows, whole)
        return reading

    def _logits_of(
        self, rows: Float[Tensor, "row d_model"], tokens: Mapping[str, Int[Tensor, " row"]]
    ) -> dict[str, Float[Tensor, " row"]]:
        """Logits of each row's own tokens, before the tile that they are in comes by."""
        there = torch.stack(list(tokens.values())).unique() if tokens else torch.empty(0)
        there = there[there != MISSING].long()
        if not len(there):
            return {name: torch.zeros_like(rows[:, 0]) for name in tokens}
        filled = torch.cat([there, there[:1].expand(-len(there) % _COLUMNS)])
        logits = self._readout.logits(rows, filled)
        return {
            name: logits.gather(1, torch.searchsorted(there, ids).unsqueeze(1)).squeeze(1)
            for name, ids in tokens.items()
        }

    def _running(
        self,
        rows: Float[Tensor, "row d_model"],
        tokens: Mapping[str, Int[Tensor, " row"]],
        held: Float[Tensor, "row d_vocab"] | None,
    ) -> Running:
        k = min(max(self.top_k, 2), self._readout.W_U.shape[1])  # a margin needs two
        sought = self._readout, rows, k, tokens, self._counted, self._there
        if rows.dtype == torch.float64:
            ids = {name: own.clamp(min=0) for name, own in tokens.items()}
            own = {name: self._readout.exact(rows, token) for name, token in ids.items()}
            return Running(*sought, own)
        if self._readout.split is not None:
            exact = ExactRunning(*sought)
            if self._readout.holds and held is not None:
                exact.decide(held, 0)
            return exact
        logits = self._logits_of(rows, tokens) if held is None else _gathered(held, tokens)
        return Running(*sought, logits)

    def _read(self, running: Running) -> tuple[Reading, Errors]:
        """What a reduction found, and how much it had to compute again for that."""
        reading = running.reading()
        if isinstance(running, ExactRunning):
            self.recomputed.add(running.recomputed)
        errors = running.errors(reading)
        entropy_bits = reading.entropy_bits + errors.of_entropy(reading.entropy_bits)
        return replace(reading, entropy_bits=not_negative(entropy_bits)), errors

    def _room(
        self, half: int, rows: Float[Tensor, "row d_model"], tile: slice
    ) -> Float[Tensor, "row token"]:
        """Room for the logits of a tile; what was made in the same half before is overwritten."""
        shape = (len(rows), tile.stop - tile.start)
        n = shape[0] * shape[1]
        if n > len(self._memory[half]) or rows.dtype != self._memory[half].dtype:
            self._memory[half] = rows.new_empty(n)
        return self._memory[half][:n].view(shape)


def _there(sought: Sought, names: Sequence[str]) -> list[str]:
    """The names of tokens that some cell has, asked for all at once."""
    if not names:
        return []
    some = torch.stack([(sought[name] != MISSING).any() for name in names]).tolist()
    return [name for name, is_there in zip(names, some, strict=True) if is_there]


def _gathered(
    logits: Float[Tensor, "row d_vocab"], tokens: Mapping[str, Int[Tensor, " row"]]
) -> dict[str, Float[Tensor, " row"]]:
    """Logits of each row's own tokens; of one that it lacks, of any."""
    return {
        name: logits.gather(1, ids.clamp(min=0).unsqueeze(1)).squeeze(1)
        for name, ids in tokens.items()
    }
