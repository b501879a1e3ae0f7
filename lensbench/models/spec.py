"""How a model is loaded for the lens."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field

from lensbench.checkpoints.ref import FORM
from lensbench.spec import ARGUMENT, Devices, Spec

Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    Field(description="Default: float32 on a CPU and up to 2e9 parameters, else half precision."),
]
AllowFields = Annotated[
    tuple[str, ...],
    Parameter("--allow-field"),
    Field(description="A config field unknown to lensbench that you know to be harmless."),
]
TrustRemoteCode = Annotated[
    bool, Field(description="Run code that came with the weights. Mind who made it.")
]
MODEL_HELP = f"Alias, hub name or folder: {FORM}."


class LoadSpec(Spec):
    """A model and how it is loaded."""

    model: Annotated[str, ARGUMENT, Field(description=MODEL_HELP)]
    dtype: Dtype = None
    device: Devices = None
    allow_fields: AllowFields = ()
    trust_remote_code: TrustRemoteCode = False
