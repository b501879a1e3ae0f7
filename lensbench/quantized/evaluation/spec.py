"""What is evaluated, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lensbench.quantized.spec import RagSpec
from lensbench.quantized.style import Style
from lensbench.spec import Count, Devices

Condition = Literal["base", "adapter", "rag", "adapter+rag"]


class EvalSpec(RagSpec):
    """What examples a model is asked, and how. Decoding is greedy."""

    data: Path
    """Examples, .jsonl, .json or .csv: instruction, response (or output)."""
    style: Style | None = None
    """Default: the adapter's own; without one, chat if there is a template, else none."""
    max_new_tokens: Count = 200
    """Length of a response."""
    batch_size: Count = 8
    """Examples at once; halved where memory runs out."""
    limit: Count | None = None
    """The first so many examples. Raised later, the rest is measured and what is there stays."""
    only: Condition | None = None
    """Only this condition. Default: all that model and index allow."""
    device: Devices = None
