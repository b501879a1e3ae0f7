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
    from lensbench.attention import attention
    from lensbench.checkpoints.ref import ModelRef
    from lensbench.classification.result import classify
    from lensbench.cluster.workers import workers
    from lensbench.embeddings.result import embed
    from lensbench.embeddings.senses.result import senses
    from lensbench.errors import GateError, InputProblems, LensbenchError
    from lensbench.fitting.spec import FitSpec
    from lensbench.lens.cached import lens_from_cache
    from lensbench.lens.gate import check_identities
    from lensbench.lens.importing.record import import_records
    from lensbench.lens.result import LensResult, logit_lens
    from lensbench.models.load import load_model
    from lensbench.models.model import LensModel
    from lensbench.prompts.prompt import Prompt
    from lensbench.prompts.sets import load_prompts
    from lensbench.quantized.adapters.spec import Lora
    from lensbench.quantized.generation.generate import generate
    from lensbench.quantized.generation.spec import Decoding
    from lensbench.quantized.loading.load import load_quantized
    from lensbench.quantized.training.spec import TrainSpec
    from lensbench.quantized.training.train import train
    from lensbench.records.open import open_record
    from lensbench.records.record import Record
    from lensbench.report.build import build_report
    from lensbench.residuals.capture import residual_stream
    from lensbench.residuals.store import open_cache
    from lensbench.sampling.result import sample
    from lensbench.studies.analysis import plan
    from lensbench.studies.lens import run
    from lensbench.studies.specs.lens import RunSpec
    from lensbench.studies.stages.fit import fit_lens
    from lensbench.tokenisation.result import tokens
    from lensbench.walkthrough.result import walk

_HOME = {
    "Decoding": "lensbench.quantized.generation.spec",
    "FitSpec": "lensbench.fitting.spec",
    "GateError": "lensbench.errors",
    "InputProblems": "lensbench.errors",
    "LensModel": "lensbench.models.model",
    "LensResult": "lensbench.lens.result",
    "LensbenchError": "lensbench.errors",
    "Lora": "lensbench.quantized.adapters.spec",
    "ModelRef": "lensbench.checkpoints.ref",
    "Prompt": "lensbench.prompts.prompt",
    "Record": "lensbench.records.record",
    "RunSpec": "lensbench.studies.specs.lens",
    "TrainSpec": "lensbench.quantized.training.spec",
    "attention": "lensbench.attention",
    "build_report": "lensbench.report.build",
    "check_identities": "lensbench.lens.gate",
    "classify": "lensbench.classification.result",
    "embed": "lensbench.embeddings.result",
    "fit_lens": "lensbench.studies.stages.fit",
    "generate": "lensbench.quantized.generation.generate",
    "import_records": "lensbench.lens.importing.record",
    "lens_from_cache": "lensbench.lens.cached",
    "load_model": "lensbench.models.load",
    "load_prompts": "lensbench.prompts.sets",
    "load_quantized": "lensbench.quantized.loading.load",
    "logit_lens": "lensbench.lens.result",
    "open_cache": "lensbench.residuals.store",
    "open_record": "lensbench.records.open",
    "plan": "lensbench.studies.analysis",
    "residual_stream": "lensbench.residuals.capture",
    "run": "lensbench.studies.lens",
    "sample": "lensbench.sampling.result",
    "senses": "lensbench.embeddings.senses.result",
    "tokens": "lensbench.tokenisation.result",
    "train": "lensbench.quantized.training.train",
    "walk": "lensbench.walkthrough.result",
    "workers": "lensbench.cluster.workers",
}

__all__ = [
    "Decoding",
    "FitSpec",
    "GateError",
    "InputProblems",
    "LensModel",
    "LensResult",
    "LensbenchError",
    "Lora",
    "ModelRef",
    "Prompt",
    "Record",
    "RunSpec",
    "TrainSpec",
    "__version__",
    "attention",
    "build_report",
    "check_identities",
    "classify",
    "embed",
    "fit_lens",
    "generate",
    "import_records",
    "lens_from_cache",
    "load_model",
    "load_prompts",
    "load_quantized",
    "logit_lens",
    "open_cache",
    "open_record",
    "plan",
    "residual_stream",
    "run",
    "sample",
    "senses",
    "tokens",
    "train",
    "walk",
    "workers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lensbench' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
