"""What is asked, how tokens are chosen, and where the answers go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field

from lensbench.errors import Problem
from lensbench.prompts.sets import prompt_file
from lensbench.quantized.spec import RagSpec
from lensbench.quantized.style import Style
from lensbench.spec import ARGUMENT, Count, Devices, Numbers, Positive, Seed, Spec, idle

Control = Literal["irrelevant", "shuffled"]
AtLeastZero = Annotated[float, Field(ge=0)]


class Decoding(Spec):
    """How tokens are chosen. At temperature 0 top_p, top_k and seed are idle."""

    max_new_tokens: Count = 200
    """Length of a response at most."""
    temperature: AtLeastZero = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass: sample from the likeliest tokens that hold this much probability."""
    top_k: Annotated[int, Field(ge=0), Parameter("--sample-top-k")] = 0
    """Sample from so many best tokens; 0: all. (--top-k is --rag's.)"""
    repetition_penalty: Positive = 1.0
    """Above 1: tokens that stood before become less likely."""
    seed: int = 0
    """Of sampling; with the row's id it decides the row's chance."""

    @property
    def sampled(self) -> bool:
        """Whether chance takes part."""
        return self.temperature > 0


class InferenceSpec(RagSpec):
    """What is asked, how, and where the answers go."""

    prompts: Annotated[Path, ARGUMENT]
    """A shipped set (general, python), or a .csv, .jsonl or .json: id, prompt."""
    out: Annotated[Path, Parameter(("--out", "-o"))]
    """The CSV of responses; its record goes beside it."""
    decoding: Annotated[Decoding, Parameter("*")] = Decoding()
    style: Style | None = None
    """Default: the adapter's own; without one, chat if there is a template, else none."""
    batch_size: Count | None = None
    """Prompts at a time. Default: by the memory that is free."""
    pause_s: Annotated[AtLeastZero, Parameter("--pause")] = 0.0
    """Seconds to cool down between batches, for small GPUs."""
    trace: Path | None = None
    """Also record mean activations per prompt and layer, in this folder."""
    trace_layers: Numbers = ()
    """With a trace: keep all of these layers, as in 15-20 or 0,3,15-20."""
    control: Control | None = None
    """With an index: put other text in place of what was retrieved, as long in tokens or, where
    tokens merge, a few shorter. shuffled: what other prompts retrieved; irrelevant: general
    questions and answers."""
    rebatch: Seed | None = None
    """A seed: the same prompts with other neighbours in their batches."""
    limit: Count | None = None
    """Only the first so many prompts. Raised later, the rest is asked and what is there stays."""
    device: Devices = None

    @property
    def file(self) -> Path:
        """The file of the prompts. Raises InputProblems: no such file, nor a shipped set."""
        return prompt_file(self.prompts)

    @property
    def folder(self) -> Path:
        """Where the record is: `trace`, or `<stem>.records` beside the CSV."""
        return self.trace or self.out.with_name(f"{self.out.stem}.records")

    def problems(self) -> list[Problem]:
        return (
            super().problems() + idle(self, "rag", "control") + idle(self, "trace", "trace_layers")
        )
