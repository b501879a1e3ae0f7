"""What a residual cache keeps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lensbench.models.sites import STREAM
from lensbench.prompts.encode import Template
from lensbench.spec import ARGUMENT, AllOr, Count, Device, Spec, one_of
from lensbench.studies.lens_spec import Dtype


class CacheSpec(Spec):
    """What is kept. The same spec, prompts and weights give the same bytes."""

    model: Annotated[str, Field(exclude=True), ARGUMENT]
    """Alias, hub name or folder: NAME[@BITS[:THRESHOLD]][+ADAPTER]."""
    prompts: str = "facts"
    """A shipped prompt set, or a .csv or .jsonl."""
    limit: Count | None = None
    """Base prompts to take, spread over relations."""
    relations: tuple[str, ...] = ()
    """Only these relations."""
    layers: AllOr = None
    """As in 0-5,30; 0 is the embedding. Default: all. The lens needs the last."""
    sites: tuple[Annotated[str, one_of(STREAM)], ...] = ("embed", "resid_post")
    """States of the residual stream: embed, resid_mid (after attention), resid_post."""
    positions: Literal["last", "all", "answer"] = "last"
    """last: where the answer is predicted. all: every token of the prompt. answer: the last, and on
    through the answer's own tokens, each where the next one is predicted."""
    residual_dtype: Literal["float32", "bfloat16"] = "float32"
    """On disk. bfloat16: half the room, each number within 2^-8 of itself."""
    template: Template = "plain"
    """chat: the prompt as the start of a chat answer."""
    batch_tokens: Count = 512
    """Tokens in one forward pass."""
    dtype: Dtype | None = None
    """Of the model. Default: float32 on a CPU and up to 2e9 parameters, else half precision."""
    device: Device = None
