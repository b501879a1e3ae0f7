"""What a diff study compares: from an `analysis.toml` of kind "diff"."""

from __future__ import annotations

from dataclasses import dataclass

from lensbench.errors import Problem


@dataclass(frozen=True)
class DiffSpec:
    """Every model in every variant over one prompt set; the first variant is the reference.

    `variants` are what is written after a model's name: `@BITS`, `+ADAPTER` or both. `limit` is how
    many base prompts are asked, spread over relations, each with the rows that go with it.
    """

    name: str
    models: tuple[str, ...]
    variants: tuple[str, ...] = ("@32", "@8", "@4")
    prompts: str = "facts"
    limit: int | None = 120
    batch_tokens: int = 512
    part_bits: float = 0.1
    device: str | None = None

    def problems(self, where: str) -> list[Problem]:
        """Everything that is wrong with the values."""
        found = []
        for key in ("limit", "batch_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                found.append(Problem(where, f"{key} = {value}", "Give at least 1."))
        if not self.models:
            found.append(Problem(where, "no model is named", "Name at least one model."))
        if len(self.variants) < 2:
            what = f"{len(self.variants)} variant(s)"
            found.append(Problem(where, what, "Name the reference and at least one other."))
        found += [
            Problem(where, f"the variant {text!r} is not known", "Write @BITS, +ADAPTER or both.")
            for text in self.variants
            if text and text[0] not in "@+"
        ]
        return found
