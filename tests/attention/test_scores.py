"""Scores of heads: perfect heads made by hand, closed forms, and TransformerLens' head detector."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import head_detector as peer

from lensbench.attention import scores
from lensbench.attention.facts import KINDS, Facts, TokenKinds, looking_back
from lensbench.attention.scores import head_scores
from lensbench.records.schema.attention import SCORES
from tests.harness.tiny import tokenizer

# The tokens from the third on stand in pairs that are far apart, and each kind of token is alone.
IDS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 2, 3, 4, 11, 12, 13, 14]
N = len(IDS)
PLACES = {"punctuation": 5, "capital": 6, "digit": 7, "separator": 8}
FACTS = Facts(
    torch.tensor(IDS),
    {kind: torch.arange(N) == PLACES[kind] for kind in KINDS},
    looking_back(N),
)
# Where a perfect head looks, by query; elsewhere at the first token.
LOOKS = {
    "current_token": {q: q for q in range(N)},
    "previous_token": {q: q - 1 for q in range(1, N)},
    "local_window": {q: max(q - 3, 1) for q in range(2, N)},
    "first_token": {},
    "duplicate_token": {11: 2, 12: 3, 13: 4},
    "induction": {11: 3, 12: 4, 13: 5},
    "prefix_matching": {11: 3, 12: 4, 13: 5},
    **{kind: dict.fromkeys(range(place + 1, N), place) for kind, place in PLACES.items()},
}
# What one head scores in besides, because one thing is a case of another.
ALSO = {
    ("previous_token", "local_window"),
    ("induction", "prefix_matching"),
    ("prefix_matching", "induction"),
}


def looking(looks: dict[int, int]) -> torch.Tensor:
    pattern = torch.zeros(N, N)
    for query in range(N):
        pattern[query, looks.get(query, 0)] = 1
    return pattern


PERFECT = head_scores(torch.stack([looking(own) for own in LOOKS.values()]), FACTS)


def test_every_score_of_the_schema_is_made() -> None:
    assert set(PERFECT) == set(SCORES) == {*scores.OF_KEYS, *scores.OF_ROWS}


@pytest.mark.parametrize("name", LOOKS)
def test_a_perfect_head_scores_one_in_what_it_does_and_in_nothing_else(name: str) -> None:
    """Some of another's targets may happen to be where it looks: never all of them."""
    head = list(LOOKS).index(name)
    found = {other: float(PERFECT[other][head]) for other in LOOKS}
    assert found.pop(name) == 1
    ones = {other for other, value in found.items() if value == 1}
    assert ones == {other for one, other in ALSO if one == name}
    apart = {"current_token", "previous_token", "first_token"} - {name}
    if name in ("current_token", "previous_token", "first_token"):
        assert [found[other] for other in apart] == [0, 0]


def test_how_far_a_head_looks_back_is_a_share_of_how_far_there_is() -> None:
    found = dict(zip(LOOKS, PERFECT["mean_distance"].tolist(), strict=True))
    assert found["first_token"] == 1
    assert found["current_token"] == 0
    expected = sum(1 / q for q in range(2, N)) / (N - 2)
    assert found["previous_token"] == pytest.approx(expected)
    assert PERFECT["entropy_share"].tolist() == [0] * len(LOOKS)


def test_even_attention_has_all_the_entropy_there_can_be_in_a_window_too() -> None:
    for window in (None, 4):
        allowed = looking_back(N, window)
        facts = Facts(FACTS.ids, FACTS.kinds, allowed)
        even = allowed.float() / allowed.sum(-1, keepdim=True)
        found = head_scores(even[None], facts)
        assert float(found["entropy_share"]) == pytest.approx(1)
        assert float(found["current_token"]) == pytest.approx(
            sum(1 / min(q + 1, window or N) for q in range(2, N)) / (N - 2)
        )
    half = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0.5, 0.5]]])
    facts = Facts(torch.arange(4), {kind: torch.zeros(4).bool() for kind in KINDS}, looking_back(4))
    expected = math.log(2) / math.log(4) / 2  # of two queries the last alone has any
    assert float(head_scores(half, facts)["entropy_share"]) == pytest.approx(expected)


