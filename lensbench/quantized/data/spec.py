"""What the verbs and studies that make training data are told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Sources = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        description="Sources of pairs: general, docstrings, a .jsonl, or a data set on the hub.",
    ),
]
ShippedSet = Literal["general", "retrieval", "python_reference"]
QuestionKind = Literal["what", "which", "arguments", "default", "methods", "functions"]
NEAR = 0.8  # Jaccard similarity from which two texts count as near duplicates
Near = Annotated[
    float,
    Field(
        ge=0.5,
        le=1.0,
        description="Similarity from which rows are near duplicates, 1 being equal.",
    ),
]
