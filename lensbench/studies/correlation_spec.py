"""What a correlation study compares: from an `analysis.toml` of kind "correlation"."""

from __future__ import annotations

from dataclasses import dataclass

from lensbench.errors import Problem
from lensbench.records.schema import SPANS, STYLES


@dataclass(frozen=True)
class CorrelationStudySpec:
    """Prompts, the same with retrieved context, and what could pass for an effect of it.

    `models` are NAME[@BITS][+ADAPTER]; the first is what the others are compared with. `prompts`
    are asked alone, with what `documents` (a source of pairs) hold about them, and under three
    controls: irrelevant text of the same length, another prompt's context, and in other batches.
    `other_prompts` are asked alone. `limit` takes the first so many of each. Without a `style`,
    the model's own: chat where it has a template.
    """

    name: str
    models: tuple[str, ...]
    prompts: str = "python"
    other_prompts: str = "general"
    documents: str = "python_reference"
    limit: int | None = 100
    top_k: int = 1
    max_new_tokens: int = 8
    batch_size: int = 8
    rebatch_seed: int = 1
    style: str | None = None
    spans: tuple[str, ...] = SPANS
    suggest_layers: int = 6  # blocks
    resamples: int = 2000
    seed: int = 0
    device: str | None = None

    def problems(self, where: str) -> list[Problem]:
        """Everything that is wrong with the values."""
        found = []
        least = {"limit": 2, "top_k": 1, "max_new_tokens": 1, "batch_size": 2, "rebatch_seed": 0}
        for key, minimum in (least | {"suggest_layers": 1}).items():
            value = getattr(self, key)
            if value is not None and value < minimum:
                found.append(Problem(where, f"{key} = {value}", f"Give at least {minimum}."))
        if self.style is not None and self.style not in STYLES:
            what = f"style = {self.style!r} is not known"
            found.append(Problem(where, what, f"Choose from: {', '.join(STYLES)}."))
        strange = [span for span in self.spans if span not in SPANS]
        if strange or not self.spans:
            what = f"spans = {', '.join(map(repr, strange)) or 'nothing'} is not known"
            found.append(Problem(where, what, f"Choose from: {', '.join(SPANS)}."))
        if not self.models:
            found.append(Problem(where, "no model is named", "Name at least one model."))
        return found
