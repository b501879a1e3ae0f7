"""Train a LoRA adapter on instruction pairs, and write its record and report.

The loss counts the response's tokens only, its end token included. Interrupt it at any time and run
it again: it goes on from the last checkpoint, with the losses that an undisturbed run has. A row
that cannot be used is reported and the rest goes on (exit status 1).

Examples:

    lensbench train smollm2-135m pairs.jsonl -o runs/adapter

    lensbench train tinyllama pairs.jsonl -o runs/upper --blocks 15-20 \
        --cache-prefix

    lensbench train smollm2-135m pairs.jsonl -o runs/qv --targets q,v --rank 4 \
        --bits 32
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import (
    batch_progress,
    note,
    say,
    show_problems,
    show_reports,
)
from lensbench.quantized.training.spec import TrainSpec


def train(spec: Annotated[TrainSpec, Parameter("*")]) -> int:
    from lensbench.quantized.training.train import train as learn

    with batch_progress() as progress:
        trained = learn(spec, progress, note)
    show_problems(trained.problems)
    say(trained.folder)
    show_reports([trained.folder])
    return 0 if trained.ok else 1
