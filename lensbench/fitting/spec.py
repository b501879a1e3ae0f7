"""What a lens is fitted to, and on what."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.lens.fitted.place import Method
from lensbench.models.spec import MODEL_HELP, Dtype
from lensbench.spec import ARGUMENT, Count, Device, Spec


class FitSpec(Spec):
    """How a lens is fitted. The same spec, corpus and weights give the same bytes."""

    model: Annotated[str, Field(exclude=True, description=MODEL_HELP), ARGUMENT]
    method: Annotated[Method, Parameter("--lens")] = "linear"
    """linear: ridge regression from each layer's state to the last."""
    corpus: Annotated[str, Field(exclude=True)] = "python-docs"
    """python-docs (what the installed Python says about itself), a text file, or a folder of
    .txt, .md and .rst."""
    tokens: Count = 30_000
    """Tokens that the maps are fitted to."""
    choose_tokens: Count = 256
    """Tokens on which the strength of each layer's ridge is chosen."""
    test_tokens: Count = 768
    """Tokens of text seen by neither, which the figures are of."""
    window: Annotated[Count, Field(ge=16)] = 128
    """Tokens that are read of a document, from its beginning."""
    batch_tokens: Count = 512
    """Tokens in one forward pass."""
    dtype: Dtype = None
    device: Device = None
