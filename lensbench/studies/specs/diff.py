"""What a diff study compares: from an `analysis.toml` of kind "diff"."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from lensbench.compare.diff.spec import DivergeBits
from lensbench.spec import Devices, Spec
from lensbench.studies.specs.lens import BatchTokens, Limit, Prompts


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
    prompts: Prompts = "facts"
    limit: Limit = 120
    batch_tokens: BatchTokens = None
    diverge_bits: DivergeBits = 0.1
    device: Devices = None
