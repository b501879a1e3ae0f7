"""The choice of blocks: the stated rule, its uncertainty, and the file that training takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.compare.correlation.suggest import suggested
from lensbench.compare.layer_choice import block_means, choose, stable_from
from lensbench.quantized.adapters.lora import match
from lensbench.quantized.adapters.spec import Lora
from tests.harness.correlation_records import PLANTED, base, noisy, planted, write_trace
from tests.harness.tiny import TINY, random_model

Floats = NDArray[np.float64]


def test_layer_i_is_what_block_i_minus_one_puts_out() -> None:
    """Layers 5-7 changed, so blocks 4-6: the embedding, layer 0, is no block's output."""
    change = np.zeros(13)
    change[list(PLANTED)] = 1.0
    chosen = choose(change, None, 3)
    assert chosen is not None
    assert chosen.blocks == (4, 5, 6)
    assert chosen.mean_change == 1.0
    change[0] = 100.0
    again = choose(change, None, 3)
    assert again is not None
    assert again.blocks == (4, 5, 6)


def test_a_block_is_the_mean_of_its_outputs() -> None:
    change = np.array([9.0, 1, 2, 3, 4])
    np.testing.assert_allclose(block_means(change, 2), [1.5, 2.5, 3.5])
    np.testing.assert_allclose(block_means(change, 4), [2.5])


def test_of_equal_blocks_the_lowest() -> None:
    chosen = choose(np.ones(7), None, 2)
    assert chosen is not None
    assert chosen.blocks == (0, 1)
    assert chosen.runner_up == (1, 2)
    assert chosen.apart == (2, 3)


def test_all_blocks_have_no_runner_up() -> None:
    chosen = choose(np.ones(4), np.ones((5, 4)), 3)
    assert chosen is not None
    assert (chosen.runner_up, chosen.apart, chosen.again_share) == (None, None, 1.0)


def test_how_often_and_how_much_the_draws_agree() -> None:
    change = np.array([0.0, 0, 0, 5, 5, 0, 0])
    other = np.array([0.0, 0, 0, 0, 5, 5, 0])
    far = np.array([0.0, 5, 5, 0, 0, 0, 0])
    chosen = choose(change, np.stack([change, change, other, far]), 2)
    assert chosen is not None
    assert chosen.blocks == (2, 3)
    assert chosen.again_share == 0.5
    assert chosen.overlap_share == (1 + 1 + 0.5 + 0) / 4


def test_a_window_with_a_missing_layer_is_not_chosen() -> None:
    change = np.array([0.0, 5, np.nan, 1, 1])
    chosen = choose(change, None, 2)
    assert chosen is not None
    assert chosen.blocks == (2, 3)
    assert choose(np.full(5, np.nan), None, 2) is None


def test_the_curve_is_stable_where_it_is_shown_to_stay() -> None:
    rng = np.random.default_rng(0)
    curve = np.array([0.0, 0, 1, 2, 3, 3, 3, 3])
    narrow = curve + 0.01 * rng.normal(size=(500, 8))
    wide = curve + 1.0 * rng.normal(size=(500, 8))
    assert stable_from(curve, narrow, 40) == 4
    assert stable_from(curve, wide, 40) is None  # not refuted, but not shown either
    assert stable_from(curve, None, 0) is None
    rising = np.arange(8.0)
    assert stable_from(rising, rising + 0.01 * rng.normal(size=(500, 8)), 40) is None


def test_the_file_is_what_training_takes(tmp_path: Path) -> None:
    """From traces to the modules that `lensbench train --layers auto:FILE` adapts."""
    reference = base(n_layers=3)
    write_trace(tmp_path / "plain", reference)
    write_trace(tmp_path / "rag", planted(reference, 1, layers=(2, 3)))
    write_trace(tmp_path / "other", noisy(reference, 2))
    spec = CorrelationSpec(
        runs=(str(tmp_path / "plain"), str(tmp_path / "rag")),
        controls=(str(tmp_path / "other"),),
        out=tmp_path / "out",
        spans=("prompt",),
        measures=("cosine",),
        n_blocks=2,
        resamples=200,
    )
    path = suggested(correlate(spec).folder)["prompt", "rag"]
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["layers"] == [1, 2]
    assert written["record_layers"] == [2, 3]
    assert "2 of 2 layers" in written["why"]
    assert written["provenance"]["settings"]["inputs"]["rag"]["weights_sha256"] == "a" * 64
    matched = match(random_model(TINY["llama"]), Lora(blocks=f"auto:{path}"))
    assert matched.layers == (1, 2)
    assert {name.split(".")[2] for name in matched.modules} == {"1", "2"}


@pytest.mark.parametrize("n_blocks", [0, 13])
def test_more_blocks_than_there_are_cannot_be_suggested(tmp_path: Path, n_blocks: int) -> None:
    from lensbench.errors import InputProblems

    for name in ("a", "b"):
        write_trace(tmp_path / name, base())
    runs = (str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(InputProblems, match="Give 1 to 12" if n_blocks else "Give at least 1"):
        correlate(CorrelationSpec(runs, tmp_path / "out", n_blocks=n_blocks))
