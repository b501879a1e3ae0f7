"""A model by its shapes: made once for all that is planned of it, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import torch

from lensbench.checkpoints.placement import Placement
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.outline import held_in, outline, plain_outline
from lensbench.costs.shape import Shape, shape_of, shape_of_config
from lensbench.models.model import LensModel
from lensbench.quantized.loading.load import AdaptedModel


class Tokenizing(Protocol):
    """A model that comes with its tokenizer, whoever loads it."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""


Model = TypeVar("Model", bound=Tokenizing)
Given = ParamSpec("Given")


@dataclass(frozen=True)
class Outlined(Generic[Model]):
    """A model by its shapes; `wall_s`: of its tokenizer and its wrapping, as loading will take."""

    model: Model
    shape: Shape
    dtype: torch.dtype
    places: Placement
    wall_s: float = 0.0

    @property
    def weights(self) -> int:
        """Bytes of its weights in memory."""
        return self.shape.sizes.weight_bytes(self.shape.bits)


def timed(make: Callable[Given, Outlined[Model]]) -> Callable[Given, Outlined[Model]]:
    """The same with the seconds that it took."""

    @wraps(make)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> Outlined[Model]:
        started = time.perf_counter()
        found = make(*args, **kwargs)
        return replace(found, wall_s=time.perf_counter() - started)

    return made


_remembered: list[Any] = []


def remembered(make: Callable[Given, Outlined[Model]]) -> Callable[Given, Outlined[Model]]:
    """The same, timed, and kept for the model after it: several records are planned of each."""
    kept: Any = lru_cache(maxsize=2)(timed(make))
    _remembered.append(kept)
    remembering: Callable[Given, Outlined[Model]] = kept
    return remembering


def forget_outlines() -> None:
    """Let go of what is remembered: tokenizers are large."""
    for kept in _remembered:
        kept.cache_clear()


@remembered
def outlined(ref: ModelRef, dtype: str | None, device: str | None) -> Outlined[LensModel]:
    """As it would be loaded. Raises as `outline`."""
    model = outline(ref, dtype, device)
    return Outlined(model, shape_of(model), model.dtype, Placement.of(device))


@remembered
def plainly_outlined(
    ref: ModelRef, dtype: str | None, device: str | None
) -> Outlined[AdaptedModel]:
    """The same on the second path, in the bits of its name. Raises as `plain_outline`."""
    model = plain_outline(ref, device)
    number_format = held_in(ref, dtype, device, model.n_params)
    shape = replace(shape_of_config(model.base.config, number_format), bits=model.bits)
    return Outlined(model, shape, number_format, Placement.of(device))
