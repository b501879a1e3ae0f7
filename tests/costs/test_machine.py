"""The short measurement: its threads are those of the run, and how it varied is in the range."""

from __future__ import annotations

import pytest
import torch

from lensbench.costs import machine
from lensbench.costs.cost import Cost
from lensbench.costs.machine import Speed, speed
from lensbench.threads import threads


def test_the_range_holds_what_the_measurement_varied_by() -> None:
    own = Speed(8, 1, 100.0, 10.0, noise=(0.8, 2.0), wall_s=0.1, slower=(1.0, 2.5))
    bare = 300 / 100 + 2 * 40 / 10  # operations, and two passes that read 40 bytes of weights
    assert own.seconds(Cost(flops=300, n_passes=2), 40) == pytest.approx((0.8 * bare, 5.0 * bare))


def test_one_round_in_five_that_takes_longer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.0, 1.0, 1.0, 6.0, *[1.0] * 5])
    monkeypatch.setattr(machine, "_round", lambda *_: next(times))
    found = machine._speed.__wrapped__(8, torch.float32, "cpu", 1, 1)
    assert found.noise == (0.5, 3.0)
    assert found.flops_per_s == 8 * 512 * 8**2 / 2.0


def test_the_machine_is_measured_anew_with_other_threads() -> None:
    found = []
    for n in (1, 2):
        with threads(n):
            found.append(speed(16, torch.float32, "cpu"))
    assert [one.n_threads for one in found] == [1, 2]
    assert all(0 < one.noise[0] <= 1 <= one.noise[1] for one in found)
