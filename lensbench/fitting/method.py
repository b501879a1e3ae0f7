"""A method to fit a lens: its jobs, what one of them yields, and the maps that come of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.fitting.quality import FIRST, Measured, mean_kl_bits, measure, states_of
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tables import documents_table, quality_table
from lensbench.fitting.windows import Part as CorpusPart
from lensbench.fitting.windows import Window
from lensbench.lens.base import Final, Lens
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.lens.fitted.artifact import CONTROLS, FILE, to_bytes
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.models.untrained import untrained
from lensbench.progress import Progress, Watch
from lensbench.prompts.batch import plan_batches
from lensbench.records.engine import Job
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished

Item = TypeVar("Item")
Maps = Mapping[int, AffineMap]  # by layer
_GUESSES = ("fitted", "linear", "shuffled")  # readings whose map of the embedding is a control


@dataclass(frozen=True)
class Fitter:
    """What the jobs of a fit are done with."""

    model: LensModel
    spec: FitSpec
    windows: Mapping[CorpusPart, Sequence[Window]]
    source: LensModel | None = None  # whose states below the last are read; None: the model's own

    @property
    def sites(self) -> list[Site]:
        """The states between blocks: one a layer, in their order."""
        return self.model.sites(("embed", "resid_post"))

    def n_states(self, part: CorpusPart) -> int:
        """Of every token but each window's first."""
        return sum(len(window.token_ids) - FIRST for window in self.windows[part])

    def states(
        self, windows: Sequence[Window], sites: Sequence[Site]
    ) -> Iterator[Float[Tensor, "site cell d_model"]]:
        """The states of every token but each window's first, a forward pass at a time.

        With a `source` all but those of the last site are its own.
        """
        lengths = [len(window.token_ids) for window in windows]
        for items in plan_batches(lengths, self.spec.batch_tokens, self.model.rope_switch):
            texts = [windows[item] for item in items]
            if self.source is None:
                yield states_of(self.model, texts, sites, head=False).stream.cpu()
            else:
                own = states_of(self.source, texts, sites[:-1], head=False)
                last = states_of(self.model, texts, sites[-1:], head=False)
                yield torch.cat([own.stream.cpu(), last.stream.cpu()])

    def measured(
        self, maps: Mapping[str, Maps], sites: Sequence[Site], part: CorpusPart, *others: Lens
    ) -> Measured:
        """What lenses of these maps are worth on a part of the corpus, and other lenses."""
        lenses: list[Lens] = [Affine(self.model, own, name) for name, own in maps.items()]
        windows, size = self.windows[part], self.spec.batch_tokens
        return measure(self.model, [*lenses, *others], sites, windows, size, self.source)

    def mean_kl_bits(
        self, maps: Mapping[str, Maps], sites: Sequence[Site], part: CorpusPart
    ) -> Float[np.ndarray, "lens layer"]:
        """How far lenses of these maps are from the model on a part of the corpus."""
        lenses = [Affine(self.model, own, name) for name, own in maps.items()]
        windows, size = self.windows[part], self.spec.batch_tokens
        return mean_kl_bits(self.model, lenses, sites, windows, size, self.source)


@dataclass(frozen=True)
class Solved:
    """Maps by layer: of the lens, and of what it is held against; strengths of their ridges."""

    lens: Maps
    others: Mapping[str, Maps]
    strengths: Mapping[str, Mapping[int, float]]  # by reading: `fitted`, or one of the others
    facts: Mapping[str, Any] = field(default_factory=dict)  # further entries of the manifest


@dataclass(frozen=True)
class Method(Generic[Item]):
    """How a lens is fitted, as functions of a module. A job is one `Item` of `jobs`."""

    jobs: Callable[[Fitter], list[Item]]
    gather: Callable[[Fitter, Job[Item]], Part]
    solved: Callable[[Fitter, Parts], Solved]
    unit: str
    size: Callable[[Item], int]  # of a job, in units


def finished(
    method: Method[Any],
    fitter: Fitter,
    parts: Parts,
    watch: Watch,
    control: Callable[[Fitter], pa.Table],
    causal: Callable[[Fitter, Mapping[str, Maps]], pa.Table],
) -> Finished:
    """The lens' file and tables, from the parts of all jobs.

    Args:
        control: makes the figures of a lens that is fitted to the states of another model.
        causal: makes the table of what removing directions does.
    """
    model, sites = fitter.model, fitter.sites
    watch(Progress("making the maps of all layers"))
    solved = method.solved(fitter, parts)
    watch(Progress("measuring on held-out text"))
    maps = {"fitted": solved.lens, **solved.others}
    measured = fitter.measured(maps, sites, "test", Final(model))
    quality = [quality_table(model, [*maps, "final"], sites, measured, solved.strengths)]
    if not fitter.spec.no_untrained:
        watch(Progress("fitting the control to an untrained model"))
        quality.append(control(replace(fitter, source=untrained(model))))
    tables = {
        "fit_documents": documents_table(model.name, fitter.windows),
        "fit_quality": pa.concat_tables(quality),
    }
    if "other" in fitter.windows:
        watch(Progress("measuring on the other corpus"))
        there = fitter.measured(maps, sites, "other", Final(model))
        tables["fit_also"] = quality_table(model, [*maps, "final"], sites, there, solved.strengths)
    if fitter.spec.directions:
        watch(Progress("removing directions"))
        tables["fit_fidelity"] = causal(fitter, maps)
    return Finished(
        parts.problems,
        tables,
        files={FILE: to_bytes(solved.lens), CONTROLS: to_bytes(guesses(maps))},
        facts=solved.facts,
    )


def guesses(maps: Mapping[str, Maps]) -> dict[str, AffineMap]:
    """The maps that know nothing of a prompt but its last token: those of the embedding.

    Of the lens, of the linear one of the same text, and of the one that learnt nothing.
    """
    return {name: maps[name][0] for name in _GUESSES if name in maps}
