"""What a correlation study compares: from an `analysis.toml` of kind "correlation"."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensbench.compare.correlation.spec import Resamples, Span
from lensbench.quantized.style import Style
from lensbench.spec import Count, Devices, Seed, Spec

AtLeastTwo = Annotated[int, Field(ge=2)]


class CorrelationStudySpec(Spec):
    """Prompts, the same with retrieved context, and what could pass for an effect of it.

    The prompts are asked alone, with what the documents hold about them, and under three controls:
    irrelevant text of the same length (or a token or two shorter), another prompt's context, and in
    other batches.
    """

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    """NAME@BITS+ADAPTER; the first is what the others are compared with."""
    prompts: str = "python"
    """A shipped prompt set, or a .csv, .jsonl or .json."""
    other_prompts: str = "general"
    """Another one, asked alone."""
    documents: str = "python_reference"
    """What retrieval searches: a source of pairs."""
    limit: AtLeastTwo | None = 100
    """The first so many prompts of each set."""
    top_k: Count = 1
    """Documents to retrieve."""
    max_new_tokens: Count = 8
    """Length of an answer."""
    batch_size: AtLeastTwo = 8
    """Prompts asked together."""
    rebatch_seed: Seed = 1
    """Of the control in other batches."""
    style: Style | None = None
    """How a prompt is put to the model. Default: chat if it has a chat template, else none."""
    spans: Annotated[tuple[Span, ...], Field(min_length=1)] = ("prompt", "generated")
    """Which tokens are compared."""
    suggest_blocks: Count = 6
    """Contiguous blocks to suggest for training."""
    resamples: Resamples = 2000
    seed: Seed = 0
    """Of the draws."""
    device: Devices = None
