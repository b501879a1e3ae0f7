"""Train a small language model from random weights, and keep it at many steps.

The folder gets a record with the loss at every step, and the whole model at step 0, at the last
one and at steps between, evenly in log2: step-000000, step-000002, ... Each is a folder that every
verb reads as a model. Interrupt it at any time and run it again: it goes on from the last
checkpoint, with the losses that an undisturbed run has. Several seeds are trained one after
another, each into a folder of its own, or by workers at once: with --threads 1 on the two cores of
a small machine. One that fails is reported and the others go on (exit status 1).

Examples:

    lensbench pico train -o runs/pico

    lensbench pico train -o runs/seeds --seed 0-2

    lensbench pico train -o runs/seeds --seed 0-2 --workers 2 --threads 1

    lensbench pico train -o runs/mine --preset small --corpus texts/

    lensbench lens runs/pico/step-004000 "Return the number of"
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import batch_progress, failure, note, say, show_problems
from lensbench.cli.options import Workers
from lensbench.pico.spec import SeedsSpec


def train(spec: Annotated[SeedsSpec, Parameter("*")], *, workers: Workers = None) -> int:
    from lensbench.pico.seeds import train_seeds

    with batch_progress(workers) as progress:
        trained = train_seeds(spec, progress, note)
    show_problems(trained.problems)
    for name, error in trained.failed.items():
        failure(f"{name}: {error}")
    for folder in trained.folders:
        say(folder)
    return 0 if trained.ok else 1
