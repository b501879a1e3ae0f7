"""A finished lens record as a run reads it back: manifest, tables, residual vectors if kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from lensbench.errors import RecordsError
from lensbench.records.open import MANIFEST, read_complete, read_table
from lensbench.records.residuals import ResidualFiles
from lensbench.records.schema import KINDS
from lensbench.residuals.kept import read_kept

LENS: Literal["final"] = "final"  # the lens of the model's output: the one that is compared


@dataclass(frozen=True, eq=False)
class LensRecord:
    """One model over one prompt set, as `lensbench lens --prompts` left it."""

    folder: Path
    manifest: dict[str, Any]
    prompts: pd.DataFrame  # all of them, by prompt_id
    lens: pd.DataFrame  # LENS at the last position, embedding and after each block
    milestones: pd.DataFrame  # of LENS, by prompt_id

    @property
    def model(self) -> dict[str, Any]:
        """The manifest's facts about the model."""
        return dict(self.manifest["model"])

    @property
    def name(self) -> str:
        """The model, as a report shows it."""
        return str(self.model["name"])

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.model["n_layers"])

    @property
    def base_prompts(self) -> pd.DataFrame:
        """The plain questions: no control, paraphrase or reverse."""
        links = self.prompts[["control_of", "paraphrase_of", "reverse_of"]]
        return self.prompts[links.isna().all(axis=1)]

    @cached_property
    def residuals(self) -> ResidualFiles | None:
        """Residual vectors at the last positions; None if the run kept none."""
        return read_kept(self.folder, self.manifest)

    def by_layer(self, column: str, ids: pd.Index) -> pd.DataFrame:
        """A column of the lens as prompt x layer, in the order of `ids`; NaN where it is null."""
        rows = self.lens[self.lens["prompt_id"].isin(ids)]
        return rows.pivot(index="prompt_id", columns="layer", values=column).reindex(ids)


def read_lens_record(path: Path) -> LensRecord:
    """Read the lens record in `path`, or the only one beneath it.

    Raises RecordsError when there is none, more than one, or one that is not complete or damaged.
    """
    folder = _only_record(path)
    manifest = read_complete(folder / MANIFEST)
    kind = manifest["kind"]
    if kind != "lens":
        raise RecordsError(f"{folder}: a record of kind {kind}. Name a record of `lensbench lens`.")
    tables = {name: read_table(folder, name).to_pandas() for name in KINDS["lens"].names}
    lens = tables["lens"]
    wanted = lens["is_last"] & (lens["lens"] == LENS) & (lens["site"] != "resid_mid")
    milestones = tables["milestones"]
    return LensRecord(
        folder=folder,
        manifest=manifest,
        prompts=tables["prompts"].set_index("prompt_id"),
        lens=lens[wanted],
        milestones=milestones[milestones["lens"] == LENS].set_index("prompt_id"),
    )


def _only_record(path: Path) -> Path:
    if (path / MANIFEST).is_file():
        return path
    found = [manifest.parent for manifest in path.glob(f"*/{MANIFEST}")]
    if len(found) == 1:
        return found[0]
    what = "there is no record here" if not found else f"there are {len(found)} records here"
    names = ", ".join(str(folder) for folder in sorted(found)) or "lensbench lens --prompts"
    raise RecordsError(f"{path}: {what}. Name one record's folder: {names}.")
