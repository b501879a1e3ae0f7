"""Names against nulls: as often wrong as they say, planted heads found, hand-worked cases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from lensbench.stats.naming.claims import CLAIMS, Claim
from lensbench.stats.naming.names import (
    LEAST_EXCESS,
    LEVEL,
    MOST_SIGNS,
    Name,
    ceiling,
    excess,
    least_together,
    n_signs,
    named,
    paired_p_values,
    weigh_claims,
)
from lensbench.stats.significance import sign_flips

DRAWS = 200
# With a true rate of 5 %, more false findings than this in 200 draws come once in a thousand times.
MOST_FALSE = int(stats.binom.ppf(0.999, DRAWS, LEVEL))
PREVIOUS, CURRENT = Claim("previous", "previous"), Claim("current", "current")
LOCAL = Claim("local", "local", narrower=("previous",))
N_TOKENS = 7

Patterns = np.ndarray  # [prompt, head, query, key]


def looking_at_random(rng: np.random.Generator, n_prompts: int, n_heads: int) -> Patterns:
    """Sharp rows whose keys are drawn by lot."""
    found = np.zeros((n_prompts, n_heads, N_TOKENS, N_TOKENS))
    for query in range(N_TOKENS):
        size = (n_prompts, n_heads)
        found[:, :, query, : query + 1] = rng.dirichlet(np.full(query + 1, 0.2), size)
    return found


def dealt_again(rng: np.random.Generator, patterns: Patterns) -> Patterns:
    """The same permutation of a query's keys for every head of a prompt."""
    found = patterns.copy()
    for prompt in found:
        for query in range(N_TOKENS):
            keys = rng.permutation(query + 1)
            prompt[:, query, : query + 1] = prompt[:, query, keys]
    return found


def scored(patterns: Patterns) -> dict[str, np.ndarray]:
    """[prompt, head] of each score, written out."""
    before = np.mean([patterns[..., i, i - 1] for i in range(1, N_TOKENS)], axis=0)
    self_ = np.mean([patterns[..., i, i] for i in range(1, N_TOKENS)], axis=0)
    near = [patterns[..., i, max(0, i - 3) : i].sum(-1) for i in range(1, N_TOKENS)]
    return {"previous": before, "current": self_, "local": np.mean(near, axis=0)}


