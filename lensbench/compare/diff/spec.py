"""How two lens records are compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensbench.spec import Devices, Spec

DivergeBits = Annotated[
    float,
    Field(gt=0, description="KL between the lenses, in bits, above which they diverge."),
]


class DiffSpec(Spec):
    """How two lens records of the same prompts are compared."""

    relative_depth: bool = False
    """Models of different depth, at shares of it."""
    context: bool = False
    """The prompts' texts differ (retrieved context, a template): pair them by their ids."""
    diverge_bits: DivergeBits = 0.1
    device: Annotated[Devices, Field(exclude=True)] = None
