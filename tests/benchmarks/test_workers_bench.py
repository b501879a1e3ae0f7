"""The workers' bench: its clock against cases worked out by hand, what it says of the promise."""

from __future__ import annotations

import pytest

from tests.benchmarks.cluster_clock import Cluster, simulated
from tests.benchmarks.worked import Took
from tests.benchmarks.workers import _more, promise


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


@pytest.mark.parametrize(
    ("one_s", "worker_s", "said"),
    [
        (60.0, 66.0, "worker: it holds."),
        (60.0, 67.0, "it does not hold"),
        (59.0, 300.0, "this one took 59 s, and says nothing of it."),
    ],
)
def test_the_promise_is_held_to_runs_that_it_is_given_of(
    one_s: float, worker_s: float, said: str
) -> None:
    def of(wall_s: float) -> list[Took]:
        return [Took(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, wall_s=wall_s)]

    assert said in promise({"one process": of(one_s), "1 worker": of(worker_s)})


def test_what_a_run_takes_once_is_not_counted_for_every_prompt() -> None:
    """A stage of 5 s and .01 s a prompt."""

    def of(n_prompts: int) -> Took:
        own = {"tables_s": 5 + 0.01 * n_prompts, "n_prompts": n_prompts}
        return Took(0.0, 0.0, 0.0, 0.0, 0.0, end_s=0.0, **own)  # type: ignore[arg-type]

    assert _more([of(100), of(300)], "tables_s") == pytest.approx(0.01)
