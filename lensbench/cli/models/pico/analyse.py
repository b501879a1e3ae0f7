"""Look into every model that one training or several kept: from random weights to the last step.

Of each: what its heads do on random tokens that come several times (induction), the loss on those,
and how far the logit lens and a linear lens of that very step are from the model on held-out text.
Beside it models with weights drawn anew, as a band of what no training gives; and where the
training loss bends. Runs of several seeds stand side by side. Interrupt it and run it again: it
goes on.

Examples:

    lensbench pico analyse runs/pico -o runs/pico-analysis

    lensbench pico analyse runs/pico-0 runs/pico-1 -o runs/seeds

    lensbench pico analyse runs/pico/step-004000 -o runs/last
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import batch_progress, show_problems, show_reports
from lensbench.cli.options import Workers
from lensbench.pico.spec import AnalyseSpec


def analyse(spec: Annotated[AnalyseSpec, Parameter("*")], *, workers: Workers = None) -> int:
    from lensbench.pico.analyse import analyse_pico

    with batch_progress(workers) as progress:
        outcome = analyse_pico(spec, progress)
    show_problems(outcome.problems)
    show_reports([outcome.folder], outcome.folder)
    return 0 if outcome.ok else 1
