"""What a diff study compares: from an `analysis.toml` of kind "diff"."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from lensbench.compare.diff.spec import PartBits
from lensbench.spec import Count, Device, Spec


def _variant(text: str) -> str:
    if text and text[0] not in "@+":
        raise ValueError("Write @BITS, +ADAPTER or both.")
    return text


class DiffStudySpec(Spec):
    """Every model in every variant over one prompt set; the first variant is the reference."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """Aliases, hub names or folders."""
    variants: Annotated[
        tuple[Annotated[str, AfterValidator(_variant)], ...], Field(min_length=2)
    ] = ("@32", "@8", "@4")
    """What is written after a model's name: @BITS, +ADAPTER or both."""
    prompts: str = "facts"
    """A shipped prompt set, or a .csv or .jsonl."""
    limit: Count | None = 120
    """Base prompts to ask, spread over relations, each with the rows that go with it."""
    batch_tokens: Count = 512
    """Tokens in one forward pass."""
    part_bits: PartBits = 0.1
    device: Device = None
