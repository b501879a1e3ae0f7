"""What is trained on what, and how: everything that a training run is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from lensbench.checkpoints.ref import Bits, ModelRef
from lensbench.errors import Problem
from lensbench.quantized.adapters.lora import Lora
from lensbench.quantized.style import Style

DEFAULT_LENGTH = 512  # tokens


@dataclass(frozen=True)
class TrainSpec:
    """What is trained on what, and how.

    `model` is NAME[@BITS[:THRESHOLD]], or `bits` and `int8_threshold` say the rest of it. `style`
    None is chat for rows of messages, else alpaca; `max_length` None is 512 tokens, or the model's
    context where that is shorter. A step counts `batch_size` times `gradient_accumulation`
    examples; `max_steps` ends training early. `warmup` is the share of steps in which the learning
    rate rises; then it falls by a cosine to zero. Evaluation is on `eval_data`, else on a share of
    the data.
    """

    model: str | Path | ModelRef
    data: Path
    out: Path
    lora: Lora = field(default_factory=Lora)
    bits: Bits | None = None
    int8_threshold: float | None = None
    device: str | None = None
    style: Style | None = None
    max_length: int | None = None
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 2e-4
    warmup: float = 0.03
    seed: int = 0
    eval_data: Path | None = None
    eval_share: float = 0.1
    cache_prefix: bool = False
    checkpoint_every: int = 50
    n_examples: int = 4

    @property
    def ref(self) -> ModelRef:
        """The base. Raises InputProblems and ModelError as `ModelRef.of` does."""
        how = {"bits": self.bits, "int8_threshold": self.int8_threshold}
        return ModelRef.of(self.model, **how, use="generation")  # type: ignore[arg-type]

    def length_in(self, n_ctx: int) -> int:
        """Most tokens of an example, for a model with room for `n_ctx`."""
        return min(DEFAULT_LENGTH, n_ctx) if self.max_length is None else self.max_length

    def problems(self) -> list[Problem]:
        """Everything that is wrong with the numbers."""
        found = self.lora.problems()
        least = {"epochs": 1, "batch_size": 1, "gradient_accumulation": 1, "max_length": 2}
        least |= {"checkpoint_every": 1, "max_steps": 1, "n_examples": 0, "seed": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                found.append(Problem(name, f"it is {value}", f"Give at least {lowest}."))
        if not 0 < self.learning_rate < math.inf:
            found.append(Problem("learning_rate", f"it is {self.learning_rate}", "Give above 0."))
        for name in ("warmup", "eval_share"):
            if not 0 <= getattr(self, name) < 1:
                what = f"it is {getattr(self, name)}"
                found.append(Problem(name, what, "Give 0 up to below 1."))
        if self.ref.adapter is not None:
            what, remedy = (
                "it has an adapter already",
                "Merge it (`lensbench adapters merge`) first.",
            )
            found.append(Problem(f"model {self.ref}", what, remedy))
        index = (self.device or "").partition(":")[2]
        if index not in ("", "0"):
            remedy = f"Set CUDA_VISIBLE_DEVICES={index} and leave the option out."
            found.append(Problem("device", f"training takes no {self.device}", remedy))
        return found
