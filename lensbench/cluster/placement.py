"""How many workers there may be, and what of a machine each of them is given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lensbench.checkpoints.families import weight_bytes

BESIDE_BYTES = 1 << 30  # what a worker takes beside the weights: libraries, a batch


def bytes_needed(models: Iterable[Mapping[str, Any]]) -> int:
    """Memory of one worker that holds models of these facts."""
    return BESIDE_BYTES + sum(map(_bytes_of, models))


def _bytes_of(facts: Mapping[str, Any]) -> int:
    return int(facts.get("weight_bytes") or weight_bytes(facts["n_params"], facts["dtype"]))


def n_fitting(free_bytes: int, needed: int) -> int:
    """Workers for which there is memory."""
    return free_bytes // needed


def default_workers(resources: Mapping[str, float], threads: int) -> int:
    """On a cluster: one for each GPU, or without any for as many cores as a worker has threads."""
    gpus = int(resources.get("GPU", 0))
    return gpus or max(1, int(resources.get("CPU", 1)) // threads)


def share(resources: Mapping[str, float], n: int) -> dict[str, Any]:
    """What Ray reserves for each of `n` workers: with fewer cores or GPUs than workers, a share.

    A whole core each would let those wait forever that find none free.
    """
    cpus, gpus = resources.get("CPU", 1.0), resources.get("GPU", 0.0)
    own: dict[str, Any] = {"num_cpus": _part(cpus, n), "scheduling_strategy": "SPREAD"}
    return own | ({"num_gpus": _part(gpus, n)} if gpus else {})


def _part(there: float, n: int) -> float:
    """One, or a share that `n` fit of into what is there; Ray counts ten-thousandths."""
    return 1.0 if n <= there else math.floor(there / n * 1e4) / 1e4
