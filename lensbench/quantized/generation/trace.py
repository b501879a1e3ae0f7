"""Tracing: the residual stream of a model at work, averaged over tokens as they pass.

Layer 0 is what enters the first block (site "embed"); layer i is what leaves block i, counted from
1 ("resid_post"): the names of the lens path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lensbench.records.schema.generation import SPANS

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel


class _Sum:
    """A running sum in float32 that loses nothing to rounding (Kahan 1965).

    Compensated rather than in float64, because not every accelerator has float64.
    """

    def __init__(self, *shape: int, device: torch.device) -> None:
        self.total = torch.zeros(shape, device=device)
        self._lost = torch.zeros(shape, device=device)

    def add(self, index: int, values: Float[Tensor, "..."]) -> None:
        """Add to the entry `index`."""
        due = values - self._lost[index]
        total = self.total[index] + due
        self._lost[index] = (total - self.total[index]) - due
        self.total[index] = total


class _Span:
    """Sums over the tokens of one span."""

    def __init__(self, n_sites: int, n_rows: int, d_model: int, device: torch.device) -> None:
        self.n_tokens = torch.zeros(n_rows, dtype=torch.long, device=device)
        self.stream = _Sum(n_sites, n_rows, d_model, device=device)
        self.norms = _Sum(n_sites, n_rows, device=device)


class ResidualMeans:
    """Sums of the residual stream and of its L2 norm, per row and layer, span by span.

    Used by `generate`: it opens `watching` around its work and says before each forward pass
    which tokens of it count (`expect`). Afterwards the means of that batch are here.
    `keep` are layers whose whole residual stream is kept as well (`kept`).
    """

    def __init__(self, model: AdaptedModel, keep: Sequence[int] = ()) -> None:
        self._model = model
        self._keep = tuple(keep)
        self._spans: dict[str, _Span] = {}
        self._now: tuple[str, Bool[Tensor, "batch pos"]] | None = None
        self._kept: dict[int, list[Tensor]] = {}
        self._counted: list[Tensor] = []

    @contextmanager
    def watching(self, attention_mask: Int[Tensor, "batch pos"]) -> Iterator[None]:
        """Hooks on every block while this lasts; they are gone afterwards, whatever happens."""
        n_rows, device = len(attention_mask), self._model.device
        shape = (self._model.n_layers + 1, n_rows, self._model.d_model, device)
        self._spans = {span: _Span(*shape) for span in SPANS}
        self._kept = {layer: [] for layer in self._keep}
        self._counted = []
        self.expect("prompt", attention_mask.bool().to(device))
        blocks = self._model.blocks
        with ExitStack() as hooks:
            hooks.enter_context(
                blocks[0].register_forward_pre_hook(self._entered, with_kwargs=True)
            )
            for layer, block in enumerate(blocks, start=1):
                hooks.enter_context(block.register_forward_hook(self._left(layer)))
            yield

    def expect(self, span: str, counted: Bool[Tensor, "batch pos"]) -> None:
        """The next forward pass is of this span, and these of its tokens count."""
        self._now = (span, counted)

    def n_tokens(self, span: str) -> Int[Tensor, " batch"]:
        """Tokens summed up so far."""
        return self._spans[span].n_tokens

    def means(self, span: str) -> Float[Tensor, "site batch d_model"]:
        """Mean residual per layer (0 is the embedding) and row; NaN where there was no token."""
        state = self._spans[span]
        return state.stream.total / state.n_tokens[None, :, None]

    def mean_norms(self, span: str) -> Float[Tensor, "site batch"]:
        """Mean over tokens of the residual's L2 norm; NaN where there was no token."""
        state = self._spans[span]
        return state.norms.total / state.n_tokens[None, :]

    def kept(self, layer: int, row: int) -> Float[Tensor, "pos d_model"]:
        """One row's whole residual stream at a layer: its prompt, then its response."""
        passes = zip(self._kept[layer], self._counted, strict=True)
        return torch.cat([resid[row, counted[row]] for resid, counted in passes])

    def _entered(self, block: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        span, counted = self._expected()
        self._spans[span].n_tokens += counted.sum(-1)
        if self._kept:
            self._counted.append(counted.cpu())
        self._add(0, args[0] if args else kwargs["hidden_states"])

    def _left(self, layer: int) -> Callable[..., None]:
        def hook(block: object, args: object, output: Any) -> None:
            self._add(layer, output[0] if isinstance(output, tuple) else output)

        return hook

    def _expected(self) -> tuple[str, Bool[Tensor, "batch pos"]]:
        if self._now is None:
            raise RuntimeError("a forward pass that nobody announced with expect()")
        return self._now

    def _add(self, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> None:
        span, counted = self._expected()
        assert resid.shape[:2] == counted.shape
        state = self._spans[span]
        # Padding is set to 0, not multiplied by it: it may hold anything, NaN included.
        values = resid.detach().to(counted.device).float().masked_fill(~counted[..., None], 0.0)
        state.stream.add(layer, values.sum(1))
        state.norms.add(layer, values.norm(dim=-1).sum(1))
        if layer in self._kept:
            self._kept[layer].append(resid.detach().cpu())
