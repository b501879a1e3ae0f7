"""The tuned lens: affine maps trained on KL(model || lens) by gradient descent.

Belrose et al. 2023 (arXiv 2303.08112). They take Nesterov's momentum over steps of 2^18 tokens, a
whole corpus here; Adam goes as far with 512, and its steps do not depend on the size of a gradient,
which differs a hundredfold between layers. Nor do they depend on the size of a state here: what is
trained is a correction of the map it starts from, in coordinates in which the states of a layer
are white and the targets have unit variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.devices import wide
from lensbench.fitting.linear import Centred
from lensbench.lens.fitted.affine import AffineMap
from lensbench.lens.metrics import LN_2
from lensbench.models.readout import Readout

STEP_TOKENS = 512
CHECKS = 12  # of the held-out text in a training, at most one a step
_PATIENCE = 3  # checks without a better map
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_SEED = 0  # of the order of the tokens

States = Float[Tensor, "state cell d_model"]  # of some layers, and at last the model's last one


def gradient(
    readout: Readout,
    own: AffineMap,
    x: Float[Tensor, "cell d_model"],
    probs: Float[Tensor, "cell d_vocab"],
) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
    """Of the sum over tokens of KL(model || lens) in nats, by the map's slope and shift.

    By the logits it is q - p, so no more than two arrays over the vocabulary are ever held.
    """
    with torch.enable_grad():
        leaf = AffineMap(*(tensor.detach().requires_grad_() for tensor in own))
        normed = readout.norm(leaf(x))
    logits = readout.logits(normed.detach())
    by_logits = torch.softmax(logits, dim=-1).sub_(probs)
    by_slope, by_shift = torch.autograd.grad(normed, leaf, readout.pulled_back(logits, by_logits))
    return by_slope, by_shift


@torch.no_grad()
def mean_kl_bits(readout: Readout, maps: Sequence[AffineMap], states: States) -> list[float]:
    """KL(model || lens) of each layer's map, mean over tokens."""
    device = readout.W_U.device
    sums = [0.0] * len(maps)
    for group in torch.arange(states.shape[1]).split(readout.rows_at_once):
        own = states[:, group].to(device)
        log_p = torch.log_softmax(readout(own[-1]), dim=-1)
        probs = log_p.exp()
        for i, one in enumerate(maps):
            log_q = torch.log_softmax(readout(one(own[i])), dim=-1)
            sums[i] += float(wide(log_q.sub_(log_p).mul_(probs).sum(-1)).sum()) / -LN_2
    return [total / states.shape[1] for total in sums]


@dataclass(frozen=True)
class White:
    """Coordinates in which the states of a layer are white: (x - mean) turn.

    The strength of the layer's ridge keeps directions that hardly vary from being blown up; those
    in which no state varies are left out.
    """

    mean: Float[Tensor, " d_model"]
    turn: Float[Tensor, "d_model d_model"]

    @classmethod
    def of(cls, centred: Centred, strength: float) -> White:
        """Of the moments of a layer."""
        variances, directions, noise = centred.directions
        scales = (variances + strength * variances.mean()).rsqrt()
        turn = directions * torch.where(variances > noise, scales, 0.0)
        return cls(centred.mean_x.float(), turn.float())


@dataclass
class Trained:
    """The best map of a layer on the held-out text, and how it was come by.

    `steps`: after how many of them; 0 is the start. `broken`: the step that gave NaN or Inf.
    """

    best: AffineMap
    steps: int
    start_kl_bits: float
    kl_bits: float
    broken: int | None = None


class _Adam:
    """Kingma & Ba 2014 (arXiv 1412.6980), with their constants.

    Of torch's own the first step imports a compiler, for seconds.
    """

    def __init__(self, weights: Float[Tensor, "row column"]) -> None:
        self.weights = weights
        self._first, self._second = torch.zeros_like(weights), torch.zeros_like(weights)
        self._n = 0

    def step(self, gradient: Float[Tensor, "row column"], rate: float) -> None:
        """Change the weights, in place."""
        self._n += 1
        self._first.lerp_(gradient, 1 - _BETA_1)
        self._second.lerp_(gradient.square(), 1 - _BETA_2)
        mean = self._first / (1 - _BETA_1**self._n)
        size = (self._second / (1 - _BETA_2**self._n)).sqrt_().add_(_EPSILON)
        self.weights -= rate * mean / size


