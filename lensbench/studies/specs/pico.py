"""What a study of small models trains and measures, from an `analysis.toml`."""

from __future__ import annotations

from lensbench.pico.spec import LineageSizes, Pretraining
from lensbench.spec import Count


class PicoStudySpec(LineageSizes, Pretraining):
    """A small model trained from several seeds, and every step of it measured."""

    seeds: Count = 3
    """Trainings, of the seeds 0, 1, ..."""
