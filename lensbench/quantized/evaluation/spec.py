"""What is evaluated, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lensbench.errors import Problem
from lensbench.quantized.spec import Documents, Rag
from lensbench.quantized.style import Style
from lensbench.spec import Count, Device, Spec, idle


class EvalSpec(Spec):
    """What examples a model is asked, and how. Decoding is greedy."""

    data: Path
    """Examples, .jsonl or .csv: id, instruction, response."""
    rag: Rag = None
    top_k: Documents = None
    style: Style | None = None
    """Default: the adapter's own; without one, chat if there is a template, else none."""
    max_new_tokens: Count = 200
    """Length of a response."""
    batch_size: Count = 8
    """Examples at once; halved where memory runs out."""
    limit: Count | None = None
    """The first so many examples. Raised later, the rest is measured and what is there stays."""
    only: Literal["base", "adapter", "rag", "adapter+rag"] | None = None
    """Only this condition. Default: all that model and index allow."""
    device: Device = None

    @property
    def n_documents(self) -> int:
        """Documents to retrieve for an example."""
        return self.top_k or 1

    def problems(self) -> list[Problem]:
        return idle(self, "rag", "top_k")