def experiment(
    rng: np.random.Generator, n_prompts: int, n_heads: int, planted: Mapping[int, int] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Three conditions; `planted` heads look at the token so many before."""
    own = looking_at_random(rng, n_prompts, n_heads)
    for head, back in (planted or {}).items():
        for query in range(back, N_TOKENS):
            own[:, head, query] *= 0.3
            own[:, head, query, query - back] += 0.7
    untrained = scored(looking_at_random(rng, n_prompts, n_heads))
    return {
        "text": scored(own),
        "random": scored(dealt_again(rng, own)),
        "untrained": untrained,
    }


@pytest.mark.parametrize(
    "nulls", [("random",), pytest.param(("random", "untrained"), marks=pytest.mark.slow)]
)
def test_heads_that_look_at_random_are_named_no_more_often_than_stated(
    nulls: tuple[str, ...],
) -> None:
    """With no bound on how much it must be: the level alone holds."""
    claims = [Claim("previous", "previous", nulls=nulls), Claim("current", "current", nulls=nulls)]
    rng, any_named, singles = np.random.default_rng(0), 0, []
    for _ in range(DRAWS):
        found = weigh_claims(claims, experiment(rng, 10, 5))
        any_named += any(one.holds(-np.inf).any() for one in found)
        singles += [one.p[0] <= LEVEL for one in found]
    assert any_named <= MOST_FALSE
    assert sum(singles) <= stats.binom.ppf(0.999, 2 * DRAWS, LEVEL)
    if nulls == ("random",):  # and no test that never finds anything
        assert sum(singles) >= stats.binom.ppf(0.001, 2 * DRAWS, LEVEL)


def test_planted_heads_are_found_and_nothing_else() -> None:
    measured = experiment(np.random.default_rng(1), 30, 20, {3: 1, 8: 0, 11: 1})
    names = named(weigh_claims([PREVIOUS, CURRENT, LOCAL], measured))
    texts = {head: name.text for head, name in enumerate(names) if name.text != "undecided"}
    assert texts == {3: "previous", 8: "current", 11: "previous"}
    assert all(names[head].stability == 1.0 for head in range(20))


def test_a_head_that_does_two_things_is_mixed_and_a_near_one_is_unstable() -> None:
    rng = np.random.default_rng(2)
    measured = experiment(rng, 30, 4)
    for score in ("previous", "current"):
        measured["text"][score][:, 0] = 0.48 + 0.02 * rng.random(30)
    edge = LEAST_EXCESS + (1 - LEAST_EXCESS) * measured["random"]["previous"][:, 1].mean()
    measured["text"]["previous"][:, 1] = edge + 0.1 * rng.standard_normal(30)
    mixed, near, *_ = named(weigh_claims([PREVIOUS, CURRENT], measured), 0.2)
    assert mixed.text == "mixed"
    assert mixed.names == ("previous", "current")
    near = named(weigh_claims([PREVIOUS, CURRENT], measured))[1]
    assert 0.1 < near.stability < 0.9


def test_a_narrower_name_stands_for_the_wider_one() -> None:
    measured = experiment(np.random.default_rng(3), 30, 3, {0: 1, 1: 2})
    names = named(weigh_claims([PREVIOUS, LOCAL], measured))
    assert [name.names for name in names] == [("previous",), ("local",), ()]


def test_p_values_are_those_of_an_exact_permutation_test() -> None:
    rng = np.random.default_rng(4)
    own, null = rng.random((7, 3)), rng.random((7, 3))
    found = paired_p_values(own, null, sign_flips(7, 1000, 0), np.arange(7))
    for head in range(3):
        exact = stats.permutation_test(
            (own[:, head], null[:, head]),
            lambda a, b: np.mean(a - b),
            permutation_type="samples",
            alternative="greater",
            n_resamples=np.inf,
        )
        assert found[head] == pytest.approx(exact.pvalue)


def test_a_name_must_beat_every_null_and_the_interval_is_of_the_highest() -> None:
    rng = np.random.default_rng(5)
    measured = experiment(rng, 30, 2, {0: 1})
    measured["untrained"]["previous"][:, 1] = 0.95 + 0.01 * rng.random(30)  # as good untrained
    (found,) = weigh_claims([PREVIOUS], measured)
    assert found.null_name == ["untrained", "untrained"]
    assert found.null[0] == pytest.approx(measured["untrained"]["previous"][:, 1].mean())
    assert found.null_low[0] < found.null[0] < found.null_high[0]
    assert found.p[0] > 0.5
    assert named([found])[0].text == "undecided"


def test_what_was_not_measured_is_not_claimed() -> None:
    measured = experiment(np.random.default_rng(6), 8, 2)
    assert weigh_claims([Claim("digit", "digit")], measured) == []
    assert named([]) == []
    del measured["untrained"]
    (found,) = weigh_claims([PREVIOUS], measured)
    assert set(found.null_name) == {"random"}


def test_prompts_without_the_score_say_nothing() -> None:
    measured = experiment(np.random.default_rng(7), 20, 3, {0: 1})
    for scores in measured.values():
        scores["previous"][::2] = np.nan
        scores["current"][:] = np.nan
    half = {name: {"previous": of["previous"][1::2]} for name, of in measured.items()}
    found, nothing = weigh_claims([PREVIOUS, CURRENT], measured)
    (same,) = weigh_claims([PREVIOUS], half)
    assert found.n.tolist() == [10, 10, 10]
    np.testing.assert_allclose(found.excess, same.excess)
    assert np.isnan(nothing.mean).all()
    assert (nothing.p == 1).all()
    assert not nothing.holds().any()


def test_linked_prompts_count_as_one() -> None:
    """Six relations of five equal prompts: the least p is that of six, not of thirty."""
    measured = experiment(np.random.default_rng(8), 6, 2, {0: 1})
    thirty = {
        name: {score: np.repeat(v, 5, axis=0) for score, v in of.items()}
        for name, of in measured.items()
    }
    relations = {"text": [f"r{i // 5}" for i in range(30)]}
    (found,) = weigh_claims([PREVIOUS], thirty, relations)
    assert found.p[0] == 1 / 2**6


def test_one_head_alone_can_be_found_among_all() -> None:
    for n_tests in (40, 400):
        assert 1 / (n_signs(n_tests) + 1) <= LEVEL / n_tests
    assert n_signs(10**6) == MOST_SIGNS


@pytest.mark.parametrize("n_prompts", [4, 5, 7])
def test_with_few_prompts_so_many_must_hold_at_once(n_prompts: int) -> None:
    """Heads beyond their null in every prompt, as sure as so few can be: all hold, or none."""
    n_heads = 20
    for n_sure in range(1, n_heads + 1):
        own, null = np.full((n_prompts, n_heads), 0.5), np.full((n_prompts, n_heads), 0.5)
        own[:, :n_sure], null[:, :n_sure] = 0.9, 0.1
        measured = {"text": {"previous": own}} | {n: {"previous": null} for n in PREVIOUS.nulls}
        measured["untrained"] = {"previous": np.full((n_prompts, n_heads), 0.1)}
        (found,) = weigh_claims([PREVIOUS], measured)
        enough = n_sure >= least_together(n_prompts, n_heads)
        assert found.holds().sum() == (n_sure if enough else 0)


def test_the_ceiling_is_one_head_the_best_on_average() -> None:
    scores = np.array([[0.1, 0.5, np.nan], [0.9, 0.6, np.nan]])
    np.testing.assert_array_equal(ceiling(scores), [[0.5], [0.6]])


def test_excess_is_the_share_of_what_is_possible() -> None:
    found = excess(np.array([1.0, 0.5, 0.2, 1.0]), np.array([0.2, 0.2, 0.6, 1.0]))
    np.testing.assert_allclose(found, [1.0, 0.375, -1.0, np.nan])


def test_a_name_in_words() -> None:
    assert Name((), 1.0).text == "undecided"
    assert Name(("a",), 1.0).text == "a"
    assert Name(("a", "b"), 1.0).text == "mixed"


def test_claims_are_of_names_of_their_own_and_wider_ones_come_with_narrower() -> None:
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    for claim in CLAIMS:
        assert set(claim.narrower) < set(names)
        assert claim.nulls
