"""The simulated clock of the workers' bench, against cases that can be worked out by hand."""

from __future__ import annotations

import pytest

from tests.benchmarks.cluster_clock import Cluster, simulated


def test_one_worker_takes_the_sum_of_everything() -> None:
    spent = simulated(Cluster(1, 2, 10, 3.0, 5.0, 7.0, 11.0, 0.5))
    assert spent.wall_s == pytest.approx(2 * (7 + 5 + 10 * 3.5 + 11))
    assert spent.working == pytest.approx(2 * 30 / spent.wall_s)
    assert spent.driver == pytest.approx(2 * 5 / spent.wall_s)


def test_jobs_are_shared_evenly_where_the_driver_costs_nothing() -> None:
    spent = simulated(Cluster(4, 1, 9, 2.0, 1.0, 0.0, 0.0, 0.0))
    assert spent.wall_s == pytest.approx(1 + 3 * 2)  # 9 jobs by 4: three rounds


def test_a_driver_that_is_slower_than_its_workers_sets_the_pace() -> None:
    spent = simulated(Cluster(64, 1, 1000, 0.1, 0.0, 0.0, 0.0, 1.0))
    assert spent.wall_s == pytest.approx(1000 + 0.1)
    assert spent.driver == pytest.approx(1.0, abs=1e-3)
