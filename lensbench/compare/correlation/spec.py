"""What a correlation study compares with what, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.records.schema.correlation import SIMILARITY_MEASURES
from lensbench.spec import ARGUMENT, Count, Seed, Spec, one_of

MAIN_VARIANT = "without_massive"  # that chooses the blocks
MAPPED = ("pearson", "cosine", "cka")  # measures of the layer x layer maps

Span = Literal["prompt", "generated"]
Resamples = Annotated[
    int, Field(ge=100, description="Draws of the bootstrap, and of the permutation test.")
]
MeasureName = Annotated[str, one_of(SIMILARITY_MEASURES)]


class CorrelationSpec(Spec):
    """The runs and what is asked of them; the defaults ask everything that applies."""

    runs: Annotated[tuple[str, ...], Field(min_length=2), ARGUMENT]
    """Traced runs or caches, each [NAME=]FOLDER[:prompt|:generated]; all are compared with the
    first."""
    out: Annotated[Path, Parameter(("--out", "-o"))]
    """Folder of the record and its report."""
    controls: Annotated[tuple[str, ...], Parameter("--control")] = ()
    """A run whose change counts as chance, such as an irrelevant context of the same length;
    [NAME=]FOLDER, repeatable."""
    spans: Annotated[tuple[Span, ...], Parameter("--span")] = ()
    """Only these tokens; repeatable. Default: both."""
    measures: Annotated[tuple[MeasureName, ...] | None, Parameter("--measure")] = None
    """Only this measure of pearson, cosine, cka, cka_biased, rsa, procrustes; repeatable. Default:
    all that apply."""
    n_blocks: Annotated[Count | None, Parameter("--suggest-blocks")] = None
    """Suggest so many contiguous blocks to train; writes the file that `lensbench train --blocks
    auto:FILE` takes."""
    resamples: Resamples = 2000
    seed: Seed = 0
    """Of the draws."""
    relative_depth: bool = False
    """Compare models of different depth or tokenizer, at equal shares of the depth."""
    unpaired: bool = False
    """Compare runs of different prompts: by Pearson of their mean vectors alone."""
    groups: Path | None = None
    """A .csv with id and group: prompts of a group are drawn and swapped together."""

    @property
    def main(self) -> tuple[str, str]:
        """The measure and variant that choose the blocks."""
        return ("pearson" if self.unpaired else "cosine"), MAIN_VARIANT

    @property
    def measured(self) -> tuple[str, ...]:
        """The measures in their order; those of layer maps too where unpaired."""
        every = MAPPED if self.unpaired else tuple(SIMILARITY_MEASURES)
        return every if self.measures is None else self.measures

    def problems(self) -> list[Problem]:
        found = self._unpaired_problems() if self.unpaired else []
        main, _ = self.main
        if self.n_blocks is not None and main not in self.measured:
            what = f"blocks are chosen by {main}, which is not measured"
            found.append(Problem("n_blocks", what, f"Measure {main} too."))
        return found

    def _unpaired_problems(self) -> list[Problem]:
        """Runs of different prompts can be compared in one way only."""
        from lensbench.compare.similarity import MEASURES  # with scipy, which takes a second

        what = "compares prompt by prompt, and unpaired runs share no prompts"
        remedy = "Leave it out: mean vectors are compared by pearson."
        found = [
            Problem("measures", f"{name} {what}", remedy)
            for name in self.measures or ()
            if MEASURES[name].paired
        ]
        if self.controls:
            what = "a control is set against a condition prompt by prompt"
            remedy = "Leave it out: the test deals the prompts of both runs out again."
            found.append(Problem("controls", what, remedy))
        return found
