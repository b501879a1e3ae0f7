"""A model made by hand: its four heads get their names, from reading to table."""

from __future__ import annotations

import numpy as np
import pytest

from lensbench.attention.compared.names import names_table
from lensbench.attention.result import AttentionResult, read_heads
from lensbench.attention.settings import AttentionSettings
from tests.harness.planted import BOS, CURRENT, FIRST, INDUCTION, N_TOKENS, PREVIOUS, planted

CONDITIONS = ("text", "random", "shuffled", "repeated", "repeated_random", "repeated_shuffled")


@pytest.fixture(scope="module")
def read() -> AttentionResult:
    """Prompts in which nothing stands twice, and random tokens that repeat themselves."""
    rng = np.random.default_rng(0)
    prompts = [[BOS, *(1 + rng.permutation(N_TOKENS - 1)).tolist()] for _ in range(16)]
    settings = AttentionSettings(
        CONDITIONS, ("plain",), n_repeated=16, repeat_tokens=9, batch_tokens=4096
    )
    return read_heads(planted(), prompts, settings)


def test_planted_heads_have_their_names(read: AttentionResult) -> None:
    rows = names_table("planted", read.to_pandas(), {}).to_pylist()
    names = {(row["block"], row["head"]): row for row in rows}
    assert {place: row["name"] for place, row in names.items()} == {
        PREVIOUS: "previous token",
        CURRENT: "current token",
        INDUCTION: "induction",
        FIRST: "first token",
    }
    assert all(row["stability"] == 1.0 for row in rows)
    assert all(row["value"] > 0.9 for row in rows)
    assert all(row["q_value"] < 0.01 for row in rows)
    # Chance, of a head that is as sharp: one key in so many.
    n = N_TOKENS
    chance = np.mean([1 / keys for keys in range(3, n + 1)])
    assert names[PREVIOUS]["null"] == "random"
    assert names[PREVIOUS]["null_low"] < chance < names[PREVIOUS]["null_high"]


def test_random_attention_keeps_entropies_and_loses_places(read: AttentionResult) -> None:
    frame = read.to_pandas()
    own, null = (frame[frame["condition"] == name] for name in ("text", "random"))
    assert own["entropy_share"].to_numpy() == pytest.approx(null["entropy_share"], abs=1e-6)
    place = (own["block"] == PREVIOUS[0]) & (own["head"] == PREVIOUS[1])
    assert own[place.to_numpy()]["previous_token"].min() > 0.9
    assert null[place.to_numpy()]["previous_token"].max() < 0.5


def test_induction_is_of_what_stands_where_in_repeats(read: AttentionResult) -> None:
    frame = read.to_pandas()
    frame = frame[(frame["block"] == INDUCTION[0]) & (frame["head"] == INDUCTION[1])]
    means = frame.groupby("condition")["prefix_matching"].mean()
    assert means["repeated"] > 0.9
    assert means["repeated_random"] < 0.3
    assert means["repeated_shuffled"] > 0.5  # it goes on to look for what followed before


def test_without_nulls_there_are_no_names(read: AttentionResult) -> None:
    frame = read.to_pandas()
    found = names_table("planted", frame[frame["condition"].isin(["text", "repeated"])], {})
    assert found.num_rows == 0
