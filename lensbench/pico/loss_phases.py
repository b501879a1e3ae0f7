"""The phases of a training loss, as rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensbench.errors import InputProblems, Problem
from lensbench.pico.runs import Run
from lensbench.stats.phases import fewest, phases

_PER_DOUBLING = 5  # bins each time the steps double


def binned(log: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Mean log2(step) and mean training loss (nats) of bins that are even in log2 of the step.

    The steps of a bin have batches of their own, so that the noise of bins is independent.
    """
    steps = log.dropna(subset=["loss_nats"])
    places = np.log2(steps["step"].to_numpy())
    number = np.floor(places * _PER_DOUBLING + 1e-9).astype(int)
    groups = pd.DataFrame({"x": places, "y": steps["loss_nats"].to_numpy()}).groupby(number)
    means = groups.mean()
    return means["x"].to_numpy(), means["y"].to_numpy()


def phase_rows(run: Run) -> list[dict[str, Any]]:
    """One row per phase of a run's training loss.

    Raises InputProblems for a run of too few steps.
    """
    x, y = binned(run.record.table("training"))
    if len(x) < fewest():
        what = f"its loss has {len(x)} bins, too few to look for phases"
        raise InputProblems([Problem(run.name, what, "Train it for 30 steps or more.")])
    found = phases(x, y, seed=run.seed)
    starts = [(2.0 ** float(x[0]), None, None)]
    for bend in found.bends:
        assert bend.value is not None and bend.low is not None and bend.high is not None
        starts.append((2.0**bend.value, 2.0**bend.low, 2.0**bend.high))
    return [
        {
            "run": run.name,
            "phase": number,
            "from_step": start,
            "from_step_low": low,
            "from_step_high": high,
            "slope": slope.value,
            "slope_low": slope.low,
            "slope_high": slope.high,
            "explained": found.explained,
            "n_bins": len(x),
        }
        for number, ((start, low, high), slope) in enumerate(
            zip(starts, found.slopes, strict=True), 1
        )
    ]
