"""The bench of fits: its arithmetic against torch's own count, its stages and its sums."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from lensbench.checkpoints.open import count_parameters
from lensbench.fitting.moments import Moments
from lensbench.fitting.spec import FitSpec
from lensbench.progress import Progress
from tests.benchmarks import fit as bench
from tests.harness.tiny import Case

CONFIGS = {"smollm2-135m": "smollm2-135m.json", "Llama-3-8B": "llama3-8b.json"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shape_is_that_of_the_models_config(name: str) -> None:
    (shape,) = [one for one in bench.SHAPES if one.name == name]
    fields = json.loads((Path(__file__).parents[1] / "configs" / CONFIGS[name]).read_text())
    config = AutoConfig.for_model(**fields)
    assert shape.n_params == count_parameters(config)
    assert (shape.n_layers, shape.d_model) == (config.num_hidden_layers, config.hidden_size)
    assert (shape.d_vocab, shape.tied) == (config.vocab_size, config.tie_word_embeddings)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_pass_has_the_operations_that_torch_counts(
    tiny_case: Callable[[str], Case], family: str
) -> None:
    model = tiny_case(family).hf
    config, n_params = model.config, sum(p.numel() for p in model.parameters())
    shape = bench.Shape(
        family,
        n_params,
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
        config.tie_word_embeddings,
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.tensor([[5, 6, 7, 8]]))
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    assert 4 * (shape.body + shape.head) == pytest.approx(products, rel=0.03)


def test_moments_have_the_operations_that_torch_counts() -> None:
    shape, n = bench.Shape("", 0, 3, 8, 40, tied=True), 50
    moments, states = Moments.none(3, 8), torch.randn(4, n, 8)
    with FlopCounterMode(display=False) as counter:
        moments.add(states[:-1], states[-1], torch.randperm(n))
    told = shape.stages(FitSpec("", tokens=n))["their moments"]
    # `addmm_` in place is not counted: strips of 2 rows of x'x, each from its diagonal on.
    strips = 3 * n * 2 * (2 * 8 + 2 * 6 + 2 * 4 + 2 * 2)
    assert told == counter.get_total_flops() + 2 * strips  # these in float64
    held = sum(t.numel() for t in vars(moments).values() if t.dim() == 3)
    assert shape.moments_bytes == 8 * held


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
