"""An analysis as the command line asks for it: its file, and what is changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lensbench.errors import InputProblems, Problem
from lensbench.models.spec import Dtype
from lensbench.spec import ARGUMENT, Device, Spec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.specs.transfer import TransferSpec


class Asked(Spec):
    """An analysis, and what the command line changes in it."""

    analysis: Annotated[Path, ARGUMENT]
    """A folder with an analysis.toml."""
    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """Run folder. Default: reports/<name of the analysis>."""
    lens: tuple[str, ...] = ()
    """Only these of the analysis' lenses; repeatable."""
    limit: int | None = None
    """Prompts to ask (pairs to take, in an adapter study)."""
    everything: Annotated[bool, Parameter("--all")] = False
    """Ask every prompt."""
    dtype: Annotated[Dtype, Parameter(help="Default: what the analysis says.")] = None
    products: Literal["float32", "bfloat16", "auto"] | None = None
    """How the head is multiplied (see `lensbench lens`). Default: its file's."""
    device: Annotated[
        Device, Parameter(help="cpu, cuda, cuda:1, mps, auto, a list. Default: the first there is.")
    ] = None

    def problems(self) -> list[Problem]:
        """Both a limit and none, and a file in place of a folder."""
        found = []
        if self.everything and self.limit is not None:
            found.append(Problem("--limit", "--all is given too", "Leave out one of them."))
        if self.out is not None and self.out.is_file():
            found.append(Problem("--out", f"{self.out} is a file", "Name a folder."))
        return found

    @property
    def folder(self) -> Path:
        """Where its records go."""
        from lensbench.studies.analysis import results_folder

        return self.out or results_folder(self.analysis)

    def read(self) -> Spec:
        """The analysis with its changes.

        Raises InputProblems for changes without an effect, and with all that is wrong with its
        file.
        """
        from lensbench.studies.analysis import read_analysis

        spec = read_analysis(self.analysis)
        if self.dtype is not None and not isinstance(spec, RunSpec | TransferSpec):
            what = "this analysis has bits in its file, not a dtype"
            raise InputProblems([Problem("--dtype", what, "Leave it out.")])
        if self.products is not None and not isinstance(spec, RunSpec):
            what = "this analysis reads no lens over prompts"
            raise InputProblems([Problem("--products", what, "Leave it out.")])
        chosen = {name: getattr(self, name) for name in ("limit", "dtype", "device", "products")}
        changes = {name: value for name, value in chosen.items() if value is not None}
        if self.lens:
            changes |= _only(spec, self.lens)
        return spec.changed(**changes | ({"limit": None} if self.everything else {}))


def _only(spec: Spec, lenses: Sequence[str]) -> dict[str, Any]:
    """Some of a study's lenses, and the fits of these. Raises InputProblems."""
    if not isinstance(spec, RunSpec | TransferSpec):
        what = "this analysis does not say which lenses are read"
        raise InputProblems([Problem("--lens", what, "Leave it out.")])
    remedy = f"It has {', '.join(spec.lenses)}."
    if strange := [one for one in lenses if one not in spec.lenses]:
        raise InputProblems(
            [Problem("--lens", f"the analysis has no lens {one}", remedy) for one in strange]
        )
    return {"lenses": lenses, "fit": {one: spec.fit[one] for one in lenses if one in spec.fit}}
