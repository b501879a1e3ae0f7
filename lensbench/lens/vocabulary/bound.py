"""What float32 products leave wrong in a row's entropy and divergence, held to what is stated.

Float32 sums are off by more the larger their terms are, whatever they come to: what all tokens have
in common, a state that one weight outweighs or tokens far apart leave errors that a divergence is
made of. They are seen, not guessed: at the best tokens and at others spread over the vocabulary
each row's logits are known in float64 too. What the best tokens' errors did is taken out again, and
a row that the errors of the others could take out of the bound is read again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lensbench.lens.metrics import LN_2

BITS, RELATIVE = 2e-5, 2e-5  # of float64, what an entropy or a divergence may be off by: the sum
_SAMPLED = 64  # tokens spread over the vocabulary


def sampled(d_vocab: int, start: int = 0) -> slice:
    """Which of the tokens from `start` on are compared: an odd step, past what alternates."""
    step = (d_vocab // _SAMPLED) | 1
    return slice(-start % step, None, step)


@dataclass(frozen=True)
class Errors:
    """What is known of the products of some rows, from float64 ones of a few tokens each.

    `best` of the best tokens, whose probabilities are `probs`, `worst` of all that were compared.
    """

    best: Float[Tensor, "row k"]  # nats, float64
    probs: Float[Tensor, "row k"]
    worst: Float[Tensor, " row"]

    @property
    def of_log_z(self) -> Float[Tensor, " row"]:
        """What to add to a log-partition for the best tokens' errors."""
        return (self.probs * self.best).sum(-1)

    def of_entropy(self, entropy_bits: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """What to add to an entropy for them, bits: dH = -sum q (log q + H) dz."""
        entropy = (entropy_bits * LN_2).unsqueeze(-1)
        return ((self._surprise - self.probs * entropy) * self.best).sum(-1) / LN_2

    @property
    def _surprise(self) -> Float[Tensor, "row k"]:
        return torch.special.entr(self.probs)  # -q log q

    @property
    def _rest(self) -> Float[Tensor, " row"]:
        """Probability of all but the best."""
        return (1 - self.probs.sum(-1)).clamp(min=0)

    @property
    def of_rest(self) -> Float[Tensor, " row"]:
        """What a log-partition may be off by for the others' errors, and for the squares of all."""
        return self._rest * self.worst + (1 - self.probs[:, 0]) * self.worst**2

    def of_differences(self, kl_bits: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Of sum p (log p - log q), nats: sum |q - p| |dz| <= sqrt(2 KL) max |dz| (Pinsker)."""
        return (2 * LN_2 * kl_bits.clamp(min=0)).sqrt().clamp(max=2) * self.worst

    def uneven(self, entropy: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """At least sum q |log q + H| of all but the best tokens, nats; `entropy` in nats too.

        No other is more probable than the last of the best, which limits what is above the mean;
        what is below it follows, for over all tokens the two come to the same.
        """
        above = self._rest * (self.probs[:, -1].log() + entropy).clamp(min=0)
        # Above, less what is below.
        difference = self._surprise.sum(-1) - (1 - self._rest) * entropy
        return (2 * above - difference).clamp(min=0)

    def outside(
        self,
        entropy_bits: Float[Tensor, " row"],
        kl_bits: Float[Tensor, " row"],
        kl_error: Float[Tensor, " row"],
    ) -> Bool[Tensor, " row"]:
        """Rows of which a number may be further off than is stated; `kl_error` in nats.

        What is no number is not outside. None is where the device has no float64 to tell by.
        """
        if self.worst.dtype != torch.float64:
            return torch.zeros_like(self.worst, dtype=torch.bool)
        entropy, kl = entropy_bits * LN_2, kl_bits.clamp(min=0) * LN_2
        far = self.uneven(entropy) * self.worst + 4 * entropy * self.worst**2
        far = far > BITS * LN_2 + RELATIVE * entropy
        return far | (kl_error > BITS * LN_2 + RELATIVE * kl)
