"""What is trained on what, and how: everything that a training run is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.device import is_spread
from lensbench.errors import Problem
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.spec import BaseSpec
from lensbench.quantized.style import Style
from lensbench.spec import ARGUMENT, Count, Device, Positive, Seed, Share

DEFAULT_LENGTH = 512  # tokens
DEFAULT_EVAL_SHARE = 0.1

Epochs = Annotated[Count, Field(description="Times through the data.")]
MaxSteps = Annotated[
    Count | None, Field(description="Stop after so many steps, whatever the epochs.")
]
PeakLearningRate = Annotated[Positive, Field(description="At the end of the warm-up.")]


class TrainSpec(BaseSpec):
    """What is trained on what, and how."""

    data: Annotated[Path, ARGUMENT]
    """A .jsonl, .json or .csv: instruction, response (or output); or messages. Ids are optional."""
    out: Annotated[Path, Parameter(("--out", "-o"))]
    """Folder of adapter and record."""
    lora: Annotated[Lora, Parameter("*")] = Lora()
    device: Device = None
    style: Style | None = None
    """Default: chat for rows of messages, else alpaca. It is saved with the adapter."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens of an example; a longer response is cut, and listed. Default: 512, or the model's
    context where that is shorter."""
    epochs: Epochs = 3
    max_steps: MaxSteps = None
    batch_size: Count = 8
    """Examples at a time."""
    gradient_accumulation: Count = 1
    """Batches in one step."""
    peak_learning_rate: PeakLearningRate = 2e-4
    warmup: Share = 0.03
    """Share of steps in which the learning rate rises; then it falls by a cosine to zero."""
    seed: Seed = 0
    """Of the adapter, the order and the dropout."""
    eval_data: Annotated[Path | None, Parameter("--eval")] = None
    """A file of pairs to evaluate on."""
    eval_share: Share | None = None
    """Without a file of them: the share of the data to evaluate on; 0: none. Default: 0.1."""
    cache_prefix: bool = False
    """Compute what enters the lowest adapted block once, keep it on disk, and drop the blocks
    below. The same losses, in less time and memory."""
    checkpoint_every: Count = 50
    """Steps between checkpoints."""
    n_examples: Annotated[int, Field(ge=0), Parameter("--examples")] = 4
    """Prompts to answer before and after."""

    @property
    def held_out_share(self) -> float:
        """The share of the data that is evaluated on, where no file is."""
        return DEFAULT_EVAL_SHARE if self.eval_share is None else self.eval_share

    def length_in(self, n_ctx: int) -> int:
        """Most tokens of an example, for a model with room for `n_ctx`."""
        return min(DEFAULT_LENGTH, n_ctx) if self.max_length is None else self.max_length

    def problems(self) -> list[Problem]:
        found = []
        if self.eval_data is not None and self.eval_share:
            what = "a file to evaluate on is given too"
            found.append(Problem("eval_share", what, "Leave out one of them."))
        device = self.device or ""
        index = device.partition(":")[2]
        if is_spread(device):
            what = "weights that learn, or that gradients go through, are on one device"
            found.append(Problem("device", what, "Name one: cpu or cuda."))
        elif index not in ("", "0"):
            remedy = f"Set CUDA_VISIBLE_DEVICES={index} and leave the option out."
            found.append(Problem("device", f"training takes no {self.device}", remedy))
        return found
