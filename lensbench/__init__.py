"""lensbench: at which depth does a language model know what it is about to say?

>>> import lensbench as lb
>>> model = lb.load_model("smollm2-135m")
>>> result = lb.logit_lens(model, "The capital of Germany is")
>>> result.plot()

The second path (8-bit inference, retrieval, adapters) starts at `load_quantized`, `generate` and
`train`.

Names are imported on first use, so that reading records or building a report needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lensbench.version import __version__

if TYPE_CHECKING:
    from lensbench.errors import GateError, InputProblems, LensbenchError
    from lensbench.lens.cached import lens_from_cache
    from lensbench.lens.gate import check_identities
    from lensbench.lens.result import LensResult, logit_lens
    from lensbench.models.load import load_model
    from lensbench.models.model import LensModel
    from lensbench.prompts.prompt import Prompt
    from lensbench.prompts.sets import load_prompts
    from lensbench.quantized.generate import Decoding, generate
    from lensbench.quantized.load import load_quantized
    from lensbench.quantized.lora import Lora
    from lensbench.quantized.train import train
    from lensbench.quantized.train_spec import TrainSpec
    from lensbench.report.build import build_report
    from lensbench.residuals.cache import open_cache
    from lensbench.residuals.capture import residual_stream
    from lensbench.runs.run import run
    from lensbench.runs.spec import RunSpec

_HOME = {
    "Decoding": "lensbench.quantized.generate",
    "GateError": "lensbench.errors",
    "InputProblems": "lensbench.errors",
    "LensModel": "lensbench.models.model",
    "LensResult": "lensbench.lens.result",
    "LensbenchError": "lensbench.errors",
    "Lora": "lensbench.quantized.lora",
    "Prompt": "lensbench.prompts.prompt",
    "RunSpec": "lensbench.runs.spec",
    "TrainSpec": "lensbench.quantized.train_spec",
    "build_report": "lensbench.report.build",
    "check_identities": "lensbench.lens.gate",
    "generate": "lensbench.quantized.generate",
    "lens_from_cache": "lensbench.lens.cached",
    "load_model": "lensbench.models.load",
    "load_prompts": "lensbench.prompts.sets",
    "load_quantized": "lensbench.quantized.load",
    "logit_lens": "lensbench.lens.result",
    "open_cache": "lensbench.residuals.cache",
    "residual_stream": "lensbench.residuals.capture",
    "run": "lensbench.runs.run",
    "train": "lensbench.quantized.train",
}

__all__ = [
    "Decoding",
    "GateError",
    "InputProblems",
    "LensModel",
    "LensResult",
    "LensbenchError",
    "Lora",
    "Prompt",
    "RunSpec",
    "TrainSpec",
    "__version__",
    "build_report",
    "check_identities",
    "generate",
    "lens_from_cache",
    "load_model",
    "load_prompts",
    "load_quantized",
    "logit_lens",
    "open_cache",
    "residual_stream",
    "run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lensbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
