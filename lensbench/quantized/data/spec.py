"""Where the pairs of a study come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Sources = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        description="Sources of pairs: general, docstrings, a .jsonl, or a data set on the hub.",
    ),
]
