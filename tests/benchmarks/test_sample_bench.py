"""The bench of sampling: both ways measure the same entropies."""

from __future__ import annotations

import pytest

from tests.benchmarks import sample as bench
from tests.harness.tiny import Case


@pytest.mark.slow
def test_both_ways_give_the_same_entropies(llama: Case) -> None:
    grid = bench.Grid(llama.folder, 24)
    assert len(grid.ids) == 24
    assert bench.lensbench(grid)() == pytest.approx(bench.plain(grid)(), abs=1e-4)
    assert bench.floor(grid)().shape == (384,)  # type: ignore[attr-defined]
