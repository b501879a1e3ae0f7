"""What a correlation study compares with what, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lensbench.compare.correlation.study import MAPPED
from lensbench.compare.similarity import MEASURES
from lensbench.errors import Problem
from lensbench.records.schema import SPANS

MAIN_VARIANT = "without_massive"  # that chooses the blocks
LEAST_RESAMPLES = 100


@dataclass(frozen=True)
class CorrelationSpec:
    """The runs and what is asked of them; the defaults ask everything that applies."""

    runs: tuple[str, ...]  # [NAME=]FOLDER[:PHASE]; the first is the reference
    out: Path
    controls: tuple[str, ...] = ()
    spans: tuple[str, ...] = ()  # none named: all
    measures: tuple[str, ...] | None = None  # all that apply
    n_blocks: int | None = None  # to suggest
    resamples: int = 2000
    seed: int = 0
    relative_depth: bool = False
    unpaired: bool = False  # runs of different prompts: their mean vectors alone are compared
    groups: Path | None = None  # a .csv with id and group: prompts that are drawn together

    @property
    def main(self) -> tuple[str, str]:
        """The measure and variant that choose the blocks."""
        return ("pearson" if self.unpaired else "cosine"), MAIN_VARIANT

    @property
    def measured(self) -> tuple[str, ...]:
        """The measures, in the order of `MEASURES`; those of layer maps too where unpaired."""
        every = MAPPED if self.unpaired else tuple(MEASURES)
        return every if self.measures is None else self.measures

    def problems(self) -> list[Problem]:
        """Everything that is wrong with the settings."""
        return [*self._measure_problems(), *self._unpaired_problems(), *self._number_problems()]

    def _measure_problems(self) -> list[Problem]:
        asked = self.measures or ()
        found = [
            Problem("--measure", f"no measure {name!r}", f"There are {', '.join(MEASURES)}.")
            for name in asked
            if name not in MEASURES
        ]
        main, _ = self.main
        if self.n_blocks is not None and self.measures is not None and main not in asked:
            what = f"blocks are chosen by {main}, which is not measured"
            found.append(Problem("--suggest-layers", what, f"Add --measure {main}."))
        return found

    def _unpaired_problems(self) -> list[Problem]:
        if not self.unpaired:
            return []
        found = [
            Problem(
                "--measure",
                f"{name} compares prompt by prompt, and --unpaired runs share no prompts",
                "Leave it out: mean vectors are compared by pearson.",
            )
            for name in self.measures or ()
            if name in MEASURES and MEASURES[name].paired
        ]
        if self.controls:
            what = "a control is set against a condition prompt by prompt"
            remedy = "Leave it out: the test deals the prompts of both runs out again."
            found.append(Problem("--control", what, remedy))
        return found

    def _number_problems(self) -> list[Problem]:
        found = []
        if len(self.runs) < 2:
            what = f"{len(self.runs)} run(s)"
            remedy = "Give the reference and at least one condition to compare it with."
            found.append(Problem("RUN", what, remedy))
        found += [
            Problem("--span", f"no token span {name!r}", f"There are {', '.join(SPANS)}.")
            for name in self.spans
            if name not in SPANS
        ]
        if self.resamples < LEAST_RESAMPLES:
            remedy = f"Give at least {LEAST_RESAMPLES}."
            found.append(Problem("--resamples", f"it is {self.resamples}", remedy))
        return found
