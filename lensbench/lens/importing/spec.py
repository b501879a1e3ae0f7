"""What an import is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lensbench.spec import ARGUMENT, Spec

Origin = Literal["record", "csv", "transformer-lens", "tuned-lens"]


class ImportSpec(Spec):
    """Where a foreign record is, of which tool, and where it goes."""

    source: Annotated[Path, ARGUMENT]
    """A folder or file that another tool wrote."""
    origin: Annotated[Origin, Parameter("--from")] = "record"
    """record: prompts.parquet, lens.parquet and manifest.json, columns as in the data dictionary.
    csv: the same columns in a CSV. transformer-lens, tuned-lens: arrays of their results (.npz)."""
    manifest: Path | None = None
    """JSON with `model`, `lenses` and `measured`. Default: manifest.json beside the data."""
    prompts: Path | None = None
    """CSV of the prompts, columns as in the table `prompts` (prompt_id, prompt, answer, ...)."""
    tokenizer: str | None = None
    """Folder or name of the model whose tokenizer gives token ids their text."""
    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """Folder of the new record. Default: the data are only checked."""
