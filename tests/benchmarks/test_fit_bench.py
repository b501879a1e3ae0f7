"""The bench of fits: its stages and its sums. Its arithmetic: tests/fitting/test_cost.py."""

from __future__ import annotations

import pytest

from lensbench.fitting.spec import FitSpec
from lensbench.progress import Progress
from tests.benchmarks import fit as bench


def test_the_counted_models_have_their_published_sizes() -> None:
    """Parameters by the shape that is counted: blocks, norms aside, and the embedding."""
    sizes = {
        "smollm2-135m": 134_515_008,
        "Llama-3.2-1B": 1_235_814_400,
        "Llama-3-8B": 8_030_261_248,
    }
    for one in bench.shapes(FitSpec("")):
        shape, tied = one.fit.shape, one.name != "Llama-3-8B"
        counted = shape.block_weights + shape.d_model * shape.d_vocab * (1 if tied else 2)
        assert counted == pytest.approx(sizes[one.name], rel=1e-3), one.name


def test_a_stage_ends_where_the_next_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 8.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    stages = bench.Stages()
    for name in ("a", "a", "b", "a"):
        stages(Progress(name, 1))
    stages.end()
    assert stages.seconds == {"a": 3.0, "b": 4.0}


def test_the_columns_add_up_with_the_control_and_without() -> None:
    assert bench.column({"x": 1.25, bench.CONTROL: 2.0}) == {
        "x": "1.25",
        bench.CONTROL: "2.00",
        "**all but that control**": "**1.25**",
        "**all**": "**3.25**",
    }
