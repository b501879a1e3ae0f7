"""What a residual cache keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lensbench.models.spec import MODEL_HELP, Dtype
from lensbench.spec import ARGUMENT, AllOr, Devices, Spec
from lensbench.studies.specs.lens import (
    DEFAULT_SITES,
    BatchTokens,
    Limit,
    Prompts,
    Relations,
    Sites,
    Templated,
)


class CacheSpec(Spec):
    """What is kept. The same spec, prompts and weights give the same bytes."""

    model: Annotated[str, Field(exclude=True, description=MODEL_HELP), ARGUMENT]
    prompts: Prompts = "facts"
    limit: Limit = None
    relations: Relations = ()
    layers: AllOr = None
    """As in 0-5,30; 0 is the embedding. Default: all. The lens needs the last."""
    sites: Sites = DEFAULT_SITES
    positions: Literal["last", "all", "answer"] = "last"
    """last: where the answer is predicted. all: every token of the prompt. answer: the last, and on
    through the answer's own tokens, each where the next one is predicted."""
    residual_dtype: Literal["float32", "bfloat16"] = "float32"
    """On disk. bfloat16: half the room, each number within 2^-8 of itself."""
    template: Templated = "plain"
    batch_tokens: BatchTokens = None
    dtype: Dtype = None
    device: Devices = None
