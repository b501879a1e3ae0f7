"""Records that somebody else wrote straight in lensbench's format."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.errors import InputProblems, Problem, first_line
from lensbench.lens.importing.draft import Draft
from lensbench.records.read import table_path
from lensbench.records.validation.columns import Source
from lensbench.records.validation.told import Told


def read_parquet(folder: Path, told: Told) -> Draft:
    """The tables of a folder. Raises InputProblems for one that is missing or damaged."""
    frames: dict[str, pd.DataFrame] = {}
    problems = []
    for name in ("prompts", "lens", "milestones"):
        path = table_path(folder, name)
        if not path.exists() and name == "milestones":  # it is made of the others
            continue
        try:
            frames[name] = pq.read_table(path).to_pandas()
        except (OSError, pa.ArrowException) as error:
            what = f"cannot be read as Parquet ({first_line(error)})"
            problems.append(Problem(str(path), what, "Write this table."))
    if problems:
        raise InputProblems(problems)
    at = {name: Source(str(table_path(folder, name))) for name in ("prompts", "lens")}
    return Draft(
        told,
        frames["prompts"],
        frames["lens"],
        at["prompts"],
        at["lens"],
        frames.get("milestones"),
    )
