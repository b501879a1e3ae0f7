"""What a lens run measures: from the command line or from an `analysis.toml`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lensbench.errors import Problem
from lensbench.lens.registry import LENSES
from lensbench.models.sites import STREAM

_CHOICES = {"lenses": tuple(LENSES), "sites": STREAM, "template": ("plain", "chat")}


@dataclass(frozen=True)
class RunSpec:
    """A run, declared. The same spec, prompts and weights give the same records.

    `limit` is how many base prompts are asked, spread over relations, each with its paraphrases,
    reverses and controls; None asks all. `heatmap_prompts` of them are read at every position.
    `models` may name variants (NAME@BITS+ADAPTER). `keep_residuals` keeps the residual vectors at
    the last positions beside the record, for `lensbench diff`.
    """

    name: str
    models: tuple[str, ...]
    prompts: str = "facts"
    limit: int | None = 240
    relations: tuple[str, ...] = ()
    lenses: tuple[str, ...] = tuple(LENSES)
    sites: tuple[str, ...] = ("embed", "resid_post")
    top_k: int = 5
    heatmap_prompts: int = 12
    template: str = "plain"
    batch_tokens: int = 512
    dtype: str | None = None
    device: str | None = None
    keep_residuals: bool = False

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, for the manifest; models and name do not."""
        fields = dataclasses.asdict(self)
        del fields["name"], fields["models"]
        if not self.keep_residuals:  # records made before it was a setting are the same record
            del fields["keep_residuals"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}

    def problems(self, where: str) -> list[Problem]:
        """Everything that is wrong with the values."""
        found = []
        for key, allowed in _CHOICES.items():
            value = getattr(self, key)
            given = value if isinstance(value, tuple) else (value,)
            strange = [item for item in given if item not in allowed]
            if strange or not given:
                what = f"{key} = {', '.join(map(repr, strange)) or 'nothing'} is not known"
                found.append(Problem(where, what, f"Choose from: {', '.join(allowed)}."))
        least = {"limit": 1, "top_k": 1, "heatmap_prompts": 0, "batch_tokens": 1}
        for key, minimum in least.items():
            value = getattr(self, key)
            if value is not None and value < minimum:
                found.append(Problem(where, f"{key} = {value}", f"Give at least {minimum}."))
        if not {"embed", "resid_post"} <= set(self.sites):
            what = f"sites = {', '.join(self.sites)} leaves out embed or resid_post"
            found.append(Problem(where, what, "Milestones are read there: name both."))
        if not self.models:
            found.append(Problem(where, "no model is named", "Name at least one model."))
        doubled = sorted({m for m in self.models if self.models.count(m) > 1})
        if doubled:
            found.append(Problem(where, f"{', '.join(doubled)} stands twice", "Name it once."))
        return found
