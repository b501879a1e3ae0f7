"""What a reader of foreign files hands on: rows as they were found, and their manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.errors import InputProblems, Problem
from lensbench.records.schema.lens import LENS, PROMPTS
from lensbench.records.validation.columns import Source
from lensbench.records.validation.told import Told

Decode = Callable[[int], str]  # a token's id as the text that it adds


@dataclass
class Draft:
    """A lens record in the making. Columns that a frame lacks were not told."""

    told: Told
    prompts: pd.DataFrame
    lens: pd.DataFrame
    prompts_at: Source
    lens_at: Source
    milestones: pd.DataFrame | None = None  # as somebody else made them: checked, then made anew
    notes: list[Problem] = field(default_factory=list)

    def leave_out_unknown(self) -> None:
        """Drop columns that are not of the schema, and say so."""
        for name, table, source in (
            ("prompts", PROMPTS, self.prompts_at),
            ("lens", LENS, self.lens_at),
        ):
            frame = getattr(self, name)
            if unknown := [str(column) for column in frame if column not in table.names]:
                what = f"not of the table {name}, so left out: {', '.join(unknown)}"
                remedy = "If one is a column of the schema under another name or unit, rename it."
                self.notes.append(Problem(source.name, what, remedy))
                setattr(self, name, frame.drop(columns=unknown))

    def fill_in(self) -> None:
        """What the schema says an import puts where a file says nothing (`Column.filled`)."""
        prompts, lens, n = self.prompts, self.lens, self.told.model.n_layers
        for frame in (prompts, lens):
            frame["model"] = self.told.model.name
        _fill(prompts, "relation", "prompt")
        _fill(prompts, "text", prompts.get("prompt"))
        if "n_tokens" not in prompts and "token_ids" in prompts:
            prompts["n_tokens"] = prompts["token_ids"].map(_length)
        if len(self.told.names) == 1:
            _fill(lens, "lens", self.told.names[0])
        layer = pd.to_numeric(lens.get("layer", pd.Series(np.nan, lens.index)), errors="coerce")
        _fill(lens, "site", pd.Series(np.where(layer == 0, "embed", "resid_post"), lens.index))
        middle = 0.5 * (lens["site"] == "resid_mid")
        _fill(lens, "depth", (layer - middle) / n)
        if "is_last" not in lens:
            lens["is_last"] = _last(lens)


def _fill(frame: pd.DataFrame, column: str, values: Any) -> None:
    if column not in frame:
        frame[column] = values


def _length(cell: Any) -> int | None:
    return len(cell) if isinstance(cell, list | np.ndarray) else None


def _last(lens: pd.DataFrame) -> Any:
    """Each prompt's largest position; every row where no position is told."""
    if "position" not in lens or "prompt_id" not in lens:
        return True
    position = pd.to_numeric(lens["position"], errors="coerce")
    return position.eq(position.groupby(lens["prompt_id"]).transform("max")) | position.isna()


def arrays_in(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The arrays of an .npz file, or of each in a folder, by the file's stem; nothing is unpickled.

    Raises InputProblems that name every file that is none, or lacks one of `wanted`.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    problems, read = [], []
    if not files:
        problems.append(Problem(str(path), "no .npz files here", "Save one with numpy.savez."))
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, AttributeError) as error:
            what = f"is no .npz of plain arrays ({error})"
            problems.append(Problem(str(file), what, "Save one with numpy.savez."))
            continue
        if missing := [name for name in wanted if name not in arrays]:
            what = f"no array {', '.join(missing)} (there are {', '.join(arrays) or 'none'})"
            problems.append(Problem(str(file), what, "Save it under that name."))
            continue
        read.append((file.stem, arrays))
    if problems:
        raise InputProblems(problems)
    yield from read
