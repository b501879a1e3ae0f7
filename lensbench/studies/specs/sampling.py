"""What a study of sampling draws: from the command line or from an `analysis.toml`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import AfterValidator, Field

from lensbench.errors import Problem
from lensbench.sampling.settings import GRID, WRITTEN, settings_of
from lensbench.spec import Count, Devices, Seed, Spec, repeated
from lensbench.studies.specs.lens import Models, Prompts, Relations


def _named(given: tuple[str, ...]) -> tuple[str, ...]:
    """Settings as they name themselves. Raises InputProblems."""
    return tuple(setting.name for setting in settings_of(given))


Settings = Annotated[tuple[str, ...], AfterValidator(_named), Parameter(consume_multiple=True)]


class SamplingSpec(Spec):
    """What settings make of the next token and of texts, and tasks with and without examples."""

    models: Models
    prompts: Prompts = "general"
    limit: Count | None = None
    """Base prompts, spread over relations. Default: all."""
    relations: Relations = ()
    compared: Annotated[Settings, Field(min_length=1), Parameter("--settings")] = GRID
    """Settings whose effect on the next token is measured, each `greedy` or one or more of T=,
    top-k=, top-p=, min-p=, penalty=."""
    written: Annotated[Settings, Parameter("--written")] = WRITTEN
    """Settings that write texts, besides."""
    continued: Annotated[int, Field(ge=0)] = 24
    """Prompts that are continued, the first ones spread over relations; 0: none."""
    texts: Count = 4
    """Texts of each setting and prompt."""
    max_new_tokens: Count = 32
    """Length of a text at most."""
    tasks: Annotated[bool, Parameter(negative="--no-tasks")] = True
    """Also ask the shipped tasks with and without examples."""
    shots: Annotated[int, Field(ge=2)] = 4
    """Examples before an item, other items of its task."""
    seed: Seed = 0
    """Of texts and examples."""
    device: Devices = None

    def problems(self) -> list[Problem]:
        """Models that stand twice."""
        return repeated("models", self.models)
