"""Studies: analyses of any kind but the lens, each run by the function for its spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lensbench.progress import Notify, Watch
from lensbench.records.engine import Outcome
from lensbench.studies.adapter import run_adapter_study
from lensbench.studies.correlation import run_correlation_study
from lensbench.studies.diff import run_diff_study
from lensbench.studies.placement import run_placement_study
from lensbench.studies.specs.adapter import AdapterSpec
from lensbench.studies.specs.correlation import CorrelationStudySpec
from lensbench.studies.specs.diff import DiffStudySpec
from lensbench.studies.specs.placement import PlacementSpec

StudySpec = AdapterSpec | CorrelationStudySpec | DiffStudySpec | PlacementSpec

# To add a kind: its spec, a function like these, and a line here and in `analysis.KINDS`.
_RUNNERS: dict[type[StudySpec], Callable[..., Outcome]] = {
    AdapterSpec: run_adapter_study,
    CorrelationStudySpec: run_correlation_study,
    DiffStudySpec: run_diff_study,
    PlacementSpec: run_placement_study,
}


def run_study(spec: Any, out: Path, progress: Watch, notify: Notify) -> Outcome:
    """Run a study into `out`, or go on with it. Raises what its stages raise."""
    return _RUNNERS[type(spec)](spec, out, progress, notify)
