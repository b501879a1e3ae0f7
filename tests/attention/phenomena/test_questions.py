"""Phenomena: hand-worked patterns, and a word's attention as Clark et al. (2019) define it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensbench.attention.phenomena.questions import (
    BOTH_WAYS,
    Question,
    answers,
    compiled,
    questions,
)
from lensbench.prompts.gold import Pair
from lensbench.prompts.words import Alignment, Span

# BOS, then the words w0 w1 w2 w3, of one token but w1 of two, and a full stop.
POSITIONS = [(1,), (2, 3), (4,), (5,)]
N_TOKENS = 7


def alignment(positions: list[tuple[int, ...]]) -> Alignment:
    return Alignment([Span(2 * i, 2 * i + 1) for i in range(len(positions))], positions, [])


WORDS = alignment(POSITIONS)


def looking(*rows: dict[int, float]) -> torch.Tensor:
    """A head's pattern: what each token looks at; one that is not named looks at the first."""
    pattern = torch.zeros(1, N_TOKENS, N_TOKENS)
    for query, row in enumerate(rows):
        for key, value in (row or {0: 1.0}).items():
            pattern[0, query, key] = value
    return pattern


def right(pattern: torch.Tensor, asked: list[Question], words: Alignment = WORDS) -> list[bool]:
    return answers(pattern, compiled(asked, words, pattern.shape[-1])).right[:, 0].tolist()


def test_attention_to_a_word_is_summed_over_its_tokens() -> None:
    """w3 gives w0 .35, and each token of w1 .2: together more."""
    (asked,) = questions([Pair("subject-verb", 1, 3)], WORDS)
    assert (asked.query, asked.gold, asked.candidates) == (3, 1, (0, 1, 2))
    pattern = looking({}, {}, {}, {}, {}, {0: 0.25, 1: 0.35, 2: 0.2, 3: 0.2}, {})
    assert right(pattern, [asked]) == [True]


def test_attention_from_a_word_is_the_mean_over_its_tokens() -> None:
    """The tokens of w1 give w0 .7 and .1, w2 .3 and .5, the first token the rest: .4 against .4."""
    (asked, _) = questions([Pair("subject-verb", 1, 0)], WORDS, BOTH_WAYS)
    rows = [{}, {}, {1: 0.7, 4: 0.3}, {0: 0.4, 1: 0.1, 4: 0.5}, {}, {}, {}]
    assert right(looking(*rows), [asked]) == [False]  # alike is no answer
    rows[3] = {0: 0.3, 1: 0.2, 4: 0.5}
    assert right(looking(*rows), [asked]) == [True]


def test_itself_bos_and_punctuation_are_no_answers() -> None:
    (asked,) = questions([Pair("subject-verb", 2, 3)], WORDS)
    pattern = looking({}, {}, {}, {}, {}, {0: 0.5, 5: 0.4, 4: 0.07, 1: 0.03}, {})
    assert right(pattern, [asked]) == [True]
    (asked, _) = questions([Pair("subject-verb", 2, 3)], WORDS, BOTH_WAYS)
    pattern = looking({}, {}, {}, {}, {0: 0.3, 4: 0.3, 5: 0.15, 1: 0.05, 6: 0.2}, {}, {})
    assert right(pattern, [asked]) == [True]


def test_the_right_word_against_the_distractor_alone() -> None:
    """w2 gets most, but of w1 (right) and w0 (distractor) w1 gets more."""
    asked = questions([Pair("subject-verb", 1, 3, 0), Pair("verb-object", 3, 1)], WORDS)
    pattern = looking({}, {}, {}, {}, {}, {0: 0.1, 1: 0.1, 2: 0.2, 4: 0.6}, {})
    found = answers(pattern, compiled(asked, WORDS, N_TOKENS))
    assert found.right[:, 0].tolist() == [False, False]
    assert found.above_distractor[0].tolist() == [1.0]
    assert math.isnan(found.above_distractor[1])


def test_a_causal_model_is_asked_at_the_later_word_whichever_it_is() -> None:
    subject_first, verb_first = Pair("subject-verb", 1, 3), Pair("subject-verb", 3, 1)
    a, b = questions([subject_first, verb_first], WORDS)
    assert (a.query, a.gold) == (b.query, b.gold) == (3, 1)
    assert a.offset == -2
    assert [subject_first.head_first, verb_first.head_first] == [False, True]


def test_both_ways_are_asked_of_an_encoder_and_the_distractor_is_of_the_earlier_word() -> None:
    to_head, to_dependent = questions([Pair("subject-verb", 1, 3, 0)], WORDS, BOTH_WAYS)
    assert (to_head.query, to_head.gold, to_head.distractor) == (1, 3, None)
    assert (to_dependent.query, to_dependent.gold, to_dependent.distractor) == (3, 1, 0)
    assert to_head.candidates == (0, 2, 3)
    assert [to_head.offset, to_dependent.offset] == [2, -2]


def test_what_cannot_be_asked_is_not() -> None:
    pairs = [Pair("subject-verb", 0, 3), Pair("subject-verb", 1, 3), Pair("subject-verb", 2, 3)]
    without_bos = alignment([(0,), (1, 2), (3,), (4,)])
    assert [one.gold for one in questions(pairs, without_bos)] == [1, 2]  # w0 is the sink
    unaligned = alignment([(1,), (), (4,), (5,)])
    assert [one.gold for one in questions(pairs, unaligned)] == [0, 2]
    assert questions(pairs, alignment([(1,), (2, 3), (4,), ()])) == []
    assert questions([Pair("determiner-noun", 0, 1)], WORDS) == []  # nothing else to look at


@given(st.integers(0, 10_000))
def test_answers_are_those_of_words_one_by_one(seed: int) -> None:
    """Against plain loops over tokens, for many heads and words of one to three tokens."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, 4, size=6)).tolist()
    words = alignment([tuple(range(*both)) for both in itertools.pairwise([0, *ends])])
    n = ends[-1]
    pattern = torch.rand(3, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    pattern = (pattern.tril() / pattern.tril().sum(-1, keepdim=True)).float()
    pairs = [Pair("x", 1, 4, 2), Pair("x", 5, 2, 1), Pair("x", 3, 4)]
    asked = questions(pairs, words)
    found = answers(pattern, compiled(asked, words, n))
    for row, one in enumerate(asked):
        for head in range(3):
            given_to = {}
            for word in one.candidates:
                each = [
                    sum(float(pattern[head, q, k]) for k in words.positions[word])
                    for q in words.positions[one.query]
                ]
                given_to[word] = sum(each) / len(each)
            best = max(given_to, key=lambda word: given_to[word])
            assert bool(found.right[row, head]) == (best == one.gold)
            if one.distractor is not None:
                above = given_to[one.gold] > given_to[one.distractor]
                assert bool(found.above_distractor[row, head]) == above
