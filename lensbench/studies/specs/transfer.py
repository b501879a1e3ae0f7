"""What a transfer study measures: lenses of one variant of a model, read on the others."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lensbench.corpora.corpus import WRITTEN
from lensbench.errors import Problem
from lensbench.lens.fitted.place import Method
from lensbench.models.spec import Dtype
from lensbench.spec import Devices, Spec, repeated
from lensbench.studies.specs.fits import Fits, fit_problems


class TransferSpec(Spec):
    """May a lens that was fitted to one variant of a model be used on the others?

    Each variant gets a lens of its own, from the same text; both are read on the same held-out
    documents.
    """

    alone = "variants are held in turn, one at a time"

    models: Annotated[tuple[str, ...], Field(min_length=2, exclude=True)]
    """Variants of one model (NAME, NAME@8, NAME+ADAPTER): lenses of the first are read on all."""
    lenses: Annotated[tuple[Method, ...], Field(min_length=1)] = ("linear",)
    """linear, tuned, ...: each is fitted to every variant."""
    fit: Fits = {}  # noqa: RUF012 (pydantic copies it)
    """How: `[fit.linear]`, with options of `lensbench fit` as keys; not `corpus = "model"`."""
    dtype: Dtype = None
    device: Devices = None

    def problems(self) -> list[Problem]:
        """Names that stand twice, and what is wrong with the fits."""
        found = repeated("models", self.models) + repeated("lenses", self.lenses)
        return found + fit_problems(self.fit, self.lenses) + self._own_texts()

    def _own_texts(self) -> list[Problem]:
        """Of a corpus that each variant writes itself, lenses would be compared on other text."""
        what = "each variant would write a text of its own, and no two lenses read the same one"
        remedy = "Give one text for all, such as python-docs or a folder."
        return [
            Problem(f"fit.{lens}.corpus", what, remedy)
            for lens, options in self.fit.items()
            if str(options.get("corpus")).partition(":")[0] == WRITTEN
        ]
