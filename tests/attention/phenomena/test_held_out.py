"""Chosen on one half, tested on the other: a planted head is found, and luck does not last."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lensbench.attention.phenomena.held_out import held_out
from lensbench.attention.phenomena.questions import Question, answers, compiled, questions
from lensbench.prompts.gold import Pair
from lensbench.prompts.words import Alignment, Span
from lensbench.stats.halves import halves

N_SENTENCES, N_WORDS = 60, 9


def sentence(rng: np.random.Generator) -> tuple[list[Question], Alignment]:
    """Two pairs of words at any distance, behind a BOS."""
    words = Alignment([Span(i, i + 1) for i in range(N_WORDS)], [(i,) for i in range(1, 10)], [])
    later = rng.choice(np.arange(2, N_WORDS), 2, replace=False).tolist()
    pairs = [Pair("subject-verb", word, int(rng.integers(word))) for word in later]
    return questions(pairs, words), words


def attention(
    rng: np.random.Generator, asked: list[Question], planted: int | None, n_heads: int
) -> torch.Tensor:
    """Random causal attention; the planted head looks at the right word."""
    logits = torch.from_numpy(rng.normal(size=(n_heads, N_WORDS + 1, N_WORDS + 1)))
    ahead = torch.ones(N_WORDS + 1, N_WORDS + 1).triu(1).bool()
    pattern = logits.masked_fill(ahead, -torch.inf).softmax(-1).float()
    for one in asked if planted is not None else []:
        pattern[planted, one.query + 1] = 0
        pattern[planted, one.query + 1, one.gold + 1] = 1
    return pattern


def study(
    seed: int, planted: int | None = None, n_heads: int = 144
) -> tuple[np.ndarray, np.ndarray, list[str], float]:
    """Right answers, offsets, sentence of each question, and the accuracy of guessing."""
    rng = np.random.default_rng(seed)
    right, offsets, names, chances = [], [], [], []
    for number in range(N_SENTENCES):
        asked, words = sentence(rng)
        pattern = attention(rng, asked, planted, n_heads)
        found = answers(pattern, compiled(asked, words, N_WORDS + 1))
        right.append(found.right.numpy())
        offsets += [one.offset for one in asked]
        names += [f"s{number}"] * len(asked)
        chances += [1 / len(one.candidates) for one in asked]
    return np.concatenate(right), np.array(offsets), names, float(np.mean(chances))


def nothing(right: np.ndarray) -> np.ndarray:
    return np.full(right.shape, np.nan)


def test_a_planted_head_is_found_and_right_on_the_other_half() -> None:
    right, offsets, names, _ = study(0, planted=77)
    untrained, *_ = study(0)  # the same but for the planted head
    found = held_out(right, offsets, names, nothing(right), untrained)
    assert found is not None
    assert found.head.which == 77
    assert found.head.accuracy.value == 1.0
    assert found.head.accuracy.low is not None and found.head.accuracy.low > 0.85
    assert found.over_offset.low is not None and found.over_offset.low > 0.3
    assert found.over_untrained is not None
    assert found.over_untrained.low is not None and found.over_untrained.low > 0.3


def test_luck_is_gone_on_the_other_half() -> None:
    """Of 144 heads that attend at random the best looks far better than chance, where chosen."""
    found = [(held_out(r, o, n, nothing(r)), chance) for r, o, n, chance in map(study, range(20))]
    first = np.mean([one.head.on_first_half - chance for one, chance in found if one])
    second = [one.head.accuracy.value - chance for one, chance in found if one]
    error = np.std(second, ddof=1) / len(second) ** 0.5
    assert first > 0.08
    assert abs(np.mean(second)) < 3 * error
    assert first > np.mean(second) + 10 * error


def test_intervals_of_a_chosen_head_cover_chance_as_often_as_they_say() -> None:
    within = 0
    for seed in range(40):
        right, offsets, names, chance = study(100 + seed, n_heads=24)
        found = held_out(right, offsets, names, nothing(right))
        assert found is not None and found.head.accuracy.low is not None
        within += found.head.accuracy.low <= chance <= (found.head.accuracy.high or 1)
    assert within >= 35  # 38 expected; 34 or fewer in 5 % of worlds


def test_the_best_offset_is_that_of_most_pairs_of_the_first_half() -> None:
    names = [f"s{i}" for i in range(40)]
    first, second = halves(names, seed=3) or ([], [])
    offsets = np.full(40, -1)
    offsets[first[:8]] = -2
    offsets[second] = -2
    right = np.zeros((40, 5), bool)
    found = held_out(right, offsets, names, nothing(right), seed=3)
    assert found is not None
    assert found.offset.which == -1
    assert found.offset.on_first_half == pytest.approx(12 / 20)
    assert found.offset.accuracy.value == 0.0
    assert found.head.which == 0  # all alike: the first


def test_halves_are_of_whole_sentences_and_the_same_for_the_same_seed() -> None:
    names = [f"s{i // 3}" for i in range(61)]
    first, second = halves(names, seed=5) or ([], [])
    again, _ = halves(names, seed=5) or ([], [])
    other, _ = halves(names, seed=6) or ([], [])
    assert sorted([*first, *second]) == list(range(61))
    assert not {names[i] for i in first} & {names[i] for i in second}
    assert first.tolist() == again.tolist() != other.tolist()
    assert len({names[i] for i in first}) == 10


def test_too_few_sentences_are_not_halved() -> None:
    right, names = np.ones((6, 2), bool), ["a", "a", "b", "b", "c", "c"]
    assert held_out(right, np.full(6, -1), names, nothing(right)) is None


def test_the_distractor_is_compared_where_there_is_one() -> None:
    names = [f"s{i}" for i in range(40)]
    right = np.ones((40, 3), bool)
    above = np.full((40, 3), np.nan)
    _, second = halves(names, seed=0) or ([], [])
    above[second[:12], 0] = [1.0] * 9 + [0.0] * 3
    found = held_out(right, np.full(40, -1), names, above)
    assert found is not None
    assert (found.above_distractor.value, found.above_distractor.n) == (0.75, 12)
    none = held_out(right, np.full(40, -1), names, nothing(right))
    assert none is not None
    assert none.above_distractor.value is None
    assert none.above_distractor.reason == "no sentence has a distractor"
