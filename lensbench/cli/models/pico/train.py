"""Train a small language model from random weights, and keep it at many steps.

The folder gets a record with the loss at every step, and the whole model at step 0, at the last
one and at steps between, evenly in log2: step-000000, step-000002, ... Each is a folder that every
verb reads as a model. Interrupt it at any time and run it again: it goes on from the last
checkpoint, with the losses that an undisturbed run has.

Examples:

    lensbench pico train -o runs/pico

    lensbench pico train -o runs/pico-1 --seed 1

    lensbench pico train -o runs/mine --preset small --corpus texts/

    lensbench lens runs/pico/step-004000 "Return the number of"
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import batch_progress, note, say, show_problems
from lensbench.pico.spec import PicoSpec


def train(spec: Annotated[PicoSpec, Parameter("*")]) -> int:
    from lensbench.pico.train import train_pico

    with batch_progress() as progress:
        trained = train_pico(spec, progress, note)
    show_problems(trained.problems)
    say(trained.folder)
    return 0 if trained.ok else 1
