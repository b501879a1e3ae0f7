"""Duplicates, leaks and splits, against comparing each row with each."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lensbench.checkpoints.open import open_tokenizer
from lensbench.errors import InputProblems, ModelError
from lensbench.quantized.data.check import matches
from lensbench.quantized.data.lengths import quantiles, token_lengths
from lensbench.quantized.data.near import near_pairs, normalise
from lensbench.quantized.data.pairs import Pair, PairSet
from lensbench.quantized.data.split import split
from tests.harness.tiny import Case

SHARES = {"train": 0.8, "eval": 0.1, "test": 0.1}
LONG = "The library was opened by the mayor in the spring of the year after the great flood. "


def pair_set(name: str, *rows: tuple[str, str], group: str | None = None) -> PairSet:
    pairs = [
        Pair(f"{name}{i}", question, response, row=i, group=group)
        for i, (question, response) in enumerate(rows, start=1)
    ]
    return PairSet(name, "", pairs, [])


def found(data: PairSet, *against: PairSet) -> list[tuple[str, str, str]]:
    return [(m.kind, m.first, m.second) for m in matches(data, against)]


# --- near duplicates ----------------------------------------------------------------------------


def by_hand(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """Each with each."""
    sets = [
        {text[i : i + 5] for i in range(len(text) - 4)} or {text} for text in map(normalise, texts)
    ]
    similarity = {
        (i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j])
        for i, j in itertools.combinations(range(len(texts)), 2)
    }
    return {pair: value for pair, value in similarity.items() if value >= threshold}


@given(
    st.lists(st.text("ab ", max_size=24), max_size=25),
    st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]),
)
@example(["", "", "a"], 0.8)
def test_near_pairs_are_exactly_those_of_comparing_each_with_each(
    texts: list[str], threshold: float
) -> None:
    quick = {(i, j): value for i, j, value in near_pairs(texts, threshold)}
    assert quick == by_hand(texts, threshold)


def test_near_pairs_of_many_blocks_are_exact_too() -> None:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij", k=5)) for _ in range(300)]
    texts = [" ".join(chance.choices(words, k=chance.randint(1, 6))) for _ in range(1100)]
    texts += [text + "!" + chance.choice("xyz") for text in texts[:100]]
    expected = by_hand(texts, 0.8)
    assert len(expected) > 50
    assert {(i, j): value for i, j, value in near_pairs(texts)} == expected


@pytest.mark.slow
def test_fifty_thousand_texts_take_about_a_minute() -> None:
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(20_000)]
    rank = list(itertools.accumulate(1 / (k + 1) for k in range(20_000)))  # Zipf's law
    texts = [
        "What does this mean? " + " ".join(chance.choices(words, cum_weights=rank, k=40))
        for _ in range(49_000)
    ]
    copies = {(i, 49_000 + i) for i in range(1000)}
    started = time.process_time()
    near = {(i, j) for i, j, _ in near_pairs(texts + [f"{text} x" for text in texts[:1000]])}
    assert near == copies
    assert time.process_time() - started < 90


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What  is Rust?", "what is rust", True),
        ("Ｗhat is ﬁre", "What is fire.", True),  # full width and ligature
        ("What is 3 + 4?", "What is 3 - 4?", False),
        ("Is it 4.5", "Is it 45", False),
    ],
)
def test_case_spacing_and_the_last_stop_do_not_count(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same


# --- matches ------------------------------------------------------------------------------------


def test_each_kind_within_a_file() -> None:
    data = pair_set(
        "d",
        ("Who was it?", "Nobody."),
        ("who  was it", "nobody"),  # row 2: a duplicate of 1
        ("Who was it?", "Somebody."),  # row 3: another response
        (LONG + "Where?", "In Rome."),
        (LONG + "Where then?", "In Rome."),  # row 5: nearly row 4
        ("Who was it?", "Nobody."),  # row 6: a duplicate of 1 again, not of 2
        ("Alone?", "Yes."),
    )
    assert found(data) == [
        ("duplicate", "d, row 1, id d1", "d, row 2, id d2"),
        ("other response", "d, row 1, id d1", "d, row 3, id d3"),
        ("duplicate", "d, row 1, id d1", "d, row 6, id d6"),
        ("near duplicate", "d, row 4, id d4", "d, row 5, id d5"),
    ]


def test_each_kind_of_leak() -> None:
    train = pair_set("train", ("Who was it?", "Nobody."), (LONG, "In Rome."), ("Alone?", "Yes."))
    test = pair_set(
        "test",
        ("who was it", "The gardener."),  # the same question leaks, whatever the response
        (LONG + "Where?", "In Rome."),
        ("Another?", "No."),
        ("Another?", "No."),  # its own duplicates are a matter of checking that file
        ("Who was it?", "Nobody."),  # but every row that leaks is named
    )
    assert found(train, test) == [
        ("leak", "train, row 1, id train1", "test, row 1, id test1"),
        ("leak", "train, row 1, id train1", "test, row 5, id test5"),
        ("near leak", "train, row 2, id train2", "test, row 2, id test2"),
    ]


def test_a_leak_is_found_in_every_file() -> None:
    train = pair_set("train", ("Who?", "Nobody."))
    others = [pair_set(name, ("Who?", "Nobody.")) for name in ("eval", "test")]
    assert [kind for kind, *_ in found(train, *others)] == ["leak", "leak"]


def test_a_group_in_two_files_is_found_once() -> None:
    train = pair_set("train", ("One?", "1."), ("Two?", "2."), group="numbers")
    test = pair_set("test", ("Three?", "3."), ("Four?", "4."), group="numbers")
    assert found(train, test) == [
        ("shared group", "train, row 1, id train1", "test, row 1, id test1, group numbers")
    ]
    ungrouped = pair_set("train", ("One?", "1.")), pair_set("test", ("Three?", "3."))
    assert found(*ungrouped) == []


def test_a_row_repeated_a_thousand_times_is_reported_that_often() -> None:
    data = pair_set("d", *[(LONG, "Yes.")] * 1001)
    assert len(found(data)) == 1000


# --- lengths ------------------------------------------------------------------------------------


def test_lengths_are_those_of_the_tokenizer(gpt2: Case) -> None:
    tokenizer = open_tokenizer(gpt2.folder)
    pairs = [Pair("a", "Name a river.", "The Rhine."), Pair("b", "Sort.", "1, 2", input="2, 1")]
    framed = [f"### Instruction:\n{pair.question}\n\n### Response:\n" for pair in pairs]
    expected = [
        [len(tokenizer(prompt).input_ids), len(tokenizer(pair.response).input_ids) + 1]
        for prompt, pair in zip(framed, pairs, strict=True)
    ]
    assert token_lengths(pairs, tokenizer, "alpaca").tolist() == expected


def test_a_missing_chat_template_is_said(gpt2: Case) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        token_lengths([Pair("a", "b", "c")], open_tokenizer(gpt2.folder), "chat")


def test_a_template_that_refuses_a_pair_names_it(gpt2: Case) -> None:
    tokenizer = open_tokenizer(gpt2.folder)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(InputProblems, match=r"row 3, id a: .*no system role"):
        token_lengths([Pair("a", "b", "c", system="d", row=3)], tokenizer, "chat")


def test_quantiles_of_a_worked_example() -> None:
    lengths = np.array([[1, 10], [2, 20], [3, 30]])
    assert quantiles(lengths)["prompt"] == {
        "least": 1.0,
        "5 %": 1.1,
        "median": 2.0,
        "95 %": 2.9,
        "most": 3.0,
    }
    assert quantiles(lengths)["both"]["median"] == 22.0


# --- splits -------------------------------------------------------------------------------------


def distinct(n: int, start: int = 0) -> list[Pair]:
    return [Pair(f"p{i}", f"Question {i * 7919}?", f"{i * 104729}", row=i) for i in range(start, n)]


def places(parts: dict[str, list[Pair]]) -> dict[str, str]:
    return {pair.id: name for name, part in parts.items() for pair in part}


def test_the_shares_are_met_on_average() -> None:
    parts = split(distinct(5000), SHARES)
    for name, share in SHARES.items():
        # Binomial: five standard deviations.
        assert abs(len(parts[name]) - 5000 * share) < 5 * (5000 * share * (1 - share)) ** 0.5


@given(st.integers(1, 200), st.integers(0, 5))
def test_rows_added_at_the_end_or_anywhere_do_not_move_others(n_new: int, seed: int) -> None:
    before = places(split(distinct(300), SHARES, seed))
    for rows in (distinct(300 + n_new), distinct(300 + n_new)[::-1]):
        after = places(split(rows, SHARES, seed))
        assert {item: after[item] for item in before} == before


def test_rows_added_to_groups_follow_them() -> None:
    rows = [Pair(f"p{i}", f"Question {i * 7919}?", f"{i}", group=f"g{i % 40}") for i in range(400)]
    before = places(split(rows[:200], SHARES))
    for more in (rows, rows[::-1]):
        after = places(split(more, SHARES))
        assert {item: after[item] for item in before} == before
    for i in range(40):
        assert len({after[f"p{j}"] for j in range(i, 400, 40)}) == 1


def test_the_seed_matters_and_nothing_else_does() -> None:
    one, again, other = (places(split(distinct(300), SHARES, seed)) for seed in (0, 0, 1))
    assert one == again
    assert one != other


@given(st.integers(0, 20))
def test_nothing_leaks_from_a_split(seed: int) -> None:
    chance = random.Random(seed)
    rows = []
    for i in range(200):
        base = chance.choice([f"{LONG} {chance.randint(0, 30)}", f"Question {i * 7919}?"])
        group = chance.choice([None, None, f"g{chance.randint(0, 30)}"])
        rows.append(Pair(f"p{i}", base, chance.choice(["Yes.", f"{i}"]), row=i, group=group))
    try:
        parts = split(rows, SHARES, seed)
    except InputProblems:
        return  # so much is tied together that a split stays empty
    sets = {name: PairSet(name, "", part, []) for name, part in parts.items()}
    for one, other in itertools.permutations(sets, 2):
        kinds = {kind for kind, *_ in found(sets[one], sets[other])}
        assert not kinds & {"leak", "near leak", "shared group"}


def test_every_row_is_in_one_split_and_in_its_order() -> None:
    rows = distinct(500)
    parts = split(rows, SHARES)
    assert sorted(pair.row or 0 for part in parts.values() for pair in part) == list(range(500))
    assert all(part == sorted(part, key=lambda pair: pair.row or 0) for part in parts.values())


def test_a_split_of_no_share_gets_nothing() -> None:
    parts = split(distinct(200), {"train": 0.9, "eval": 0.0, "test": 0.1})
    assert parts["eval"] == []


@pytest.mark.parametrize(
    ("shares", "what"),
    [
        ({"train": 0.8, "eval": 0.1, "test": 0.2}, "the shares sum to 1.1"),
        ({"train": 1.2, "eval": -0.1, "test": -0.1}, "a share is not in 0..1"),
        ({"train": float("nan"), "eval": 0.5, "test": 0.5}, "a share is not in 0..1"),
    ],
)
def test_wrong_shares_are_refused(shares: dict[str, float], what: str) -> None:
    with pytest.raises(InputProblems, match=what):
        split(distinct(50), shares)


def test_a_split_without_rows_is_refused() -> None:
    one_group = [Pair(f"p{i}", f"Question {i}?", f"{i}", group="all") for i in range(9)]
    with pytest.raises(InputProblems, match="none of the 1 bunches") as caught:
        split(one_group, SHARES)
    assert len(caught.value.problems) == 2
