"""Direct logit attribution: what each part of the stream adds to the logit of a token.

The final norm divides by a length that all parts together have; held at that value, the logit is a
sum over the parts (Elhage et al. 2021; `attention/causal/direct.py` does so for heads).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.attention.causal.direct import divisor, mean_direction
from lensbench.attention.circuits.weights import NormParts, directions, norm_parts
from lensbench.checkpoints.devices import wide
from lensbench.lens.gate import Identity
from lensbench.models.model import LensModel
from lensbench.report.walk.numbers import Path
from lensbench.walkthrough.top import top_of_tiles

_TILE = 8192  # tokens of the vocabulary at once
_MOST_EFFECTS = 250_000  # numbers of a page's path: 1 MB
_BOUND = 1e-4  # relative to the largest logit: 100 times the rounding seen
Parts = Float[Tensor, "part d_model"]


@dataclass(frozen=True)
class Attribution:
    """A model's head as far as parts of its last state go."""

    model: LensModel

    @cached_property
    def _final(self) -> NormParts:
        return norm_parts(self.model.readout.norm, self.model.d_model, self.model.device)

    @cached_property
    def _mean(self) -> Float[Tensor, " d_model"]:
        return mean_direction(self.model)

    @torch.inference_mode()
    def lengths(self, states: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos 1"]:
        """By what the final norm divides each position's last state."""
        return divisor(self.model.readout.norm, self._final, states)

    @torch.inference_mode()
    def path(
        self,
        parts: Parts,
        last: Float[Tensor, " d_model"],
        logits: Float[Tensor, " d_vocab"],
    ) -> Path:
        """What each part of the last state adds to the logits of the likeliest tokens.

        What rounding leaves between the sum of the parts and the state is a part too.
        """
        every = torch.cat([parts, (wide(last) - wide(parts).sum(0)).float()[None]])
        n = min(max(_MOST_EFFECTS // len(every), 1), len(logits))
        ids = logits.argsort(descending=True, stable=True)[:n]
        scale = self.model.readout.logit_scale / wide(self.lengths(last[None]))[0]
        effects = scale * (wide(every) @ wide(directions(self.model, ids)))
        means = scale * (wide(every) @ wide(self._mean))
        return Path(
            ids=ids.cpu().numpy(),
            effects=effects.T.float().cpu().numpy(),
            constants=self._constants(ids).cpu().numpy(),
            mean_effects=means.float().cpu().numpy(),
            mean_constant=self._mean_constant(),
        )

    def summed(self, path: Path, logits: Float[Tensor, " d_vocab"]) -> Identity:
        """That the parts of each token sum to its logit, capped as the model caps it."""
        own = logits[torch.from_numpy(path.ids).to(logits.device)].cpu().numpy()
        sums = path.effects.astype(np.float64).sum(-1) + path.constants
        cap = self.model.readout.soft_cap
        made = sums if cap is None else cap * np.tanh(sums / cap)
        error = float(np.abs(made - own).max() / np.abs(own).max())
        name = "what all parts add to a token's logit = the model's logit"
        reason = "float32 products; what rounds in the stream is a part of its own"
        return Identity.held(name, error, _BOUND, "relative", reason)

    @torch.inference_mode()
    def top(
        self, parts: Parts, lengths: Float[Tensor, "part 1"], k: int
    ) -> tuple[Int[Tensor, "part k"], Float[Tensor, "part k"]]:
        """The tokens whose logit each part raises most, and by how much above the mean logit.

        `lengths`: of the position where each part is added.
        """
        scaled = parts / lengths * self.model.readout.logit_scale
        starts = range(0, self.model.d_vocab, _TILE)
        tiles = (scaled @ directions(self.model, slice(i, i + _TILE)) for i in starts)
        ids, values = top_of_tiles(tiles, k)
        return ids, values - (scaled @ self._mean)[:, None]

    def _constants(self, tokens: Int[Tensor, " token"] | slice) -> Float[Tensor, " token"]:
        """What the biases of norm and head add to each token's logit, before the soft cap."""
        uncapped = replace(self.model.readout, soft_cap=None)
        return uncapped.logits(self._final.bias[None], tokens)[0]

    def _mean_constant(self) -> float:
        tiles = self.model.readout.tiles()
        total = float(sum(wide(self._constants(tile)).sum() for tile in tiles))
        return total / self.model.d_vocab