class _Training:
    """One layer's map on its way."""

    def __init__(
        self, start: AffineMap, white: White, spread: Float[Tensor, " d_model"], kl_bits: float
    ) -> None:
        device, width = start.b.device, len(start.b)
        self._white, self._mean = white.turn.to(device), white.mean.to(device)
        self._start, self._spread = start, spread
        self._adam = _Adam(torch.zeros(width + 1, width, device=device))  # white and 1 -> target
        self.now, self.done, self._waited = start, Trained(start, 0, kl_bits, kl_bits), 0
        self._gradient = [torch.zeros_like(start.A), torch.zeros_like(start.b)]

    @property
    def goes_on(self) -> bool:
        return self.done.broken is None and self._waited < _PATIENCE

    def see(
        self,
        readout: Readout,
        x: Float[Tensor, "cell d_model"],
        probs: Float[Tensor, "cell d_vocab"],
    ) -> None:
        """Add what some tokens say to the gradient of this step."""
        for total, own in zip(self._gradient, gradient(readout, self.now, x, probs), strict=True):
            total += own

    def step(self, number: int, n_tokens: int, rate: float) -> None:
        """Go on by the gradient that was added up, over so many tokens."""
        if not all(bool(own.isfinite().all()) for own in self._gradient):
            self.done.broken = number
            return
        by_slope, by_shift = (own / n_tokens for own in self._gradient)
        by_turn = self._white.T @ (by_slope - torch.outer(self._mean, by_shift))
        self._adam.step(torch.cat([by_turn, by_shift[None]]) * self._spread, rate)
        self.now = self._map()
        for own in self._gradient:
            own.zero_()

    def check(self, number: int, kl_bits: float) -> None:
        """Keep the map if it is the best so far on the held-out text. NaN is never better."""
        better = kl_bits < self.done.kl_bits and all(bool(t.isfinite().all()) for t in self.now)
        self._waited = 0 if better else self._waited + 1
        if better:
            self.done.best, self.done.steps, self.done.kl_bits = self.now, number, kl_bits

    def _map(self) -> AffineMap:
        turn, shift = (self._adam.weights * self._spread).split([len(self._mean), 1])
        slope = self._white @ turn
        return AffineMap(self._start.A + slope, self._start.b + shift[0] - self._mean @ slope)


@torch.no_grad()
def train(
    readout: Readout,
    starts: Sequence[AffineMap],
    whites: Sequence[White],
    states: States,
    held_out: States,
    rate: float,
    epochs: int,
) -> list[Trained]:
    """Train the maps of some layers side by side, as the model's own readout is shared by them.

    No map is worse than its start on the held-out text: where training does not help, it is the
    start. The learning rate falls from `rate` to 0 along a line. The same arguments give the same
    maps.
    """
    device = readout.W_U.device
    begun = [AffineMap(A.to(device), b.to(device)) for A, b in starts]
    kl_bits = mean_kl_bits(readout, begun, held_out)
    spread = states[-1].std(0, correction=0).to(device)
    every = [
        _Training(start, white, spread, own)
        for start, white, own in zip(begun, whites, kl_bits, strict=True)
    ]
    batches = list(_batches(states.shape[1], epochs))
    checked = {round((i + 1) * len(batches) / CHECKS) for i in range(CHECKS)}
    for number, cells in enumerate(batches, start=1):
        going = [i for i, one in enumerate(every) if one.goes_on]
        if not going:
            break
        for group in cells.split(readout.rows_at_once):
            probs = torch.softmax(readout(states[-1, group].to(device)), dim=-1)
            for i in going:
                every[i].see(readout, states[i, group].to(device), probs)
        for i in going:
            every[i].step(number, len(cells), rate * (1 - (number - 1) / len(batches)))
        if number in checked:
            going = [i for i in going if every[i].goes_on]
            found = mean_kl_bits(readout, [every[i].now for i in going], held_out[[*going, -1]])
            for i, own in zip(going, found, strict=True):
                every[i].check(number, own)
    return [one.done for one in every]


def _batches(n: int, epochs: int) -> Iterator[Int[Tensor, " cell"]]:
    """The tokens of each step: all of them in an order of each epoch's own."""
    dealer = torch.Generator().manual_seed(_SEED)
    for _ in range(epochs):
        yield from torch.randperm(n, generator=dealer).split(STEP_TOKENS)
