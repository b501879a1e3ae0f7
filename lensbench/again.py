"""A model in another process: loaded there by its name, and the same one. No weights are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from lensbench.context import holding
from lensbench.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor


class Known(Protocol):
    """A model that says what it is."""

    def identity(self) -> dict[str, Any]:
        """Its facts, and the hashes of its files."""


class Sent:
    """A dataclass that goes to another process as its fields: what is made of them once, and kept
    as a cached property, is made there anew."""

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]


Model = TypeVar("Model", bound=Known)
Load = Callable[..., Model]

_noted: ContextVar[list[Mapping[str, Any]] | None] = ContextVar("noted", default=None)


def by_name(load: Load[Any], given: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """What `__reduce__` of a model gives: it is loaded anew by `load(**given)`."""
    if (noted := _noted.get()) is not None:
        noted.append(facts)
    return again, (load, given, facts)


@contextmanager
def models_sent() -> Iterator[list[Mapping[str, Any]]]:
    """The facts of every model that is made ready inside to be loaded by another process."""
    noted: list[Mapping[str, Any]] = []
    with holding(_noted, noted):
        yield noted


def again(load: Load[Model], given: Mapping[str, Any], facts: Mapping[str, Any]) -> Model:
    """The model whose `facts` these are, loaded anew by `load(**given)`.

    Raises ModelError, with every difference, where what is found here by the same name is not the
    same: other weights, another kind of GPU, whose last digits differ. And what `load` raises.
    """
    model = load(**given)
    here = model.identity()
    lines = [
        f"  - {key}: {facts[key]} where the run began, {here[key]} here"
        for key in facts
        if here.get(key) != facts[key]
    ]
    if lines:
        raise ModelError(
            f"{facts['name']} is another model here:\n"
            + "\n".join(lines)
            + "\nNumbers of the two would be mixed. Give every machine the same files and devices."
        )
    return model


def require_together(name: str, weights: Iterable[Tensor]) -> None:
    """Raise ModelError for a model that is spread over several devices: workers hold it on one."""
    if len({weight.device for weight in weights}) > 1:
        raise ModelError(
            f"{name} is spread over several devices, and a worker holds its model on one. Leave "
            "--workers out, or give one --device."
        )


def cannot_go(name: str) -> ModelError:
    """Of a model that came as an object: no other process can load it."""
    return ModelError(
        f"{name} came as an object, which no other process can load. Load it by its name or "
        "folder, or leave --workers out."
    )
