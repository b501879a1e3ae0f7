"""A variable of the context that has a value inside a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")


@contextmanager
def holding(variable: ContextVar[Value], value: Value) -> Iterator[Value]:
    """Inside, the variable is this; after it, what it was."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)