def test_what_a_window_hides_is_no_target() -> None:
    """The first token is in reach of two queries that count, the duplicates of none."""
    facts = Facts(FACTS.ids, FACTS.kinds, looking_back(N, 4))
    found = head_scores(looking(LOOKS["first_token"])[None] * facts.allowed, facts)
    assert float(found["first_token"]) == 1
    assert math.isnan(found["duplicate_token"])


def test_what_a_prompt_does_not_have_is_not_scored() -> None:
    none = {kind: torch.zeros(4).bool() for kind in KINDS}
    found = head_scores(torch.eye(4)[None], Facts(torch.arange(4), none, looking_back(4)))
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {"duplicate_token", "induction", "prefix_matching", *KINDS}


@given(st.lists(st.integers(1, 5), min_size=4, max_size=24), st.integers(0, 2**16))
def test_transformer_lens_head_detector_agrees(ids: list[int], seed: int) -> None:
    """Its score is a share of all attention, of all queries; ours a mean over those with a target.

    Its induction pattern is what Olsson et al. call prefix matching. Where a token stands beside
    itself, the token after the earlier one is the query: that, and the first token, it counts too.
    """
    tokens = torch.tensor([0, *ids])
    n = len(tokens)
    pattern = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)).tril()
    pattern /= pattern.sum(-1, keepdim=True)
    kinds = {kind: torch.zeros(n).bool() for kind in KINDS}
    found = head_scores(pattern[None], Facts(tokens, kinds, looking_back(n)))
    for ours, theirs in {
        "previous_token": peer.get_previous_token_head_detection_pattern,
        "duplicate_token": peer.get_duplicate_token_head_detection_pattern,
        "prefix_matching": peer.get_induction_head_detection_pattern,
    }.items():
        detection = theirs(tokens[None]).tril(0 if ours == "duplicate_token" else -1)
        detection[1] = 0  # the second token: all that it can look at is the first and itself
        n_queries = int(detection.any(-1).sum())
        share = peer.compute_head_attention_similarity_score(
            pattern,
            detection,
            exclude_bos=False,
            exclude_current_token=False,
            error_measure="mul",
        )
        if n_queries:
            assert float(found[ours]) == pytest.approx(share * n / n_queries, abs=1e-5), ours
        else:
            assert math.isnan(found[ours])


def test_kinds_of_tokens_are_those_of_their_text() -> None:
    words = tokenizer("bytes+bos", ["Berlin, 7.", "the end"])
    ids = words("Berlin, 7.\n").input_ids
    texts = [words.decode([i]) for i in ids]
    kinds = TokenKinds(words)(ids)
    of = {
        kind: {text for text, is_of in zip(texts, own.tolist(), strict=True) if is_of}
        for kind, own in kinds.items()
    }
    assert of["punctuation"] == {",", "."}
    assert of["separator"] == {"<s>", ".", "\n"}
    assert all("7" in text for text in of["digit"]) and of["digit"]
    assert {text.strip()[0] for text in of["capital"]} == {"B"}


def test_what_a_sink_takes_is_at_no_distance() -> None:
    """gpt-oss: a head that gives half to its sink looks as far back as without one."""
    whole = torch.stack([looking(LOOKS["first_token"]), looking(LOOKS["previous_token"])])
    alone, beside = (head_scores(share * whole, FACTS) for share in (1, 0.5))
    for name in ("mean_distance", "entropy_share"):
        assert beside[name].tolist() == pytest.approx(alone[name].tolist())
    assert beside["first_token"].tolist() == pytest.approx((alone["first_token"] / 2).tolist())
    assert float(beside["mean_distance"][0]) == 1
