"""Thirds of the depth: what is planted in one is found there, and luck is found nowhere."""

from __future__ import annotations

import numpy as np
import pytest

from lensbench.attention.phenomena.depth import Third, best_of_each_block, in_thirds, third_of

N_BLOCKS, N_HEADS, N_SENTENCES = 9, 4, 60
BLOCKS = np.repeat(np.arange(N_BLOCKS), N_HEADS)


def world(seed: int, planted: Third | None) -> tuple[np.ndarray, list[str], list[str]]:
    """Right answers by chance (.3); in the planted third the second head is right in .8."""
    rng = np.random.default_rng(seed)
    names = [f"s{i // 2}" for i in range(2 * N_SENTENCES)]
    phenomena = ["subject-verb", "verb-object"] * N_SENTENCES
    right = rng.random((len(names), len(BLOCKS))) < 0.3
    for block in range(N_BLOCKS):
        if third_of(block, N_BLOCKS) == planted:
            right[:, N_HEADS * block + 1] = rng.random(len(names)) < 0.8
    return right, phenomena, names


def above(seed: int, planted: Third | None, claimed: Third) -> list[tuple[float, float, float]]:
    """What the claimed third has above each other, with intervals."""
    right, phenomena, names = world(seed, planted)
    rows, held_out = best_of_each_block(right, BLOCKS, phenomena, names) or (None, None)
    assert rows is not None and held_out is not None
    found = in_thirds(rows, claimed, [names[i] for i in held_out])
    assert found is not None
    assert claimed not in found.above
    ends = [(one.value, one.low, one.high) for one in found.above.values()]
    return [(value, low, high) for value, low, high in ends if value and low and high]


@pytest.mark.parametrize("planted", ["early", "middle", "deep"])
def test_a_planted_third_stands_above_both_others(planted: Third) -> None:
    found = above(0, planted, planted)
    assert len(found) == 2
    for value, low, _ in found:
        assert value == pytest.approx(0.5, abs=0.12)
        assert low > 0.25
    others: list[Third] = [one for one in ("early", "middle", "deep") if one != planted]
    assert all(min(high for *_, high in above(0, planted, other)) < 0 for other in others)


def test_by_chance_no_third_stands_out_more_often_than_intervals_say() -> None:
    outside, sure = 0, 0
    for seed in range(60):
        found = above(seed, None, "middle")
        outside += sum(not low <= 0 <= high for _, low, high in found)
        sure += all(low > 0 for _, low, _ in found)
    assert outside <= 14  # of 120, 6 expected
    assert sure <= 3  # above both: fewer than 1 in 40


def test_thirds_of_any_depth() -> None:
    assert [third_of(block, 6) for block in range(6)] == ["early"] * 2 + ["middle"] * 2 + [
        "deep"
    ] * 2
    assert [third_of(block, 4) for block in range(4)] == ["early", "middle", "middle", "deep"]
    assert third_of(0, 1) == "middle"


def test_means_of_thirds_by_hand() -> None:
    values = np.array([[0.0, 0.2, 0.4, 0.8, 0.1, 0.3], [0.2, 0.4, 0.6, 1.0, 0.3, 0.5]])
    found = in_thirds(values, "middle", ["a", "b"])
    assert found is not None
    assert found.means == pytest.approx({"early": 0.2, "middle": 0.7, "deep": 0.3})
    assert {third: one.value for third, one in found.above.items()} == pytest.approx(
        {"early": 0.5, "deep": 0.4}
    )


def test_what_cannot_be_parted_is_none() -> None:
    assert in_thirds(np.zeros((5, 2)), "early", list("abcde")) is None
    assert in_thirds(np.zeros((0, 6)), "early", []) is None
    assert best_of_each_block(np.ones((3, 4), bool), np.arange(4), ["x"] * 3, list("abc")) is None


def test_the_best_head_is_chosen_for_each_phenomenon_apart() -> None:
    """Head 0 finds subjects, head 1 objects: the block's best is right about both."""
    names = [f"s{i // 2}" for i in range(40)]
    phenomena = ["subject-verb", "verb-object"] * 20
    right = np.array([[i % 2 == 0, i % 2 == 1] for i in range(40)])
    rows, held_out = best_of_each_block(right, np.zeros(2, int), phenomena, names) or ([], [])
    assert len(held_out) == 20
    assert np.all(rows == 1.0)
