"""What a lens run measures: from the command line or from an `analysis.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lensbench.errors import Problem
from lensbench.lens.registry import LENSES
from lensbench.models.sites import STREAM
from lensbench.prompts.encode import Template
from lensbench.spec import ARGUMENT, Count, Device, Spec, one_of, repeated

Dtype = Literal["float32", "bfloat16", "float16"]


class RunSpec(Spec):
    """A lens over many prompts. The same spec, prompts and weights give the same records."""

    models: Annotated[tuple[str, ...], Field(min_length=1, exclude=True), ARGUMENT]
    """Aliases, hub names or folders; or NAME@BITS+ADAPTER."""
    prompts: str = "facts"
    """A shipped prompt set, or a .csv or .jsonl."""
    limit: Count | None = 240
    """Base prompts to ask, spread over relations, each with the rows that go with it."""
    relations: tuple[str, ...] = ()
    """Only these relations."""
    lenses: Annotated[tuple[Annotated[str, one_of(LENSES)], ...], Field(min_length=1)] = tuple(
        LENSES
    )
    """Lenses; the first one also reads paraphrases, reverses and controls."""
    sites: tuple[Annotated[str, one_of(STREAM)], ...] = ("embed", "resid_post")
    """States of the residual stream: embed, resid_mid (after attention), resid_post."""
    top_k: Count = 5
    """Top tokens kept of each reading."""
    heatmap_prompts: Annotated[int, Field(ge=0)] = 12
    """Base prompts that are read at every position."""
    template: Template = "plain"
    """chat: the prompt as the start of a chat answer."""
    batch_tokens: Count = 512
    """Tokens in one forward pass."""
    dtype: Dtype | None = None
    """Default: float32 on a CPU and up to 2e9 parameters, else half precision."""
    device: Device = None
    keep_residuals: Annotated[bool, Field(exclude_if=lambda kept: not kept)] = False
    """Keep the residual vectors at the last positions, for `lensbench diff`."""

    def problems(self) -> list[Problem]:
        found = repeated("models", self.models)
        if not {"embed", "resid_post"} <= set(self.sites):
            what = f"{', '.join(self.sites)} leaves out embed or resid_post"
            found.append(Problem("sites", what, "Milestones are read there: name both."))
        return found
