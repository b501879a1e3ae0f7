"""The readout: the only place in lensbench where logits are made.

logits = cap(scale * (norm(x) @ W_U + b_U)), with the model's own final norm (its weight, its eps,
Gemma's 1 + w), its own head and bias, the logit scale of Cohere and Granite, and Gemma-2's soft cap
`c * tanh(z / c)`.

The products of a half-precision head are made in float32 over its own weights. Rounded to bfloat16
as the model makes them they change the top token of 1.8 % of readings at Llama-3-8B's shape, tie it
in 3.9 %, and move entropies by .008 bits; float32 products change none, and move them by 3e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from lensbench.checkpoints.devices import require_float32, wide, working_bytes
from lensbench.errors import ModelError
from lensbench.models.products.split import SplitHead, split, summed_products
from lensbench.models.sites import Site

# Logits held at once by whoever streams over cells: more would break the promise of 64 MB beyond
# the forward pass.
_LOGITS_BYTES = 24 << 20

# Of the vocabulary, what is read at once: hundreds of rows of logits of so many tokens stay in the
# processor's cache.
_TILE_TOKENS = 2048
# Of a half-precision head, what stands in float32 at once: 1,024 tokens at a width of 4,096. The
# whole head of Llama-3-8B would be 2.1 GB.
_TILE_BYTES = 16 << 20
# The same on an accelerator, where a tile is that large for few calls to be made.
_HELD_TILE_TOKENS, _HELD_TILE_BYTES = 16_384, 256 << 20
BLOCK = 64  # tokens; every tile but the last is whole blocks
_SUMMED, _HELD_SUMMED = 256, 2048  # tokens in a float32 sum of rows: its errors may go one way
EVERY = slice(None)

# How far two computations of the same logits may be apart, KL, by dtype: the spacing of the number
# format (float32 2^-24, float16 2^-11, bfloat16 2^-8 relative) times the few roundings on the way.
KL_BITS = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 2e-2}
Tokens = slice | Int[Tensor, " token"]
Norm = Callable[[Float[Tensor, "*cell d_model"]], Float[Tensor, "*cell d_model"]]


@dataclass(frozen=True)
class Readout:
    """From a residual vector to logits: the model's own final norm, then its own head."""

    norm: Norm
    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"] | None
    logit_scale: float = 1.0
    soft_cap: float | None = None
    split: SplitHead | None = None  # makes the products, in place of float32 ones

    def in_parts(self) -> Readout:
        """The same with products of bfloat16 parts, as near as float32's to exact ones.

        Raises ModelError where this device cannot sum them in float32.
        """
        return replace(self, split=SplitHead.of(self.W_U))

    @property
    def holds(self) -> bool:
        """Whether many rows of logits are held whole: on an accelerator.

        It has the memory, no cache that a tile could stay in, and each call takes its time however
        little there is to do.
        """
        return self.W_U.device.type != "cpu"

    @property
    def rows_at_once(self) -> int:
        """How many rows of logits to make at once, at least 1."""
        room = working_bytes(self.W_U.device) if self.holds else _LOGITS_BYTES
        return max(room // (4 * self.W_U.shape[1]), 1)

    @property
    def rounds(self) -> bool:
        """Whether the model's own logits are rounded: its head is in half precision."""
        return self.W_U.dtype != torch.float32

    def logits(
        self,
        normed: Float[Tensor, "*cell d_model"],
        tokens: Tokens = EVERY,
        out: Float[Tensor, "*cell token"] | None = None,
    ) -> Float[Tensor, "*cell token"]:
        """Logits of an already normed residual: float32 products, whatever the head's dtype.

        Of float64 vectors they are float64 products, and so float64.

        Args:
            tokens: of which of the vocabulary.
            out: where to put them.
        """
        exactly = normed.dtype == torch.float64
        if self.split is not None and not exactly:
            return self._finished(self._by_parts(self.split, normed, tokens, out), tokens)
        head = self.W_U.T[tokens].T
        if not (self.rounds or exactly):
            return self._finished(torch.matmul(normed, head, out=out), tokens)
        normed = normed if exactly else normed.float()
        products = normed.new_empty((*normed.shape[:-1], head.shape[1])) if out is None else out
        tiles = [*self._tiles_of(head.shape[1], lifted_to=normed.dtype)]
        # One room for all: the system clears each new one, which takes longer than what is done.
        room = torch.empty_like(head[:, tiles[0]], dtype=normed.dtype)
        for tile in tiles:
            lifted = room[:, : tile.stop - tile.start].copy_(head[:, tile])
            place = products[..., tile]
            if self.holds and normed.dim() == 2:
                torch.mm(normed, lifted, out=place)
            else:
                place.copy_(normed @ lifted)
        return self._finished(products, tokens)

    def exact(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The logit of one token of each row: products, which are exact, and sums in float64."""
        return self._finished((wide(normed) * self.W_U.T[tokens]).sum(-1), tokens)

    def in_float64(self, normed: Float[Tensor, "*cell d_model"]) -> Float[Tensor, "*cell d_vocab"]:
        """All logits, products and sums in float64, to hold others to: give few rows."""
        return self.logits(normed.double())

    def _by_parts(
        self,
        head: SplitHead,
        normed: Float[Tensor, "*cell d_model"],
        tokens: Tokens,
        out: Float[Tensor, "*cell token"] | None,
    ) -> Float[Tensor, "*cell token"]:
        states = split(normed.reshape(-1, normed.shape[-1]))
        parts = [part.T[tokens].T for part in head.parts]
        shape = (*normed.shape[:-1], parts[0].shape[1])
        products = torch.empty(shape, device=normed.device) if out is None else out
        for tile in self._tiles_of(shape[-1], torch.float32):
            made = summed_products(states, [part[:, tile] for part in parts])
            products[..., tile] = made.view(*shape[:-1], -1)
        return products

    def rounding(self, normed: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """What one rounding of `split` products can do to a logit of each row, float64.

        A logit is off by at most `n_roundings` of it; a soft cap makes no error larger.
        """
        assert self.split is not None
        bias = 0.0 if self.b_U is None else float(self.b_U.abs().max())
        return abs(self.logit_scale) * self.split.rounding(normed, bias)

    @property
    def n_roundings(self) -> int:
        """See `rounding`."""
        assert self.split is not None
        return self.split.n_roundings

    def rounded(
        self, normed: Float[Tensor, "*cell d_model"], tokens: slice = EVERY
    ) -> Float[Tensor, "*cell token"]:
        """The same with products in the head's dtype, as the model makes them: for the gate."""
        head = self.W_U[:, tokens]
        return self._finished((normed.to(head.dtype) @ head).float(), tokens)

    def pulled_back(
        self,
        logits: Float[Tensor, "*cell d_vocab"],
        gradient: Float[Tensor, "*cell d_vocab"],
    ) -> Float[Tensor, "*cell d_model"]:
        """The gradient by the normed residual, from the one by the logits made of it.

        Without autograd, which would keep a float32 copy of a half-precision head. `gradient` is
        overwritten.
        """
        if self.soft_cap is not None:
            gradient *= 1 - (logits / self.soft_cap) ** 2
        if self.logit_scale != 1.0:
            gradient *= self.logit_scale
        if not self.rounds:
            return gradient @ self.W_U.T
        pulled = gradient.new_zeros((*gradient.shape[:-1], self.W_U.shape[0]))
        for tile in self.tiles():
            pulled += gradient[..., tile] @ self.W_U[:, tile].float().T
        return pulled

    def weighted(
        self, weights: Float[Tensor, "*cell token"], tokens: slice
    ) -> tuple[Float[Tensor, "*cell d_model"], Float[Tensor, "*cell"]]:
        """The rows of the head, and its biases, weighted over a range of the vocabulary.

        A mean of logits is made of them in one step, before `logit_scale` and the soft cap.
        """
        size, head = _HELD_SUMMED if self.holds else _SUMMED, self.W_U[:, tokens]
        rows = wide(weights.new_zeros(*weights.shape[:-1], len(head)))
        for some, part in zip(weights.split(size, dim=-1), head.split(size, dim=1), strict=True):
            rows += some @ part.float().T
        if self.b_U is None:
            return rows, torch.zeros_like(weights[..., 0])
        return rows, weights @ self.b_U[tokens].float()

    def tiles(self) -> Iterator[slice]:
        """The vocabulary, for whoever streams over it."""
        return self._tiles_of(self.W_U.shape[1], torch.float32)

    def _tiles_of(self, n_tokens: int, lifted_to: torch.dtype) -> Iterator[slice]:
        """Tiles whose columns of the head take little room where they are lifted to a dtype."""
        width = _HELD_TILE_TOKENS if self.holds else _TILE_TOKENS
        if self.W_U.dtype != lifted_to:
            room = _HELD_TILE_BYTES if self.holds else _TILE_BYTES
            fits = room // (lifted_to.itemsize * self.W_U.shape[0])
            width = min(max(fits // BLOCK * BLOCK, BLOCK), width)
        for start in range(0, n_tokens, width):
            yield slice(start, min(start + width, n_tokens))

    def _finished(
        self, logits: Float[Tensor, "*cell token"], tokens: Tokens
    ) -> Float[Tensor, "*cell token"]:
        """Bias, scale and soft cap, in place."""
        if self.b_U is not None:
            logits += self.b_U[tokens].to(logits.dtype)
        if self.logit_scale != 1.0:
            logits *= self.logit_scale
        if self.soft_cap is not None:
            logits.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return logits

    def __call__(self, resid: Float[Tensor, "*cell d_model"]) -> Float[Tensor, "*cell d_vocab"]:
        """Logits of a residual vector as the model reads it after its last block."""
        return self.logits(self.norm(resid.float()))


def readout_of(bridge: Any, hf_config: object | None) -> Readout:
    """Build the readout of a TransformerLens model (bridge or HookedTransformer).

    Raises ModelError when the model has no final norm or head of its own, or where products of
    float32 numbers are rounded.
    """
    for part in ("ln_final", "W_U", "blocks"):
        if getattr(bridge, part, None) is None:
            raise ModelError(
                f"this model has no {part}. lensbench reads logits through the model's own final "
                "norm and head only; a model without them cannot be read."
            )
    require_float32(bridge.W_U.device)
    cap = getattr(bridge.cfg, "output_logits_soft_cap", None)
    bias = bridge.b_U
    return Readout(
        norm=float32_norm(bridge.ln_final),
        W_U=bridge.W_U.detach(),
        b_U=None if bias is None or not bool(bias.any()) else bias.detach(),
        logit_scale=_logit_scale(hf_config),
        soft_cap=float(cap) if cap is not None and cap > 0 else None,
    )


def next_norms(bridge: Any) -> dict[Site, Norm]:
    """What the next sub-layer applies: ln1 of the next block, ln2 after attention, ln_final last.

    Sites whose next norm the model does not expose (parallel attention has no ln2) are skipped.
    """
    blocks = list(bridge.blocks)
    following = [getattr(block, "ln1", None) for block in blocks] + [bridge.ln_final]
    modules = {Site("embed", 0): following[0]}
    for layer, block in enumerate(blocks, start=1):
        modules[Site("resid_mid", layer)] = getattr(block, "ln2", None)
        modules[Site("resid_post", layer)] = following[layer]
    return {site: float32_norm(module) for site, module in modules.items() if module is not None}


def float32_norm(module: torch.nn.Module) -> Norm:
    """The module's norm in float32, whatever the dtype of its weights.

    The modules expect [batch, position, d_model]; statistics are per vector, so cells may stand as
    positions. Half-precision weights are lifted, because torch's LayerNorm refuses to mix dtypes.
    """
    lifted = {
        name: weight.detach().float()
        for name, weight in module.named_parameters()
        if weight.dtype != torch.float32
    }

    def norm(resid: Float[Tensor, "*cell d_model"]) -> Float[Tensor, "*cell d_model"]:
        flat = resid.reshape(1, -1, resid.shape[-1])
        return functional_call(module, lifted, (flat,)).reshape(resid.shape).float()

    return norm


def _logit_scale(hf_config: object | None) -> float:
    """Cohere multiplies its logits by `logit_scale`, Granite divides them by `logits_scaling`."""
    scale = getattr(hf_config, "logit_scale", None)
    if scale is not None:
        return float(scale)
    divisor = getattr(hf_config, "logits_scaling", None)
    return 1.0 if divisor is None else 1.0 / float(divisor)
