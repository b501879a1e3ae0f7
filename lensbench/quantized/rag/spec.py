"""How documents are read into an index."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.spec import Spec

Embedding = Annotated[
    str | None,
    Field(
        description="Embedding model: a hub name or a folder. Default: all-minilm-l6-v2, from its "
        "package; for an index that is there, its own."
    ),
]


class ReadingSpec(Spec):
    """Which columns are read, and how long a document may be."""

    model: Embedding = None
    id_column: str = "id"
    """Column of the ids. Without one: file name#row."""
    text_columns: Annotated[tuple[str, ...], Parameter("--text-column")] = ()
    """Column of the text; repeatable, then joined by line ends. Default: question + answer,
    instruction + response, instruction + output, prompt + response, or text."""
    max_tokens: Annotated[int, Field(ge=8)] | None = None
    """Longest document, in the embedding model's tokens; a longer one is cut into id#1, id#2, ...
    Default: what the model takes (all-minilm-l6-v2: 254)."""
