"""What an adapter's update is: its size, its effective rank, and how two differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import ModelError
from lensbench.quantized.adapters.lora import match
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.adapters.update import (
    Update,
    base_of,
    diff,
    effective_rank,
    inner,
    read_updates,
    show,
    totals,
)
from tests.harness.adapters import LORA, change_config, change_weights, cut_one, make_adapter, widen
from tests.harness.tiny import Case


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4.0),
        ([5.0, 0.0, 0.0], 1.0),
        ([3.0, 3.0, 0.0], 2.0),
        ([2.0, 1.0], 3 / 2 ** (2 / 3)),  # exp(-2/3 ln 2/3 - 1/3 ln 1/3)
        ([7.0], 1.0),
    ],
)
def test_the_effective_rank_of_known_spectra(spectrum: list[float], expected: float) -> None:
    assert effective_rank(torch.tensor(spectrum, dtype=torch.float64)) == pytest.approx(expected)


def test_an_update_of_zeros_has_no_effective_rank() -> None:
    assert effective_rank(torch.zeros(4)) is None


def update(seed: int, out: int, rank: int, into: int, scale: float) -> Update:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(out, rank, generator=generator, dtype=torch.float64)
    down = torch.randn(rank, into, generator=generator, dtype=torch.float64)
    return Update("model.layers.3.x", up, down, scale)


def full(one: Update) -> torch.Tensor:
    return one.scale * one.up @ one.down


@given(
    st.integers(0, 99), st.integers(1, 9), st.integers(1, 6), st.integers(1, 9), st.floats(0.1, 9)
)
def test_small_factors_say_what_the_full_matrix_says(
    seed: int, out: int, rank: int, into: int, scale: float
) -> None:
    """Also where the rank exceeds the matrix."""
    one, other = update(seed, out, rank, into, scale), update(seed + 100, out, 2, into, 0.7)
    values = torch.linalg.svdvals(full(one))
    got = one.singular_values()
    got = torch.cat([got, got.new_zeros(max(0, len(values) - len(got)))])
    torch.testing.assert_close(got[: len(values)], values)
    assert float(got[len(values) :].sum()) == pytest.approx(0, abs=1e-9)
    assert one.norm() == pytest.approx(float(full(one).norm()))
    assert inner(one, other) == pytest.approx(float((full(one) * full(other)).sum()))


def test_rows_are_what_pefts_own_delta_says(family: Case, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = make_adapter(family, tmp_path / "a")
    base = base_of(str(family.folder), folder)
    rows = show(read_updates(folder), base)
    peft = PeftModel.from_pretrained(family.fresh_hf(), folder)
    assert len(rows) == 2 * len(match(family.hf, LORA).targets)
    for row in rows:
        layer = peft.base_model.model.get_submodule(row["module"])
        delta = layer.get_delta_weight("default").detach().double()
        values = torch.linalg.svdvals(delta)
        assert row["norm"] == pytest.approx(float(delta.norm()), rel=1e-5)
        weight = layer.base_layer.weight.detach().double()
        assert row["norm_relative"] == pytest.approx(float(delta.norm() / weight.norm()), rel=1e-5)
        shares = values / values.sum()
        entropy = -float((shares * shares.clamp_min(1e-30).log()).sum())
        assert row["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-4)
        assert row["block"] == int(row["module"].split(".")[2])


def test_a_rank_stabilised_scale_and_alphas_by_module_count(llama: Case, copy: Path) -> None:
    from peft import PeftModel

    change_config(copy, use_rslora=True, alpha_pattern={"q_proj": 40})
    updates = read_updates(copy)
    peft = PeftModel.from_pretrained(llama.fresh_hf(), copy)
    for name, one in updates.items():
        layer = peft.base_model.model.get_submodule(name)
        delta = layer.get_delta_weight("default").detach().double()
        torch.testing.assert_close(full(one), delta, rtol=1e-5, atol=1e-6)
    scales = {name.rpartition(".")[2]: one.scale for name, one in updates.items()}
    assert scales["q_proj"] == 40 / 2
    assert scales["k_proj"] == 6 / 2


def test_blocks_add_up_in_squares() -> None:
    rows = [{"block": 1, "norm": 3.0}, {"block": 1, "norm": 4.0}, {"block": 2, "norm": 2.0}]
    assert list(totals(rows)) == [{"block": 1, "norm": 5.0}, {"block": 2, "norm": 2.0}]


def test_the_difference_of_two_adapters_is_that_of_the_full_matrices(
    llama: Case, adapter: Path, tmp_path: Path
) -> None:
    lora = Lora(blocks="2", targets="q,k,v,o,up", rank=2)
    a, b = (
        read_updates(adapter),
        read_updates(make_adapter(llama, tmp_path / "b", seed=7, lora=lora)),
    )
    rows = {row["module"]: row for row in diff(a, b)}
    assert list(rows) == sorted({*a, *b}, key=lambda name: name.split(".")[2:])
    for name, row in rows.items():
        one = full(a[name]) if name in a else torch.zeros_like(full(b[name]))
        other = full(b[name]) if name in b else torch.zeros_like(one)
        assert row["norm_difference"] == pytest.approx(float((one - other).norm()))
        if name in a and name in b:
            cosine = torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)
            assert row["cosine"] == pytest.approx(float(cosine))
            assert row["in"] == "both"
        else:
            assert row["cosine"] is None
            assert row["in"] == ("first" if name in a else "second")
    same = diff(a, a)
    assert max(row["norm_difference"] for row in same) < 1e-6
    assert min(row["cosine"] for row in same) == pytest.approx(1.0)


def test_adapters_of_other_shapes_have_no_difference(
    llama: Case, adapter: Path, copy: Path
) -> None:
    change_weights(copy, widen)
    with pytest.raises(ModelError, match="other shapes"):
        diff(read_updates(adapter), read_updates(copy))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: change_config(folder, use_dora=True),
        lambda folder: change_weights(folder, cut_one),
        lambda folder: change_weights(folder, lambda w: w.update(bias=torch.zeros(3))),
    ],
)
def test_what_is_no_product_of_two_factors_is_refused(spoil: Any, copy: Path) -> None:
    spoil(copy)
    with pytest.raises(ModelError, match="no plain LoRA adapter"):
        read_updates(copy)


def test_norms_are_relative_to_the_own_base_only(gpt2: Case, adapter: Path) -> None:
    with pytest.raises(ModelError, match="trained on other weights"):
        base_of(str(gpt2.folder), adapter)
