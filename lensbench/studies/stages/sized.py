"""How much a model is given at once, where the spec leaves that to the device."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar

import torch

from lensbench.checkpoints.devices import tokens_at_once
from lensbench.checkpoints.placement import Placement


class _Batched(Protocol):
    @property
    def batch_tokens(self) -> int | None: ...

    @property
    def device(self) -> str | None: ...

    def changed(self, *, batch_tokens: int) -> Self: ...


Batched = TypeVar("Batched", bound=_Batched)


def sized(spec: Batched) -> Batched:
    """The spec with its `tokens_of`, which a record is made and resumed by."""
    return spec.changed(batch_tokens=tokens_of(spec))


def tokens_of(spec: _Batched) -> int:
    """Tokens in one forward pass. Raises what `Placement.of` raises."""
    if spec.batch_tokens is not None:
        return spec.batch_tokens
    return tokens_at_once(torch.device(Placement.of(spec.device).main))
