"""What every verb of the second path is told of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import BeforeValidator, Field, InstanceOf

from lensbench.checkpoints.ref import DEFAULT_BITS, FORM, INT8_THRESHOLD, ModelRef
from lensbench.checkpoints.ref import Bits as BitsChoice
from lensbench.errors import Problem
from lensbench.spec import Count, Spec, idle

Model = Annotated[
    str | InstanceOf[ModelRef],
    BeforeValidator(lambda given: str(given) if isinstance(given, Path) else given),
    Parameter(accepts_keys=False, n_tokens=1, metavar="STR"),
    Field(kw_only=False, description=f"Alias, hub name or folder: {FORM}."),
]
Bits = Annotated[
    BitsChoice | None,
    Field(
        description="8: LLM.int8; 4: nf4; 16: bfloat16; 32: float32. Default: what the name says, "
        f"or {DEFAULT_BITS['generation']}."
    ),
]
Int8Threshold = Annotated[
    Annotated[float, Field(ge=0)] | None,
    Field(
        description="LLM.int8's outlier threshold. 0 makes an answer independent of its batch. "
        f"Default: what the name says, or {INT8_THRESHOLD['generation']:g} (the lens: "
        f"{INT8_THRESHOLD['lens']:g})."
    ),
]


class RagSpec(Spec):
    """What is retrieved for every question, if anything."""

    rag: str | None = None
    """An index made by `lensbench rag build`, or its address."""
    top_k: Count | None = None
    """With an index: documents to retrieve. Default: 1."""

    @property
    def n_documents(self) -> int:
        """Documents to retrieve for a question."""
        return self.top_k or 1

    def problems(self) -> list[Problem]:
        return idle(self, "rag", "top_k")


class BaseSpec(Spec):
    """A model of the second path, said in its name, besides it, or both."""

    model: Model
    bits: Bits = None
    int8_threshold: Int8Threshold = None

    @property
    def ref(self) -> ModelRef:
        """The model. Raises InputProblems and ModelError as `ModelRef.of` does."""
        return ModelRef.of(**self.shared(ModelSpec), use="generation")


class ModelSpec(BaseSpec):
    """The same, with an adapter or without."""

    adapter: Path | None = None
    """A folder made by `lensbench train`, for this very model."""
